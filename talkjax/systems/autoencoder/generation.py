"""What an autoencoder keeps: frames of records, pictures and videos, encoded and decoded."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UsageError
from talkjax.media import picture, video
from talkjax.metrics.suites import Generated, Truth
from talkjax.nn.autoencoder import Autoencoder
from talkjax.systems import Chunk, FileBatch, RecordBatch, Request, Video, reconstruction_scores
from talkjax.systems.reconstruction_scores import CHUNK


@dataclasses.dataclass(frozen=True)
class Conditions:
  """Frames to encode and decode.

  Attributes:
    frames: uint8 [b, h, w, 3], one after another, of all videos at the same time.
    fps: frames per second.
  """

  frames: Callable[[], Iterable[np.ndarray]]
  fps: float


def generate(params, conditions: Conditions, seeds, progress=None, *, net: Autoencoder) -> Iterator[Chunk]:
  """The frames as they are decoded from the mean of the posterior, or from codes. `seeds` are not used."""
  source, size = iter(conditions.frames()), 0
  while frames := list(itertools.islice(source, CHUNK)):
    size = size or len(frames)  # one compiled shape: a last chunk that is shorter is filled up
    stacked = np.stack([frames[min(i, len(frames) - 1)] for i in range(size)], axis=1)  # [b, f, h, w, 3]
    made, _ = reconstruct(net, params, stacked.reshape(-1, *stacked.shape[2:]))
    yield Chunk(made.reshape(stacked.shape)[:, : len(frames)], fps=conditions.fps)


def reconstruct(net: Autoencoder, params, images: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Images [n, h, w, 3] uint8, encoded and decoded.

  Returns:
    The images, and of each `latent_square` [n], the mean square of its latents; of a VQ autoencoder `codes` [n, h' w'].
  """
  made, about = _compiled(net)(params['autoencoder'], images)
  return picture.to_uint8(made), {name: np.asarray(value) for name, value in about.items()}


@functools.cache
def _compiled(net: Autoencoder):
  def run(params, images):
    latents = net.apply({'params': params}, picture.to_float(images), method='encode')
    about = {'latent_square': jnp.square(latents.astype(jnp.float32)).mean((1, 2, 3))}
    if net.codebook:
      codes = net.apply({'params': params}, latents / net.scaling, method='quantise')[1]
      about['codes'] = codes.reshape(len(images), -1)
    return net.apply({'params': params}, latents, method='decode'), about

  return jax.jit(run)


def from_records(
  clips: Sequence[Record],
  *,
  config,
  speech: Sequence[Record] | None = None,
  num_frames: int | None = None,
  settings: Mapping[str, Sequence[float]] | None = None,
) -> RecordBatch:
  """Frames of records; a shorter one holds its last.

  Args:
    clips: the records.
    config: the system's.
    speech: not used.
    num_frames: the most frames of each.
    settings: none.
  """
  count = num_frames or max(len(c.frames) for c in clips)
  truths = tuple(reconstruction_scores.truth(clip, count, config.size) for clip in clips)

  def frames():
    for i in range(count):
      yield np.stack([t.frames[min(i, len(t.frames) - 1)] for t in truths])

  return RecordBatch(Conditions(frames, clips[0].fps), truths)


def predict(
  params, clips: Sequence[Record], speech: Sequence[Record] | None = None, *, net: Autoencoder, config
) -> tuple[list[Truth], list[Generated]]:
  """The frames of records, and what is kept of them; `speech` is not used."""
  return reconstruction_scores.predict(clips, config.size, lambda images, first: reconstruct(net, params, images))


def from_files(params, request: Request, *, config) -> list[FileBatch]:
  """The centre square of a picture or of every frame of a video, resized to `config.size`.

  Raises:
    UsageError: neither or both are given, several pictures, or an output of the other kind.
    UserError: a file cannot be read.
  """
  images, source = request.inputs.get('image', ()), request.inputs.get('video')
  if bool(images) == bool(source):
    raise UsageError('autoencoder takes either --image or --video: give one of them')
  if len(images) > 1:
    raise UsageError(f'--image: {len(images)} pictures; autoencoder takes one at a time')
  is_picture = request.output.lower().endswith('.png')
  if is_picture != bool(images):
    wanted = 'a .png' if images else 'an .mp4'
    raise UsageError(f'--output={request.output}: expected {wanted} for --{"image" if images else "video"}')
  size = (config.size, config.size)
  if images:
    square = picture.fit_square(picture.read(images[0]), config.size)
    return [_batch(Video(request.output, 1, 25.0, size), lambda: iter([square[None]]))]
  info = video.probe(source)
  frames = lambda: (picture.fit_square(f, config.size)[None] for f in video.read_frames(source))
  sound = source if info.has_audio else None
  return [_batch(Video(request.output, None, info.fps, size, sound), frames)]


def _batch(file: Video, frames: Callable) -> FileBatch:
  return FileBatch((file,), 1, lambda: Conditions(frames, file.fps))

"""What an autoencoder keeps: frames of records, pictures and videos, encoded and decoded."""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UsageError
from talkjax.media import picture, video
from talkjax.metrics.suites import Generated, Truth
from talkjax.nn.autoencoder import Autoencoder
from talkjax.systems import Chunk, FileBatch, RecordBatch, Request, Video, clips, reconstruction_scores


def generate(params, conditions: clips.Frames, seeds, progress=None, *, net: Autoencoder) -> Iterator[Chunk]:
  """The frames as they are decoded from the mean of the posterior, or from codes. `seeds` are not used."""

  def make(frames: np.ndarray) -> np.ndarray:
    return reconstruct(net, params, frames.reshape(-1, *frames.shape[2:]))[0].reshape(frames.shape)

  return clips.change(conditions, make)


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


def from_records(records: Sequence[Record], speech=None, num_frames=None, settings=None, *, config) -> RecordBatch:
  """Frames of records, see `System.from_records`; `speech` and `settings` are not used."""
  return clips.of_records(records, config.size, num_frames)


def predict(
  params, records: Sequence[Record], speech: Sequence[Record] | None = None, *, net: Autoencoder, config
) -> tuple[list[Truth], list[Generated]]:
  """The frames of records, and what is kept of them; `speech` is not used."""
  return reconstruction_scores.predict(records, config.size, lambda images, first: reconstruct(net, params, images))


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
  return FileBatch((file,), 1, lambda: clips.Frames(frames, file.fps))

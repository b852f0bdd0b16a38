"""Enlarges frames: of corpus records, of a video file, or of what another system generated."""

import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.corpora.records import Record
from talkjax.diffusion import samplers
from talkjax.diffusion.noise import keyed_normal
from talkjax.errors import UserError
from talkjax.media import picture, video
from talkjax.systems import Chunk, FileBatch, RecordBatch, Request, Video, clips, join
from talkjax.systems.super_resolution import data
from talkjax.training import sharding

MAX_PIXELS = 2**22  # of an enlarged frame: the activations of more do not fit an accelerator


def make_enlarge(predict: Callable, config, table: samplers.Table) -> Callable:
  """A function that enlarges frames: (params, uint8 [b, f, h, w, 3], seeds [b]) -> uint8 [b, f, h', w', 3].

  All frames of a video have the same noise, at every step. It is compiled once per shape.
  """
  scale, channels = config.scale, 3
  pixels = config.model.patch_size * 2 ** (len(config.model.multipliers) - 1)
  multiple = math.lcm(pixels, scale) // scale  # of the sides of small frames

  @jax.jit
  def run(params, frames, seeds):
    b, f, h, w, _ = frames.shape
    low = picture.to_float(frames.astype(jnp.float32)).reshape(b * f, h, w, channels)

    def noise(index):
      one = keyed_normal(seeds, 0, index, (h * scale, w * scale, channels))  # [b, h', w', 3]
      return jnp.repeat(one, f, axis=0)

    made = samplers.sample(
      lambda x, level: predict(params, x, level, low),
      noise(config.sampler.steps),
      table,
      noise,
      target=config.diffusion.target,
      clip=1.0,
    )
    return made.reshape(b, f, h * scale, w * scale, channels)

  def enlarge(params, frames: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    h, w = frames.shape[2:4]
    place = sharding.batch_placement(params)
    padded = np.pad(frames, [(0, 0), (0, 0), (0, -h % multiple), (0, -w % multiple), (0, 0)], mode='edge')
    made = run(params, place(padded), place(np.asarray(seeds, np.uint32)))
    return picture.to_uint8(made)[:, :, : h * scale, : w * scale]

  return enlarge


def generate(
  params,
  conditions: clips.Frames,
  seeds: np.ndarray,
  progress: Callable[[float], None] | None = None,
  *,
  enlarge: Callable,
) -> Iterator[Chunk]:
  """Enlarged videos, some frames at a time.

  Args:
    params: from training.
    conditions: the small frames.
    seeds: [b] uint32, one per video.
    progress: not used: chunks come as they are generated.
    enlarge: from `make_enlarge`.
  """
  return clips.change(conditions, lambda frames: enlarge(params, frames, seeds))


def upscale(params, frames: np.ndarray, seed: int, *, enlarge: Callable) -> np.ndarray:
  """A clip, enlarged: uint8 [f, h, w, 3] -> uint8 [f, h', w', 3]. The same seed gives the same noise to other clips."""
  conditions = clips.Frames(lambda: (frame[None] for frame in frames))
  return join(generate(params, conditions, np.array([seed], np.uint32), enlarge=enlarge)).frames[0]


def from_records(records: Sequence[Record], speech=None, num_frames=None, settings=None, *, config) -> RecordBatch:
  """Records, made small, see `System.from_records`; `speech` and `settings` are not used."""
  return clips.of_records(records, config.size, num_frames, lambda frames: data.degrade(frames, config.scale))


def from_files(params, request: Request, *, config) -> list[FileBatch]:
  """The whole video, each side `config.scale` times as long, with its sound.

  Raises:
    UserError: it cannot be read, or its frames would become too large.
  """
  source, scale = request.inputs['video'], config.scale
  info = video.probe(source)
  height, width = info.height * scale, info.width * scale
  if height * width > MAX_PIXELS:
    raise UserError(
      f'--video={source} is {info.width}x{info.height} and would become {width}x{height}: expected at most '
      f'{MAX_PIXELS // scale**2} pixels a frame; give a smaller video, as the network was trained on frames of '
      f'{config.size // scale}x{config.size // scale}'
    )
  sound = source if info.has_audio else None
  file = Video(request.output, None, info.fps, (height, width), sound, info.pixel_aspect)
  frames = lambda: (frame[None] for frame in video.read_frames(source, fps=info.fps))
  return [FileBatch((file,), 1, lambda: clips.Frames(frames, info.fps))]

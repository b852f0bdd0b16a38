"""Generation with speech_edit: frame by frame, each conditioned on the one before (eq. 6)."""

import collections
from collections.abc import Callable, Iterator

import jax
import numpy as np

from talkjax.diffusion import samplers
from talkjax.diffusion.noise import keyed_normal
from talkjax.media.picture import to_uint8
from talkjax.systems import Chunk
from talkjax.systems.audio import AudioFeatures
from talkjax.systems.speech_edit import data
from talkjax.systems.speech_edit.conditions import Conditions
from talkjax.systems.speech_edit.model import paste
from talkjax.training import sharding


def make_frame_step(predict: Callable, config, table: samplers.Table):
  """The compiled function that generates the next frame of every video of a batch."""

  @jax.jit
  def step(params, frame, previous, identity, seeds, number):
    clean, region = frame['clean'], frame['mask']
    noise = lambda index: keyed_normal(seeds, number, index, clean.shape[1:])

    def denoise(y_t, level):
      return predict(params, y_t, level, {**frame, 'previous': previous, 'identity': identity})

    return samplers.sample(
      denoise,
      noise(config.sampler.steps),
      table,
      noise,
      target=config.diffusion.target,
      clip=1.0,
      constrain=lambda y: paste(y, clean, region),  # clean pixels outside the mask at every step
    )

  return step


def generate(
  params,
  conditions: Conditions,
  seeds: np.ndarray,
  progress: Callable[[float], None] | None = None,
  *,
  step: Callable,
  audio: AudioFeatures,
) -> Iterator[Chunk]:
  """Videos of a batch, one frame at a time.

  Args:
    params: from training.
    conditions: see `Conditions`.
    seeds: [b] uint32, one per video.
    progress: not used: chunks come as they are generated.
    step: from `make_frame_step`; compiled once per batch and image size, never per length.
    audio: the audio features of each frame.
  """
  features = np.stack([audio.of_sound(params, sound) for sound in conditions.sound])
  fps = conditions.sound[0].fps
  place = sharding.batch_placement(params)
  identity, seeds = place(conditions.identity), place(np.asarray(seeds, np.uint32))
  # The previous frame is the one that is nearest to a frame of training ago: at 50 frames/s, the last but one.
  recent = collections.deque(maxlen=max(1, round(fps / data.FPS)))
  for number, frame in enumerate(conditions.frames):
    condition = {name: place(value) for name, value in {**frame, 'audio': features[:, number]}.items()}
    # As in training, the frame before the first one is the first one itself, as it was filmed.
    previous = recent[0] if recent else condition['clean']
    generated = step(params, condition, previous, identity, seeds, number)
    recent.append(generated)
    yield Chunk(to_uint8(generated)[:, None], fps=fps)

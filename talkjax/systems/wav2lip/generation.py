"""Generation with wav2lip: each frame from its own crop, a reference and its own speech."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.media.picture import to_uint8
from talkjax.systems import Chunk
from talkjax.systems.audio import AudioFeatures
from talkjax.systems.wav2lip import model
from talkjax.systems.wav2lip.conditions import Conditions
from talkjax.training import sharding

FRAMES = 8  # that are generated at once


def make_predict(parts: model.Parts) -> Callable:
  """The compiled function (params, given, reference, mask, region, audio) -> [n, h, w, 3].

  Where `region` [n, h, w, 1] is 1 it is what the network draws, elsewhere what is given; both in [-1, 1].
  """

  @jax.jit
  def predict(params, given, reference, mask, region, audio):
    made = model.draw(params, parts, given, reference, mask, audio)
    return region * jnp.clip(made, -1, 1) + (1 - region) * given

  return predict


def generate(
  params,
  conditions: Conditions,
  seeds: np.ndarray,
  progress: Callable[[float], None] | None = None,
  *,
  predict: Callable,
  audio: AudioFeatures,
) -> Iterator[Chunk]:
  """Videos of a batch, FRAMES at a time.

  Args:
    params: from training.
    conditions: see `Conditions`.
    seeds: not used: the same frames and sound always give the same video.
    progress: not used: chunks come as they are generated.
    predict: from `make_predict`; compiled once per batch and image size, never per length.
    audio: the audio features of each frame.
  """
  del seeds, progress
  features = np.stack([audio.of_sound(params, sound) for sound in conditions.sound])  # [b, f, d]
  fps, place = conditions.sound[0].fps, sharding.batch_placement(params)
  waiting, start = [], 0

  def draw():
    count = len(waiting)
    frames = {name: _along(x[name] for x in waiting) for name in waiting[0]}  # [b, FRAMES, h, w, c]
    frames['audio'] = _along(features[:, i] for i in range(start, start + count))
    if conditions.reference is None:
      frames['reference'] = frames['clean']
    else:
      frames['reference'] = np.repeat(conditions.reference[:, None], FRAMES, 1)
    merge = lambda x: place(x.reshape(-1, *x.shape[2:]))
    names = ('clean', 'reference', 'mask', 'region', 'audio')
    made = to_uint8(predict(params, *(merge(frames[name]) for name in names)))
    return Chunk(np.asarray(made).reshape(len(features), FRAMES, *made.shape[1:])[:, :count], fps=fps)

  for frame in conditions.frames:
    waiting.append(frame)
    if len(waiting) == FRAMES:
      yield draw()
      start, waiting = start + FRAMES, []
  if waiting:
    yield draw()


def _along(values) -> np.ndarray:
  """Arrays [b, ...] of consecutive frames as [b, FRAMES, ...]; the last is repeated where there are fewer."""
  values = list(values)
  return np.stack(values + values[-1:] * (FRAMES - len(values)), 1)

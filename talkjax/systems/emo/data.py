"""Corpus records as training examples of emo (EMO sections 3.2 and 3.3)."""

import functools

import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.faces import measures
from talkjax.systems.portrait import reading


def read(record: Record, generator: np.random.Generator, *, config) -> dict[str, np.ndarray]:
  """Random clips of a record as training examples.

  Returns:
    As `reading.read`, and: motion [k, n, h, w, 3] float32 in [-1, 1], the frames before the clip (or
    `motion_moments`); has_motion [k] float32, 0 where the clip begins before frame n (and motion is zero); region
    [k, h, w, 1], where the face may be; speed [k, f + 2m] degrees/s, with `margin` frames on each side.

  Raises:
    UserError: as `reading.read`.
  """
  n, f, m = config.motion_frames if config.frames > 1 else 0, config.frames, config.margin
  count = len(record.frames)
  speeds = measures.head_speed(record.pose, record.fps)

  def complete(example: dict[str, np.ndarray], start: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    name = 'target' if 'target' in example else 'target_moments'
    has_motion = n > 0 and start >= n
    motion = {name.replace('target', 'motion'): np.zeros((n, *example[name].shape[1:]), example[name].dtype)}
    if has_motion:
      motion = reading.images('motion', record, range(start - n, start), config)
    region = reading.face_region(record, region_frames(start, start + f, count, generator, config), config.size)
    around = np.clip(np.arange(start - m, start + f + m), 0, count - 1)
    return {**example, **motion, 'has_motion': np.float32(has_motion), 'region': region, 'speed': speeds[around]}

  read_states = functools.partial(cached_states, record, config=config)
  return reading.read(record, generator, config=config, complete=complete, read_states=read_states)


def cached_states(record: Record, frames: np.ndarray, *, config) -> np.ndarray:
  """Cached states of all layers of wav2vec 2.0 for some frames, float16 [f, layers, d]; the ends are held."""
  from talkjax.nn.wav2vec2 import Wav2Vec2

  layers, states = config.audio.encoder.get('layers', Wav2Vec2.layers), record.features['speech']
  if states.shape[1] != layers:
    raise UserError(
      f'config.data.feature_cache={config.data.feature_cache} has {states.shape[1]} of the {layers} layers of wav2vec '
      '2.0 that emo needs: encode the corpus with --speech_layers=all --feature_cache=ANOTHER_NAME'
    )
  # Fifty a second: two per frame.
  index = np.round(frames * (50 / record.fps)).astype(int)[:, None] + np.arange(2)
  return states[np.clip(index, 0, len(states) - 1)].astype(np.float32).mean(1).astype(np.float16)


def region_frames(start: int, end: int, count: int, generator: np.random.Generator, config) -> range:
  """The clip's frames and up to `augment.region_frames` more on each side, so that regions are roomy."""
  before, after = generator.integers(0, config.augment.region_frames + 1, size=2)
  return range(max(0, start - int(before)), min(count, end + int(after)))

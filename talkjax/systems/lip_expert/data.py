"""Corpus records as training examples of the lip expert: mouths and sounds of the same time, or of different times."""

import numpy as np

from talkjax.corpora.records import Record
from talkjax.nn.lip_expert import FRAMES
from talkjax.systems import coefficients
from talkjax.systems.audio import AudioFeatures


def read(record: Record, generator: np.random.Generator, *, config, audio: AudioFeatures) -> dict[str, np.ndarray]:
  """Random five frames of a record, half of them with the sound of another time; `data.examples_per_record` on axis 0.

  Args:
    record: with cached coefficients and sound.
    generator: of the choice.
    config: of the system.
    audio: the audio features of each frame.

  Returns:
    coefficients [k, 5, c] float16; audio [k, 5, d]; in_sync [k], 1 or 0; id [k].

  Raises:
    UserError: the record has fewer than 10 frames, no sound or no coefficients.
  """
  rows, features = coefficients.rows_and_features(record, config, audio, 2 * FRAMES)
  k, starts = config.data.examples_per_record, len(rows) - FRAMES + 1
  start, in_sync = generator.integers(starts, size=k), np.arange(k) % 2 == 0
  other = np.array([out_of_sync(s, starts, generator) for s in start])
  frames = np.arange(FRAMES)
  return {
    'coefficients': rows[start[:, None] + frames],
    'audio': features[np.where(in_sync, start, other)[:, None] + frames],
    'in_sync': in_sync.astype(np.float32),
    'id': np.full(k, record.id),
  }


def out_of_sync(start: int, starts: int, generator: np.random.Generator) -> int:
  """A random one of `starts` first frames, whose five frames have none of those from `start` on."""
  choices = [i for i in range(starts) if abs(i - start) >= FRAMES]
  return int(generator.choice(choices))

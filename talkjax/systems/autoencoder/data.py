"""Corpus records as training examples of autoencoders: random squares of random frames."""

import numpy as np

from talkjax.corpora.records import Record
from talkjax.systems import reconstruction


def read(record: Record, generator: np.random.Generator, *, config) -> dict[str, np.ndarray]:
  """`data.examples_per_record` squares of a record.

  Args:
    record: the record.
    generator: of frames and squares.
    config: of the system.

  Returns:
    image [k, size, size, 3] uint8; id [k].
  """
  count = config.data.examples_per_record
  frames = generator.integers(0, len(record.frames), count)
  images = [reconstruction.squares(record, (int(i),), generator, config)[0] for i in frames]
  return {'image': np.stack(images), 'id': np.array([record.id] * count)}

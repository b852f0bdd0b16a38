"""Corpus records as training examples of super-resolution: frames, and the same frames small."""

import numpy as np

from talkjax.corpora.records import Record
from talkjax.media import picture


def degrade(frames: np.ndarray, scale: int) -> np.ndarray:
  """Downsamples by the mean over squares of `scale` pixels: uint8 [..., h, w, 3] -> uint8 [..., h', w', 3]."""
  *more, h, w, c = frames.shape
  squares = frames.reshape(*more, h // scale, scale, w // scale, scale, c)
  return np.round(squares.mean((-4, -2))).astype(np.uint8)


def read(record: Record, generator: np.random.Generator, *, config) -> dict[str, np.ndarray]:
  """`data.examples_per_record` frames of a record, or random crops of them.

  Args:
    record: the record.
    generator: of frames, crops and mirroring.
    config: of the system.

  Returns:
    image [k, crop, crop, 3] uint8; low [k, crop / scale, crop / scale, 3] uint8; id [k].
  """
  count, side = config.data.examples_per_record, config.crop_size or config.size
  images = []
  for i in generator.integers(0, len(record.frames), count):
    frame = picture.fit_square(record.frame(int(i)), config.size)
    # Crops begin where squares of degradation do.
    y, x = config.scale * generator.integers(0, (config.size - side) // config.scale + 1, 2)
    image = frame[y : y + side, x : x + side]
    images.append(image[:, ::-1] if generator.uniform() < config.augment.flip else image)
  image = np.stack(images)
  return {'image': image, 'low': degrade(image, config.scale), 'id': np.array([record.id] * count)}

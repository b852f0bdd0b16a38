"""Corpus records as training examples of emo (EMO sections 3.2 and 3.3)."""

import numpy as np

from talkjax.corpora.records import Record
from talkjax.faces import measures
from talkjax.systems.audio import AudioFeatures
from talkjax.systems.portrait import overlay, reading


def read(record: Record, generator: np.random.Generator, *, config, audio: AudioFeatures) -> dict[str, np.ndarray]:
  """Random clips of a record as training examples.

  Returns:
    As `reading.read`, and: motion [k, n, h, w, 3] uint8, the frames before the clip (or
    `motion_moments`); has_motion [k] float32, 0 where the clip begins before frame n (and motion is zero); region
    [k, h, w, 1] uint8, 1 where the face may be, see `region_frames`; speed [k, f + 2m] degrees/s, with `margin` frames
    on each side. With an overlay keypoints in sides of the picture too: reference_points [k, 3, 2], and points
    [k, 1, 3, 2] of the frame before the clip, or where it has no motion frames, of one that is near.

  Raises:
    UserError: as `reading.read`.
  """
  n, f, m = config.motion_frames if config.frames > 1 else 0, config.frames, config.margin
  count = len(record.frames)
  speeds = measures.head_speed(record.pose, record.fps)
  points = reading.face_points(record, config) / config.size if overlay.used(config.aids) else None

  def complete(
    example: dict[str, np.ndarray], clip: reading.Clip, generator: np.random.Generator
  ) -> dict[str, np.ndarray]:
    start = clip.start
    name = 'target' if 'target' in example else 'target_moments'
    has_motion = n > 0 and start >= n
    motion = {name.replace('target', 'motion'): np.zeros((n, *example[name].shape[1:]), example[name].dtype)}
    if has_motion:
      motion = reading.images('motion', record, range(start - n, start), config, config.framing)
    roomy = region_frames(start, start + f, count, generator, config)
    region = reading.face_region(record, roomy, config.size, config.framing).astype(np.uint8)
    around = np.clip(np.arange(start - m, start + f + m), 0, count - 1)
    if overlay.used(config.aids):
      before = start - 1 if has_motion else reading.near(start, f, count, config, generator)
      example = {**example, 'reference_points': points[clip.reference], 'points': points[before, None]}
    return {**example, **motion, 'has_motion': np.float32(has_motion), 'region': region, 'speed': speeds[around]}

  return reading.read(record, generator, config=config, audio=audio, complete=complete)


def region_frames(start: int, end: int, count: int, generator: np.random.Generator, config) -> range:
  """The frames whose faces the region has room for: all of the record (section 3.2: "the entire video clip").

  Where `augment.region_frames` is not -1, those of the clip and at most so many more on each side.
  """
  most = config.augment.region_frames
  if most < 0:
    return range(count)
  before, after = generator.integers(0, most + 1, size=2)
  return range(max(0, start - int(before)), min(count, end + int(after)))

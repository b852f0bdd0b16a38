"""A record with every field."""

import numpy as np

from talkjax.corpora import records
from talkjax.media import segments


def full_record(frames=5, name='clip-ä', size=(24, 16)):
  rng = np.random.default_rng(3)
  height, width = size
  ramp = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
  pictures = [
    np.concatenate([8 * ramp, np.full((height, width, 1), 20 * i)], -1).astype(np.uint8) for i in range(frames)
  ]
  return records.Record(
    id=name,
    speaker='s1',
    gender='female',
    caption='A woman is talking',
    transcript='naïve “words”',
    fps=25.0,
    frames=tuple(records.encode_picture(p) for p in pictures),
    size=size,
    audio=rng.integers(-32768, 32768, frames * 640).astype(np.int16),
    box=rng.normal(size=(frames, 4)).astype(np.float32),
    landmarks=rng.normal(size=(frames, 68, 2)).astype(np.float32),
    pose=rng.normal(size=(frames, 3)).astype(np.float32),
    num_faces=3,
    coefficients=rng.normal(size=(frames, 7)).astype(np.float32),
    words=(segments.Segment('bin', 0.0, 0.25), segments.Segment('blue', 0.25, 0.5)),
    phonemes=(segments.Segment('b', 0.0, 0.125),),
    attributes={'emotion': 'anger', 'level': 'high'},
  )

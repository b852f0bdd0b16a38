"""Corpus records as training examples of speech_edit (sections 3.2 and 3.3)."""

import functools
import math

import cv2
import numpy as np

from talkjax.corpora.records import Record
from talkjax.faces import align, mask
from talkjax.media import mel
from talkjax.media.picture import noisy, to_float
from talkjax.media.segments import AUDIO_RATE
from talkjax.systems.audio import AudioFeatures, Sound

FPS = 25.0  # frames per second of the corpora, as of the paper's: the previous frame was filmed 40 ms earlier


def read(record: Record, generator: np.random.Generator, *, config, audio: AudioFeatures) -> dict[str, np.ndarray]:
  """Random frames of a record as training examples, `data.examples_per_record` along axis 0.

  Returns:
    target, identity [k, h, w, 3] uint8; previous [k, h, w, 3] float32 in [-1, 1], because it has noise; mask
    [k, h, w, 1] float32; audio [k, d]; id [k].
  """
  k, size = config.data.examples_per_record, config.size
  numbers = generator.integers(0, len(record.frames), k)
  transforms = frame_transforms(record, config)
  picture = functools.cache(lambda i: align.crop(record.frame(i), transforms[i], size))
  masks = [jaw_mask(record, transforms, i, config) for i in numbers]
  # Frame 0 has no frame before it: as published it is its own.
  previous = [augment(picture(max(i - 1, 0)), generator, config.augment) for i in numbers]
  return {
    'target': np.stack([picture(i) for i in numbers]),
    'previous': np.stack(previous),
    'identity': np.repeat(picture(0)[None], k, 0),
    'mask': np.stack(masks),
    'audio': audio.of_record(record)[numbers].astype(np.float32),
    'id': np.full(k, record.id),
  }


def frame_transforms(record: Record, config) -> np.ndarray:
  """[f, 2, 3] from pixels of the record's frames to pixels of the network's picture (section 3.3.3)."""
  if config.data.align:
    return align.canonical_transforms(record.landmarks, config.size)
  scale = np.array([[config.size / record.size[1], 0, 0], [0, config.size / record.size[0], 0]], np.float32)
  scale[:, 2] = (np.diag(scale) - 1) / 2  # pixel centres, not corners, are what scales
  return np.repeat(scale[None], len(record.frames), 0)


def jaw_mask(record: Record, transforms: np.ndarray, number: int, config) -> np.ndarray:
  """[h, w, 1] float32, 1 where frame `number` is generated."""
  points = align.transform_points(record.landmarks[number], transforms[number])
  return mask.jaw_mask(points, config.size, kind=config.mask)


def spectrogram(sound: Sound, settings) -> np.ndarray:
  """The mel spectrogram around each frame of a sound, [f, 1024]: 120 ms (section 3.2), at any frame rate.

  The dB values are shifted and scaled by `settings.offset` and `settings.scale` (published: neither).
  """
  duration = max(1, math.ceil(len(sound.waveform) * FPS / AUDIO_RATE))  # in frames of training
  windows = mel.frame_windows(mel.log_mel(sound.waveform, duration), np.arange(sound.num_frames) * (FPS / sound.fps))
  return ((windows + settings.offset) * settings.scale).astype(np.float32)


def augment(picture: np.ndarray, generator: np.random.Generator, settings) -> np.ndarray:
  """Augments the previous frame, warped and noised, so that the network learns to rely on the identity frame.

  This counters the errors that accumulate in autoregressive generation (section 4.4).

  Args:
    picture: uint8 [h, w, 3].
    generator: of this example.
    settings: `warp`, the largest displacement of a smooth 4 x 4 field as a fraction of the width; `noise`, the largest
      standard deviation of Gaussian noise in units of [-1, 1]; both amplitudes are drawn uniformly from 0 up.

  Returns:
    float32 [h, w, 3] in [-1, 1].
  """
  h, w, _ = picture.shape
  if settings.warp:
    field = generator.uniform(-1, 1, (4, 4, 2)) * settings.warp * w * generator.uniform()
    field = cv2.resize(field.astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC)
    grid = np.stack(np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32)), -1)
    picture = cv2.remap(picture, grid + field, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
  return noisy(to_float(picture), settings.noise, generator)

"""Corpus records as training examples of wav2lip, and the crops of faces that it sees."""

import functools

import cv2
import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.faces import align, mask
from talkjax.media import mel
from talkjax.media.picture import noisy, to_float
from talkjax.media.segments import AUDIO_RATE
from talkjax.nn.wav2lip import COLUMNS
from talkjax.systems.audio import AudioFeatures, Sound

SILENCE = -4.0  # the least value of the spectrogram
COLUMNS_PER_SECOND = 80
BELOW = 0.05  # of a box's height that is added below the chin, as the published code does by default (10 pixels)
SMOOTH = {'aligned': 7, 'box': 5}  # frames over which the place of a crop is averaged
APART = 5  # frames by which the reference differs at least from the target


def read(record: Record, generator: np.random.Generator, *, config, audio: AudioFeatures) -> dict[str, np.ndarray]:
  """Random windows of `frames` consecutive frames, `data.examples_per_record` along axis 0.

  The reference is a frame of another time, so that its mouth says nothing of the target's (section 3.2). What the
  network is given is augmented as `config.augment` says; the target is not, but for its place.

  Returns:
    target [k, t, h, w, 3] uint8; given, reference [k, t, h, w, 3] float32 in [-1, 1]; mask, of what is hidden, and
    weight, of pixels in L1, [k, t, h, w, 1] float32; audio [k, t, d]; id [k].

  Raises:
    UserError: the record is shorter than a window.
  """
  k, count, total = config.data.examples_per_record, config.frames, len(record.frames)
  if total < count:
    raise UserError(f'clip {record.id} has {total} frames, fewer than the {count} of an example: leave it out')
  transforms = face_transforms(record.landmarks, record.box, config)
  features = audio.of_record(record)
  decode = functools.cache(record.frame)
  examples = []
  for start in generator.integers(0, total - count + 1, k):
    numbers = np.arange(start, start + count)
    placed = transforms[numbers] + _shift(generator, config)
    target = [align.crop(decode(i), t, config.size) for i, t in zip(numbers, placed)]
    points = [align.transform_points(record.landmarks[i], t) for i, t in zip(numbers, placed)]
    others = _reference_numbers(int(start), count, total, generator)
    moved = transforms[others] + _shift(generator, config)
    reference = [align.crop(decode(i), t, config.size) for i, t in zip(others, moved)]
    given, reference = (augment(np.stack(x), generator, config.augment) for x in (target, reference))
    hidden = np.stack([hidden_region(p, config) for p in points])
    weight = np.stack([pixel_weight(p, config) for p in points])
    example = {'target': np.stack(target), 'given': given, 'reference': reference, 'mask': hidden, 'weight': weight}
    examples.append(example | {'audio': features[numbers].astype(np.float32)})
  batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
  return batch | {'id': np.full(k, record.id)}


def _reference_numbers(start: int, count: int, total: int, generator: np.random.Generator) -> np.ndarray:
  """`count` consecutive frames, at least APART from those at `start` where the clip is long enough for that."""
  starts = np.arange(total - count + 1)
  apart = starts[np.abs(starts - start) >= count - 1 + APART]
  first = generator.choice(apart if len(apart) else starts)
  return np.arange(first, first + count)


def _shift(generator: np.random.Generator, config) -> np.ndarray:
  """[2, 3] to be added to transforms: a random displacement of the crop."""
  offset = np.zeros((2, 3), np.float32)
  offset[:, 2] = generator.uniform(-1, 1, 2) * config.augment.shift * config.size
  return offset


def augment(pictures: np.ndarray, generator: np.random.Generator, settings) -> np.ndarray:
  """Pictures of lost resolution and with noise, as those that other systems generate: uint8 -> float32 [t, h, w, 3].

  Args:
    pictures: [t, h, w, 3].
    generator: of this example; all its pictures lose as much.
    settings: `shrink` and `noise`, see configs/wav2lip.py.
  """
  size = pictures.shape[1]
  if settings.shrink:
    small = max(8, round(size * (1 - settings.shrink * generator.uniform())))
    resize = lambda x, to, how: cv2.resize(x, (to, to), interpolation=how)
    pictures = np.stack([resize(resize(p, small, cv2.INTER_AREA), size, cv2.INTER_CUBIC) for p in pictures])
  return noisy(to_float(pictures), settings.noise, generator)


def face_transforms(landmarks: np.ndarray, box: np.ndarray, config) -> np.ndarray:
  """[f, 2, 3] from pixels of frames to pixels of the network's pictures, smoothed over frames.

  Args:
    landmarks: [f, 68, 2] pixels.
    box: [f, 4] x0, y0, x1, y1 of the face.
    config: with `crop` and `size`.
  """
  if config.crop == 'aligned':
    return align.canonical_transforms(landmarks, config.size, SMOOTH['aligned'])
  x0, y0, x1, y1 = align.centred_mean(np.asarray(box, np.float64), SMOOTH['box']).T
  scale = config.size / np.stack([x1 - x0, (1 + BELOW) * (y1 - y0)], -1)
  transforms = np.zeros((len(box), 2, 3))
  transforms[:, 0, 0], transforms[:, 1, 1] = scale.T
  # Pixel centres, not corners, are what scales.
  transforms[:, :, 2] = -scale * np.stack([x0, y0], -1) + (scale - 1) / 2
  return transforms.astype(np.float32)


def hidden_region(points: np.ndarray, config) -> np.ndarray:
  """[h, w, 1] float32, 1 where the network may not see the frame; it depends neither on chin nor on lips.

  Args:
    points: [68, 2] landmarks in pixels of the crop.
    config: with `mask` and `size`.
  """
  if config.mask == 'rectangle':
    return mask.jaw_mask(points, config.size, kind='rectangle')
  region = np.zeros((config.size, config.size, 1), np.float32)
  region[config.size // 2 :] = 1
  return region


def drawn_region(hidden: np.ndarray, config) -> np.ndarray:
  """[..., h, w, 1] float32, 1 where the network's picture replaces the frame's: everywhere, or where it is hidden."""
  return np.ones_like(hidden) if config.mask == 'half' else hidden


def pixel_weight(points: np.ndarray, config) -> np.ndarray:
  """[h, w, 1] float32, the weight in L1: 1 where the network draws, and more in the box around the lips."""
  weight = drawn_region(hidden_region(points, config), config).copy()
  if config.mouth_weight:
    low, high = points[48:68].min(0), points[48:68].max(0)
    margin = 0.05 * config.size
    (x0, y0), (x1, y1) = (np.clip(np.rint(p), 0, config.size).astype(int) for p in (low - margin, high + margin))
    weight[y0:y1, x0:x1] += config.mouth_weight
  return weight


def spectrogram(sound: Sound) -> np.ndarray:
  """The 16 columns of Wav2Lip's spectrogram from each frame on, [f, 80 * 16]: 0.2 s, at any frame rate.

  Behind the sound is silence, so that every frame has as many.
  """
  needed = round(sound.num_frames / sound.fps * AUDIO_RATE) + AUDIO_RATE // COLUMNS_PER_SECOND * COLUMNS
  waveform = np.pad(sound.waveform[:needed], (0, max(0, needed - len(sound.waveform))))
  columns = mel.wav2lip_mel(waveform)
  starts = (np.arange(sound.num_frames) * COLUMNS_PER_SECOND / sound.fps).astype(int)
  return np.stack([columns[:, s : s + COLUMNS] for s in starts]).reshape(sound.num_frames, -1)

"""Corpus records as training examples of joint samples, and what is measured on the training split."""

from collections.abc import Sequence

import cv2
import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.media import picture, vocoder
from talkjax.media.segments import AUDIO_RATE, Segment
from talkjax.systems import coefficients
from talkjax.systems.joint import label_of
from talkjax.systems.joint.spaces import CORPUS, THUMBNAIL

DIGITS = frozenset(('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine'))
FACE_SIDE = 1.3  # of the square around a face in a thumbnail, in sides of the face's box
COLUMNS = 200  # of a record's spectrogram that the statistics of the sound are of


def read(record: Record, generator: np.random.Generator, *, config) -> dict[str, np.ndarray]:
  """Random segments of a record; `data.examples_per_record` along axis 0.

  Args:
    record: with sound, of `motion` with cached coefficients.
    generator: of the segments.
    config: of the system; `data.segments` is 'any', or 'digit': with one digit and one keyword (section V.D).

  Returns:
    caption int32 [k], the number of captions where there is none; id [k]; and of the space `pixels`
      image [k, f, h, w, 3] uint8, waveform [k, s] int16
    or of `motion`
      coefficients [k, f, c] float16, whose translations are from the mean of the record; sound [k, f, d] float16;
      thumbnail [k, 16, 16, 3] uint8; first and length int32 [k], the number of the first frame and how many the record
      has.

  Raises:
    UserError: the record has no sound, is too short, has an unknown caption, or no digit where one is needed.
  """
  if not record.audio.size:
    raise UserError(f'clip {record.id} has no sound, which this system learns: name only corpora with speech')
  k, own = config.data.examples_per_record, config.space
  if own.kind == 'motion' and record.fps != own.fps:
    raise UserError(
      f'clip {record.id} has {record.fps:g} frames/s, and config.space.fps is {own.fps:g}: rebuild the corpus at that '
      'rate'
    )
  starts = [_start(record, own.frames / own.fps, generator, config.data.segments) for _ in range(k)]
  read_kind = {'pixels': _pixels, 'motion': _motion}[own.kind]
  label = label_of(record.caption, config.captions, f'clip {record.id}')
  return {**read_kind(record, starts, config), 'caption': np.full(k, label, np.int32), 'id': np.full(k, record.id)}


def _start(record: Record, seconds: float, generator: np.random.Generator, segments: str) -> float:
  """When a random segment of a record begins, in seconds."""
  last = len(record.frames) / record.fps - seconds
  if last < -0.5 / record.fps:
    raise UserError(
      f'clip {record.id} lasts {len(record.frames) / record.fps:.2f} s, less than the {seconds:.2f} s of an example: '
      'rebuild the corpus without it'
    )
  if segments == 'any':
    return float(generator.uniform(0, max(last, 0)))
  word = _keyword_and_digit(record)
  # The segment holds both words; where they are longer, it is in their middle.
  low, high = word.end - seconds, word.start
  if low > high:
    low = high = (low + high) / 2
  return float(np.clip(generator.uniform(low, high), 0, max(last, 0)))


def _keyword_and_digit(record: Record) -> Segment:
  """From the start of the letter (or other word) before a digit to the end of the digit."""
  for keyword, digit in zip(record.words, record.words[1:]):
    if digit.text.lower() in DIGITS:
      return Segment(f'{keyword.text} {digit.text}', keyword.start, digit.end)
  raise UserError(
    f'clip {record.id} has no digit with a word before it, which config.data.segments=digit needs: set that to any, or '
    'build a corpus with the times of words'
  )


def _pixels(record: Record, starts: Sequence[float], config) -> dict[str, np.ndarray]:
  own = config.space
  images, sounds = [], []
  length = round(own.frames * AUDIO_RATE / own.fps)
  for start in starts:
    times = start + (np.arange(own.frames) + 0.5) / own.fps
    numbers = np.clip((times * record.fps).astype(int), 0, len(record.frames) - 1)
    frames = {i: picture.fit_square(record.frame(i), own.size) for i in dict.fromkeys(numbers.tolist())}
    images.append(np.stack([frames[i] for i in numbers.tolist()]))
    first = round(start * AUDIO_RATE)
    sound = record.audio[first : first + length]
    sounds.append(np.pad(sound, (0, length - len(sound))))
  return {'image': np.stack(images), 'waveform': np.stack(sounds)}


def _motion(record: Record, starts: Sequence[float], config) -> dict[str, np.ndarray]:
  own = config.space
  rows = np.array(coefficients.rows_of(record, config), np.float32)
  rows[:, -3:] -= rows[:, -3:].mean(0)
  sound = vocoder.spectrogram_of_frames(record.audio.astype(np.float32) / 32768, len(rows), own.fps)
  first = [min(round(start * own.fps), len(rows) - own.frames) for start in starts]
  frames = np.array(first)[:, None] + np.arange(own.frames)
  return {
    'coefficients': rows[frames].astype(np.float16),
    'sound': sound[frames].astype(np.float16),
    'thumbnail': np.repeat(thumbnail(record.frame(0), record.box[0])[None], len(starts), 0),
    'first': np.array(first, np.int32),
    'length': np.full(len(starts), len(rows), np.int32),
  }


def thumbnail(image: np.ndarray, box: np.ndarray | None = None) -> np.ndarray:
  """A small picture of a face, by which people are told apart: uint8 [16, 16, 3].

  Args:
    image: uint8 [h, w, 3].
    box: of the face, x0, y0, x1, y1 in pixels; None: it is found.

  Raises:
    UserError: no face is found.
  """
  if box is None:
    from talkjax.faces import landmarks

    box = landmarks.find_faces([image], name='the portrait').box[0]
  x0, y0, x1, y1 = (float(v) for v in box)
  side = FACE_SIDE * max(x1 - x0, y1 - y0)
  scale = THUMBNAIL / side
  # From the square around the face's centre; the picture's edge is repeated outside. Areas are averaged.
  corner = np.array([(x0 + x1 - side) / 2, (y0 + y1 - side) / 2])
  larger = 4 * THUMBNAIL
  matrix = np.array([[4 * scale, 0, -corner[0] * 4 * scale], [0, 4 * scale, -corner[1] * 4 * scale]])
  square = cv2.warpAffine(image, matrix, (larger, larger), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
  return cv2.resize(square, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)


def collect(records: Sequence[Record], *, config) -> dict[str, np.ndarray]:
  """What the space `motion` measures on the training split, by path of the frozen branch `corpus`.

  Portraits and captions of `space.people` people (repeated where there are fewer), the basis of their codes, and mean
  and deviation of each band of the sound.
  """
  own = config.space
  first, columns = {}, []
  for record in (records[i] for i in range(len(records))):
    columns.append(vocoder.spectrogram(record.audio.astype(np.float32) / 32768, 2 * len(record.frames))[:COLUMNS])
    first.setdefault(record.speaker, record)
  speakers = sorted(first)
  chosen = [speakers[i] for i in np.linspace(0, len(speakers) - 1, own.people).round().astype(int)]
  people = {name: first[name] for name in dict.fromkeys(chosen)}
  small = {name: thumbnail(r.frame(0), r.box[0]) for name, r in first.items()}
  flat = np.stack([small[name].reshape(-1) for name in speakers]).astype(np.float64) / 255
  mean = flat.mean(0)
  _, _, axes = np.linalg.svd(flat - mean, full_matrices=False)
  axes = np.pad(axes[: own.code], ((0, max(0, own.code - len(axes))), (0, 0)))
  basis = axes.T / np.maximum(((flat - mean) @ axes.T).std(0), 1e-3)  # codes have variance 1
  codes = {name: (small[name].reshape(-1) / 255 - mean) @ basis for name in people}
  portraits = {name: _face_square(r, own.size) for name, r in people.items()}
  sound = np.concatenate(columns)
  values = {
    'portraits': np.stack([portraits[name] for name in chosen]),
    'codes': np.stack([codes[name] for name in chosen]),
    'captions': np.array([label_of(first[name].caption, config.captions, first[name].id) for name in chosen]),
    'picture_mean': mean,
    'picture_basis': basis,
    'sound_mean': sound.mean(0),
    'sound_std': np.maximum(sound.std(0), 1e-2),
  }
  kinds = {'portraits': np.uint8, 'captions': np.int32}
  return {f'{CORPUS}/{k}': v.astype(kinds.get(k, np.float32)) for k, v in values.items()}


def _face_square(record: Record, size: int) -> np.ndarray:
  """The first frame, cropped to the largest square around the face."""
  image = record.frame(0)
  side = min(image.shape[:2])
  x0, y0, x1, y1 = (float(v) for v in record.box[0])
  left = int(np.clip((x0 + x1 - side) / 2, 0, image.shape[1] - side))
  top = int(np.clip((y0 + y1 - side) / 2, 0, image.shape[0] - side))
  return picture.fit_square(np.ascontiguousarray(image[top : top + side, left : left + side]), size)

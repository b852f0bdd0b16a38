"""Reads, writes, resizes and normalises images, and arranges video frames in a grid."""

import io
import pathlib
import warnings
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from talkjax.errors import UserError
from talkjax.media import outputs

GAP = 2  # white pixels between the frames of a strip
MAX_PIXELS = 2**27  # of a picture: small files can hold pictures that need many gigabytes


def read(path) -> np.ndarray:
  """Reads an image file as uint8 [h, w, 3] RGB, upright; transparent pixels become black.

  Raises:
    UserError: the file cannot be read, is not an image, or has more than MAX_PIXELS.
  """
  from talkjax.media import files  # training reads no files of users

  data = files.read_bytes(path, 'a PNG or JPEG')
  pixels = _num_pixels(data)
  if pixels > MAX_PIXELS:
    raise UserError(f'{path} has more than {MAX_PIXELS // 10**6} million pixels: give a smaller picture')
  try:
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if pixels else None
  except cv2.error:  # its own limits
    bgr = None
  if bgr is None:
    raise UserError(f'{path} is not a readable picture: give a PNG or JPEG')
  return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _num_pixels(data: bytes) -> int:
  """The pixels that the header of a picture announces; 0 if it cannot be read."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', Image.DecompressionBombWarning)
      with Image.open(io.BytesIO(data)) as image:
        return image.width * image.height
  except Image.DecompressionBombError:
    return MAX_PIXELS + 1
  except Exception:  # Pillow's readers fail in many ways
    return 0


def write(path, rgb: np.ndarray, metadata: Mapping[str, str] | None = None) -> None:
  """Writes uint8 [h, w, 3] RGB to a .png or .jpg file atomically.

  Args:
    path: of the file.
    rgb: the picture.
    metadata: texts by name, which a .png carries.

  Raises:
    UserError: the file cannot be written.
  """
  path = pathlib.Path(path)
  kind = path.suffix.lower() if path.suffix.lower() in ('.png', '.jpg', '.jpeg') else '.png'
  ok, encoded = cv2.imencode(kind, cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGR))
  assert ok
  data = encoded.tobytes()
  if metadata and kind == '.png':
    data = _with_metadata(data, metadata)
  with outputs.replacing(path) as temporary:
    temporary.write_bytes(data)


def _with_metadata(png: bytes, metadata: Mapping[str, str]) -> bytes:
  """A PNG file with texts by name."""
  info, result = PngImagePlugin.PngInfo(), io.BytesIO()
  for name, text in metadata.items():
    info.add_itxt(name, text)
  with Image.open(io.BytesIO(png)) as image:
    image.save(result, 'PNG', pnginfo=info)
  return result.getvalue()


def read_metadata(path) -> dict[str, str]:
  """The texts by name of a PNG file; {} of another picture.

  Raises:
    UserError: the file cannot be read or is not an image.
  """
  read(path)
  with Image.open(path) as image:
    return dict(getattr(image, 'text', {}))


def strip(rows: Sequence[Sequence[np.ndarray]], columns: int = 12, labels: Sequence[str] = ()) -> np.ndarray:
  """Arranges rows of frames in one image, for example ground truth above generated frames.

  Args:
    rows: lists of uint8 [h, w, 3] RGB frames, all of one size. Frame i of every row is in the same column, so frames
      after the end of the shortest row are dropped.
    columns: maximum number of columns; of longer rows, this many evenly spaced frames are shown.
    labels: texts written to the left of the rows.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ValueError: a row is empty.
  """
  count = min(len(row) for row in rows)
  if count == 0:
    raise ValueError('a row of the strip has no frames')
  chosen = spread(range(count), columns)
  height, width = rows[0][0].shape[:2]
  result = np.full((len(rows) * (height + GAP) - GAP, len(chosen) * (width + GAP) - GAP, 3), 255, np.uint8)
  for r, row in enumerate(rows):
    for c, index in enumerate(chosen):
      y, x = r * (height + GAP), c * (width + GAP)
      result[y : y + height, x : x + width] = row[index]
  if not labels:
    return result
  font, scale, thickness = cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1
  label_width = max(cv2.getTextSize(label, font, scale, thickness)[0][0] for label in labels) + 4 * GAP
  margin = np.full((result.shape[0], label_width, 3), 255, np.uint8)
  for r, label in enumerate(labels):
    cv2.putText(margin, label, (GAP, r * (height + GAP) + height // 2), font, scale, (0, 0, 0), thickness, cv2.LINE_AA)
  return np.concatenate([margin, result], axis=1)


def spread(frames: Sequence, columns: int = 12) -> list:
  """At most `columns` of a sequence, evenly spaced, with both ends."""
  index = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), columns)).round().astype(int))
  return [frames[i] for i in index]


def fit_square(frame: np.ndarray, size: int) -> np.ndarray:
  """Crops the centre square of an image and resizes it: uint8 [h, w, 3] -> uint8 [size, size, 3]."""
  height, width = frame.shape[:2]
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  square = frame[top : top + side, left : left + side]
  if side == size:
    return square
  interpolation = cv2.INTER_AREA if size < side else cv2.INTER_CUBIC
  return cv2.resize(square, (size, size), interpolation=interpolation)


def to_float(picture):
  """uint8 of any shape -> float32 in [-1, 1], the input range of the networks; of numpy or JAX.

  The subtraction is exact and the product is rounded once, so that compiled values equal numpy's: a compiler may fuse a
  product with a following subtraction, which rounds differently.
  """
  return (picture - np.float32(127.5)) * np.float32(1 / 127.5)


def noisy(pictures: np.ndarray, largest: float, generator: np.random.Generator) -> np.ndarray:
  """Pictures of any shape, in [-1, 1], with Gaussian noise whose standard deviation is drawn from 0 to `largest`."""
  if largest:
    noise = generator.standard_normal(pictures.shape, np.float32)
    pictures = pictures + noise * np.float32(largest * generator.uniform())
  return np.clip(pictures, -1, 1)


def to_uint8(picture: np.ndarray) -> np.ndarray:
  """The inverse of `to_float`, rounded and clipped."""
  return np.clip(np.round((np.asarray(picture) + 1) * 127.5), 0, 255).astype(np.uint8)

"""Which square of a picture portrait systems see: the largest one in its middle, or one around the face."""

from typing import NamedTuple

import numpy as np

from talkjax.corpora.records import Record
from talkjax.media import picture

# Landmarks end at the brows: the window's centre is this far above that of their box, as a share of its height.
FOREHEAD = 0.12


class Window(NamedTuple):
  """A square of a picture: its top left corner and its side in pixels."""

  x: int
  y: int
  side: int

  def picture(self, frame: np.ndarray, size: int) -> np.ndarray:
    """What a picture uint8 [h, w, 3] shows there, as uint8 [size, size, 3]."""
    square = frame[self.y : self.y + self.side, self.x : self.x + self.side]
    return picture.fit_square(np.ascontiguousarray(square), size)

  def points(self, points: np.ndarray, size: int) -> np.ndarray:
    """Points [..., 2] in pixels of the picture in pixels of what `picture` returns, float32."""
    corner = np.array([self.x, self.y], np.float32)
    return (np.asarray(points, np.float32) - corner) * (size / self.side)


def centre(shape: tuple[int, int]) -> Window:
  """The largest square in the middle of a picture of `shape` (h, w)."""
  side = min(shape)
  return Window((shape[1] - side) // 2, (shape[0] - side) // 2, side)


def around_face(landmarks: np.ndarray, shape: tuple[int, int], crop: float) -> Window:
  """The square of a picture of `shape` (h, w) around a face with landmarks [68, 2], inside the picture.

  Its side is `crop` times the longer side of the landmarks' box, as far as the picture is large enough.
  """
  low, high = landmarks.min(0), landmarks.max(0)
  side = int(np.clip(round(crop * float((high - low).max())), 1, min(shape)))
  x, y = (low + high) / 2 - (0, FOREHEAD * (high - low)[1]) - side / 2
  return Window(int(np.clip(round(x), 0, shape[1] - side)), int(np.clip(round(y), 0, shape[0] - side)), side)


def of_record(record: Record, crop: float = 0) -> Window:
  """The window of all frames of a record: around the face of the first one, or with a `crop` of 0 the centre."""
  return around_face(record.landmarks[0], record.size, crop) if crop else centre(record.size)

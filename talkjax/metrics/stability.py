"""What the eye sees first in a generated video, measured without any weights: blur, trembling and flicker.

Each is compared with the true video by `ratio`, where 1 is as the truth.
"""

from collections.abc import Iterable

import cv2
import numpy as np

from talkjax.faces import measures
from talkjax.faces.landmarks import FaceTrack

MOUTH = slice(48, 68)  # landmarks
MOUTH_MARGIN = 0.25  # of the mouth's box, on each side
BACKGROUND_MARGIN = 0.5  # of the face's box, on each side
MIN_BACKGROUND = 0.02  # of the frame


def ratio(generated: float, true: float) -> float:
  """generated / true; nan where that is not defined."""
  return float(generated / true) if true > 0 else float('nan')


def sharpness(frames: Iterable[np.ndarray], faces: FaceTrack) -> dict[str, float]:
  """Gradient energy of the face and of the mouth, means over the frames.

  The energy is the mean over the pixels of a box of the squared length of the gradient of the brightness (0 to 255,
  central differences). The box of the face is that of its landmarks with the forehead; that of the mouth has
  MOUTH_MARGIN of its size around the lips.

  Args:
    frames: uint8 [h, w, 3].
    faces: in them.

  Returns:
    `face` and `mouth`; nan where a box is never in the frame.
  """
  energies = {'face': [], 'mouth': []}
  for frame, box, points in zip(frames, faces.box, faces.landmarks):
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    for name, inside in (('face', box), ('mouth', bounds(points[MOUTH], MOUTH_MARGIN))):
      x0, y0, x1, y1 = _clipped(inside, grey.shape)
      if x1 - x0 >= 3 and y1 - y0 >= 3:
        part = grey[y0:y1, x0:x1]
        dx, dy = (part[1:-1, 2:] - part[1:-1, :-2]) / 2, (part[2:, 1:-1] - part[:-2, 1:-1]) / 2
        energies[name].append(float(np.mean(dx**2 + dy**2)))
  return {name: float(np.mean(values)) if values else float('nan') for name, values in energies.items()}


def jitter(landmarks: np.ndarray) -> float:
  """Trembling of landmarks [f, 68, 2]: mean length of their second difference in time, in face heights.

  The second difference of a head that moves evenly is zero, so its motion does not count. nan below three frames.
  """
  if len(landmarks) < 3:
    return float('nan')
  points = np.asarray(landmarks, np.float64)
  second = points[2:] - 2 * points[1:-1] + points[:-2]
  return float((np.linalg.norm(second, axis=-1) / measures.face_height(points[1:-1])[:, None]).mean())


def background(shape: tuple[int, int], *tracks: FaceTrack) -> np.ndarray:
  """Where nobody is in any frame: bool [h, w].

  What is left out is the box of each face with BACKGROUND_MARGIN around it, and everything below, where the body is.
  """
  empty = np.ones(shape, bool)
  for faces in tracks:
    x0, y0, x1, _ = _clipped(bounds(faces.box.reshape(-1, 2), BACKGROUND_MARGIN), shape)
    empty[y0:, x0:x1] = False
  return empty


def flicker(frames: Iterable[np.ndarray], where: np.ndarray) -> float:
  """Mean change of pixels (0 to 255) between consecutive frames where `where` [h, w] is True.

  nan where that is less than MIN_BACKGROUND of the frame, or for fewer than two frames.
  """
  if where.mean() < MIN_BACKGROUND:
    return float('nan')
  changes, previous = [], None
  for frame in frames:
    pixels = frame[where].astype(np.float32)
    if previous is not None:
      changes.append(float(np.abs(pixels - previous).mean()))
    previous = pixels
  return float(np.mean(changes)) if changes else float('nan')


def bounds(points: np.ndarray, margin: float) -> np.ndarray:
  """The box x0, y0, x1, y1 of points [n, 2] with `margin` of its size on each side."""
  low, high = points.min(0), points.max(0)
  return np.concatenate([low - margin * (high - low), high + margin * (high - low)])


def _clipped(box, shape) -> tuple[int, int, int, int]:
  height, width = shape[:2]
  x0, y0, x1, y1 = np.round(box).astype(int)
  return max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)

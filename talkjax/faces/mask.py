"""Masks of face crops: 1 where the network generates, 0 where the crop is unchanged."""

import cv2
import numpy as np

from talkjax.faces.measures import eye_distance

KINDS = ('published', 'rectangle')


def jaw_mask(landmarks: np.ndarray, size: int, kind: str = 'published') -> np.ndarray:
  """The region of a crop that speech moves (section 3.3.3 of Speech Driven Video Editing): float32 [size, size, 1].

  Neither kind depends on chin or lips, whose positions would reveal the mouth opening to the network.

  Args:
    landmarks: [68, 2] pixels of the crop.
    size: side of the crop in pixels.
    kind: 'published' is `square_mask`, with which the released weights were trained. 'rectangle' is described in the
      paper: upright, from just below the nose to below the chin of an open mouth, wider than the jaw.
  """
  if kind == 'published':
    return square_mask(np.trunc(landmarks).astype(np.int32), (size, size)).astype(np.float32)
  if kind != 'rectangle':
    raise ValueError(f'mask kind {kind!r} is unknown, expected one of {KINDS}')
  points = np.asarray(landmarks, np.float64)
  unit = float(eye_distance(points))
  sides = points[[1, 2, 14, 15], 0]
  top = points[31:36, 1].max() + 0.06 * unit
  left, right, bottom = sides.min() - 0.1 * unit, sides.max() + 0.1 * unit, top + 1.75 * unit
  mask = np.zeros((size, size, 1), np.float32)
  x0, x1, y0, y1 = (int(np.clip(round(v), 0, size)) for v in (left, right, top, bottom))
  mask[y0:y1, x0:x1] = 1
  return mask


def square_mask(landmarks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """The published mask (golden case dve_mask, `square`): between jaw points 1 and 15, down to the bottom of the image.

  Args:
    landmarks: int32 [68, 2] pixels, from `landmarks.mesh_to_68`.
    size: (h, w).

  Returns:
    uint8 [h, w, 1].
  """
  height, width = size
  left, right = np.asarray(landmarks)[[1, 15]]
  left_bottom, right_bottom = (left[0], height), (right[0], height)
  # The published outline intersects itself; the regions it encloses, with its edges, form the quadrilateral.
  outline = np.array([left, left_bottom, right, right_bottom, left, right, left_bottom, right_bottom], np.int32)
  mask = np.zeros((height, width, 1), np.uint8)
  cv2.drawContours(mask, [outline[:, None]], -1, color=1, thickness=cv2.FILLED)
  return mask


def contour_mask(landmarks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """The other published mask (golden case dve_mask, `contour`): the filled jaw outline, with the lip contours cut out.

  Arguments and result as in `square_mask`.
  """
  height, width = size
  points = np.asarray(landmarks, np.int32)
  mask = np.zeros((height, width, 1), np.uint8)
  cv2.drawContours(mask, [points[2:15, None]], -1, color=1, thickness=cv2.FILLED)
  for lips in (points[48:60], points[60:68]):
    cv2.polylines(mask, [lips[:, None]], isClosed=False, color=0, thickness=1)
    cv2.line(
      mask, lips[0].tolist(), lips[-1].tolist(), color=0, thickness=1
    )  # drawn in one direction only, as published: not a closed polyline
  return mask

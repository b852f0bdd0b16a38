"""The alignment of Deep3DFaceRecon: a picture is scaled and cropped so that its face has the size of the model's.

The scale and the position come from five landmarks and their places on a standard 3D face, by an orthographic pose. The
picture is not turned.
"""

import dataclasses

import cv2
import numpy as np

SIZE = 224  # side of the crop in pixels
RESCALE = 102.0  # pixels of the crop per unit of the standard face
# Centres of the eyes, tip of the nose, corners of the mouth of the published standard face (similarity_Lm3D_all.mat),
# in the axes and units of the model.
STANDARD = np.array([
    [-0.31148657, 0.29036078, 0.13377953], [0.30979887, 0.28972036, 0.13179526],
    [0.0032535, -0.04617932, 0.55244243],
    [-0.25216928, -0.38133916, 0.22405732], [0.2484662, -0.38128236, 0.22235769],
])  # yapf: disable


@dataclasses.dataclass(frozen=True)
class Alignment:
  """How a picture becomes a crop: it is resized to `resized` (w, h), and the crop begins at `corner` (x, y) of that."""

  resized: tuple[int, int]
  corner: tuple[int, int]


def five_points(landmarks: np.ndarray) -> np.ndarray:
  """68 landmarks [..., 68, 2] -> [..., 5, 2]: the eyes (means of two points each), nose, corners of the mouth."""
  eyes = [landmarks[..., pair, :].mean(-2) for pair in ([36, 39], [42, 45])]
  return np.stack([*eyes, landmarks[..., 30, :], landmarks[..., 48, :], landmarks[..., 54, :]], -2)


def alignment(landmarks: np.ndarray, size: tuple[int, int]) -> Alignment:
  """The published alignment of a picture of (h, w) pixels by its 68 landmarks [68, 2], rounded as there."""
  height, width = size
  # The published coordinates are 0 at the centre of the first pixel, and y grows upwards.
  points = (five_points(np.asarray(landmarks, np.float64)) - 0.5) * [1, -1] + [0, height - 1]
  # Least squares: x = a . p + s_x and y = b . p + s_y for the points p of the standard face.
  solution = np.linalg.lstsq(np.c_[STANDARD, np.ones(5)], points, rcond=None)[0]
  scale = RESCALE / np.linalg.norm(solution[:3], axis=0).mean()
  x, y = solution[3]
  resized = int(width * scale), int(height * scale)
  left = int(resized[0] / 2 - SIZE / 2 + (x - width / 2) * scale)
  top = int(resized[1] / 2 - SIZE / 2 + (height / 2 - y) * scale)
  return Alignment(resized, (left, top))


def crop(picture: np.ndarray, where: Alignment) -> np.ndarray:
  """The aligned crop of uint8 [h, w, 3]: uint8 [SIZE, SIZE, 3], black outside of the picture."""
  smaller = where.resized[0] < picture.shape[1]
  resized = cv2.resize(picture, where.resized, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
  (left, top), (width, height) = where.corner, where.resized
  result = np.zeros((SIZE, SIZE, 3), np.uint8)
  x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + SIZE, width), min(top + SIZE, height)
  if x0 < x1 and y0 < y1:
    result[y0 - top : y1 - top, x0 - left : x1 - left] = resized[y0:y1, x0:x1]
  return result


def translation_in_picture(
  translation: np.ndarray, where: Alignment, size: tuple[int, int], focal: float, distance: float
) -> np.ndarray:
  """The translation [3] in a crop -> that in the whole picture of (h, w) pixels, for a camera with the same `focal`.

  The face keeps the size and place of its origin; its perspective becomes that of its distance from the camera of the
  whole picture. Without this, the alignment would hide the head's movement.

  Args:
    translation: x, y, z in units of the model, as the network finds them in the crop.
    where: of the crop.
    size: of the picture.
    focal: in sides of the (shorter side of the) picture.
    distance: of the camera, in units of the model.
  """
  (height, width), (left, top) = size, where.corner
  (x, y, z), scale = translation, np.array(where.resized) / [width, height]
  per_unit = SIZE * focal / (distance - z)  # pixels of the crop
  centre = np.array([SIZE / 2 + x * per_unit + left, SIZE / 2 - y * per_unit + top]) / scale
  per_unit /= scale.mean()  # pixels of the picture
  in_units = (centre - [width / 2, height / 2]) / per_unit * [1, -1]
  return np.array([*in_units, distance - min(height, width) * focal / per_unit])

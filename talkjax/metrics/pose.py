"""Diversity of head motion: how much the head turns, by Hopenet or by landmarks."""

from collections.abc import Iterable

import numpy as np

from talkjax.faces.landmarks import FaceTrack
from talkjax.media import picture
from talkjax.metrics.footage import Footage, chunks
from talkjax.metrics.stability import bounds

# Of the box of the 68 landmarks: what Hopenet's own test adds left and right, above and below to a detected face.
SIDES, ABOVE, BELOW = 0.5, 0.75, 0.25
SIZE = 224  # pixels


def angles(footage: Footage, hopenet=None) -> np.ndarray | None:
  """Yaw, pitch and roll [f, 3] in degrees of the head in a video; None without a face.

  Args:
    footage: the video.
    hopenet: the network with its function `angles`; None: the pose of the landmarks. Their signs differ.
  """
  if footage.faces is None:
    return None
  if hopenet is None:
    return footage.faces.pose

  def compute():
    crops = face_crops(footage.frames(), footage.faces)
    return {'angles': np.concatenate([hopenet('angles', block) for block in chunks(crops, 64)])}

  return footage.features('hopenet', hopenet.key, compute)['angles']


def diversity(poses: np.ndarray) -> float:
  """Standard deviation over time of angles [f, 3], mean over the three, in their unit."""
  return float(np.std(np.asarray(poses, np.float64), axis=0).mean())


def face_crops(frames: Iterable[np.ndarray], faces: FaceTrack) -> Iterable[np.ndarray]:
  """Faces as Hopenet's test crops them: uint8 [SIZE, SIZE, 3] RGB each, clipped at the edge of the frame."""
  for frame, points in zip(frames, faces.landmarks):
    x0, y0, x1, y1 = bounds(points, 0)
    width, height = x1 - x0, y1 - y0
    rows = slice(max(0, int(y0 - ABOVE * height)), max(2, int(y1 + BELOW * height)))
    columns = slice(max(0, int(x0 - SIDES * width)), max(2, int(x1 + SIDES * width)))
    crop = frame[rows, columns]
    yield picture.fit_square(crop if min(crop.shape[:2]) > 1 else frame, SIZE)

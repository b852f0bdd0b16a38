"""What a video made from a portrait keeps and obeys: who is shown, where the face is, how it turns, its seams.

Faces are found in the generated frames themselves, enlarged where they are small.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from talkjax.errors import UserError
from talkjax.faces import align, keypoints, landmarks
from talkjax.metrics.puppet_mouth import puppet_openings

DETECTED = 256  # pixels that a face is looked for at
GRID = 8  # cells of the colour statistics, either way


def track(frames: Sequence[np.ndarray]) -> landmarks.FaceTrack | None:
  """The face in uint8 frames [h, w, 3], in their own pixels; None where there is none to be found."""
  scale = max(1, -(-DETECTED // max(frames[0].shape[:2])))
  enlarge = lambda f: cv2.resize(f, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) if scale > 1 else f
  try:
    found = landmarks.find_faces(map(enlarge, frames), min_found=0.5, max_gap=len(frames))
  except landmarks.NoFace:
    return None
  return landmarks.FaceTrack(
    found.landmarks / scale, found.mesh / scale, found.box / scale, found.pose, found.found, found.num_faces
  )


def drawn_opening(frames: Sequence[np.ndarray]) -> np.ndarray:
  """[f] mouth openings of a drawn puppet whose head is found in the frames first; nan where no face is found."""
  found = track(frames)
  if found is None:
    return np.full(len(frames), np.nan)
  opening = puppet_openings(frames, align.centred_mean(np.asarray(found.landmarks, np.float64), 3))
  return np.where(found.found, opening, np.nan)


def in_region(found: landmarks.FaceTrack, region: np.ndarray) -> np.ndarray:
  """[f] whether a face lies in the requested region [h, w, 1]: its middle and eight tenths of its landmarks do."""
  height, width = region.shape[:2]

  def inside(points):
    x = np.clip(points[..., 0].astype(int), 0, width - 1)
    y = np.clip(points[..., 1].astype(int), 0, height - 1)
    return region[y, x, 0] > 0

  return inside(found.landmarks.mean(1)) & (inside(found.landmarks).mean(1) >= 0.8)


def keypoint_distance(found: landmarks.FaceTrack, points: np.ndarray, width: int) -> float:
  """How far eyes and nose are from where they should be, as a share of the frame's width (KpsDis of V-Express).

  Args:
    found: the face in the generated frames.
    points: [f, 68, 2] landmarks that it should have.
    width: of the frames.
  """
  apart = keypoints.of_landmarks(found.landmarks) - keypoints.of_landmarks(points)
  return float(np.linalg.norm(apart, axis=-1).mean() / width)


def describe(frames: Sequence[np.ndarray], found: landmarks.FaceTrack) -> tuple[np.ndarray, np.ndarray]:
  """Statistics of who is shown: (mean colours of a grid around the face, mean landmarks of the upright face).

  Args:
    frames: uint8 [h, w, 3].
    found: the face in them.

  Returns:
    float64 [GRID, GRID, 3] in CIE Lab, and [68, 2] in eye distances.
  """
  size = 8 * GRID
  to_face = align.canonical_transforms(found.landmarks, size)
  crops = [cv2.cvtColor(align.crop(f, t, size), cv2.COLOR_RGB2LAB) for f, t in zip(frames, to_face)]
  cells = np.mean(crops, 0).reshape(GRID, 8, GRID, 8, 3).mean((1, 3))
  points = np.mean([align.transform_points(p, t) for p, t in zip(found.landmarks, to_face)], 0)
  return cells, points * (4 / size)


def nearest(shown: tuple[np.ndarray, np.ndarray], portraits: Sequence[tuple[np.ndarray, np.ndarray]]) -> int:
  """Which of some people is nearest: an index. Both statistics count by how much they differ between those people.

  Args:
    shown: from `describe`.
    portraits: as many of them, from their portraits.

  Raises:
    UserError: there are fewer than two people.
  """
  if len(portraits) < 2:
    raise UserError('telling people apart needs at least two portraits')
  total = np.zeros(len(portraits))
  for part in range(2):
    known = np.stack([p[part] for p in portraits])
    spread = known.std(0).mean() + 1e-9
    total += np.abs(known - shown[part]).reshape(len(known), -1).mean(1) / spread
  return int(total.argmin())


def seam_jump(frames: Sequence[np.ndarray], clip: int) -> float:
  """How much larger the change from frame to frame is at the seams of clips than inside them: a ratio of means.

  Args:
    frames: uint8 [h, w, 3].
    clip: frames of a clip; nan where there is no seam.
  """
  change = np.array([np.abs(a.astype(np.float32) - b).mean() for a, b in zip(frames[1:], frames[:-1])])
  seam = np.arange(1, len(frames)) % clip == 0
  if not seam.any() or seam.all() or not change[~seam].mean():
    return float('nan')
  return float(change[seam].mean() / change[~seam].mean())

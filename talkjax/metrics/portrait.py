"""Scores of videos generated from a portrait: identity, position of the face, keypoints, and jumps at seams.

Faces are detected in the generated frames (`landmarks.track`).
"""

from collections.abc import Sequence

import cv2
import numpy as np

from talkjax.errors import UserError
from talkjax.faces import align, keypoints, landmarks
from talkjax.metrics.puppet_mouth import puppet_openings

GRID = 8  # cells of the colour statistics per axis


def drawn_opening(frames: Sequence[np.ndarray], found: landmarks.FaceTrack | None = None) -> np.ndarray:
  """Mouth openings [f] of a drawn puppet, with landmarks detected in the frames; nan where no face is found.

  Args:
    frames: uint8 [h, w, 3].
    found: the face in them; None: it is looked for.
  """
  found = found or landmarks.track(frames)
  if found is None:
    return np.full(len(frames), np.nan)
  opening = puppet_openings(frames, align.centred_mean(np.asarray(found.landmarks, np.float64), 3))
  return np.where(found.found, opening, np.nan)


def in_region(found: landmarks.FaceTrack, region: np.ndarray) -> np.ndarray:
  """Whether the face is in the requested region [h, w, 1], [f]: its centre and at least 80 % of its landmarks are."""
  height, width = region.shape[:2]

  def inside(points):
    x = np.clip(points[..., 0].astype(int), 0, width - 1)
    y = np.clip(points[..., 1].astype(int), 0, height - 1)
    return region[y, x, 0] > 0

  return inside(found.landmarks.mean(1)) & (inside(found.landmarks).mean(1) >= 0.8)


def keypoint_distance(found: landmarks.FaceTrack, points: np.ndarray, width: int) -> float:
  """Mean distance of eyes and nose from their targets, as a fraction of the frame width (KpsDis of V-Express).

  Args:
    found: the face in the generated frames.
    points: [f, 68, 2], the target landmarks.
    width: of the frames in pixels.
  """
  difference = keypoints.of_landmarks(found.landmarks) - keypoints.of_landmarks(points)
  return float(np.linalg.norm(difference, axis=-1).mean() / width)


def describe(frames: Sequence[np.ndarray], found: landmarks.FaceTrack) -> tuple[np.ndarray, np.ndarray]:
  """Identity statistics: (mean colours of a grid over the face crop, mean landmarks of the aligned face).

  Args:
    frames: uint8 [h, w, 3].
    found: the face in them.

  Returns:
    float64 [GRID, GRID, 3] in CIE Lab, and [68, 2] in units of eye distance.
  """
  size = 8 * GRID
  to_face = align.canonical_transforms(found.landmarks, size)
  crops = [cv2.cvtColor(align.crop(f, t, size), cv2.COLOR_RGB2LAB) for f, t in zip(frames, to_face)]
  cells = np.mean(crops, 0).reshape(GRID, 8, GRID, 8, 3).mean((1, 3))
  points = np.mean([align.transform_points(p, t) for p, t in zip(found.landmarks, to_face)], 0)
  return cells, points * (4 / size)


def nearest(shown: tuple[np.ndarray, np.ndarray], portraits: Sequence[tuple[np.ndarray, np.ndarray]]) -> int:
  """Index of the most similar person. Each statistic is normalised by its standard deviation over those people.

  Args:
    shown: identity statistics from `describe`.
    portraits: the statistics of each person's portrait.

  Raises:
    UserError: there are fewer than two people.
  """
  if len(portraits) < 2:
    raise UserError('distinguishing people needs at least two portraits')
  total = np.zeros(len(portraits))
  for part in range(2):
    known = np.stack([p[part] for p in portraits])
    std = known.std(0).mean() + 1e-9
    total += np.abs(known - shown[part]).reshape(len(known), -1).mean(1) / std
  return int(total.argmin())


def seam_jump(frames: Sequence[np.ndarray], seams: Sequence[int]) -> float:
  """Mean change between consecutive frames at seams, relative to the mean change elsewhere.

  Args:
    frames: uint8 [h, w, 3].
    seams: the frames at which a separately generated clip begins; nan where there is none.
  """
  change = np.array([np.abs(a.astype(np.float32) - b).mean() for a, b in zip(frames[1:], frames[:-1])])
  seam = np.isin(np.arange(1, len(frames)), list(seams))
  if not seam.any() or seam.all() or not change[~seam].mean():
    return float('nan')
  return float(change[seam].mean() / change[~seam].mean())

"""Faces whose landmarks are given instead of detected, for what only needs to know where they are."""

import dataclasses

import numpy as np

from talkjax.faces.landmarks import FaceTrack
from talkjax.metrics import footage

# A mean face in units of the distance between the eyes, its origin between them; x to the right, y down.
_JAW = np.stack([1.1 * np.sin(np.linspace(-np.pi / 2, np.pi / 2, 17)), 1.6 * np.cos(np.linspace(-1.5, 1.5, 17))], 1)
_BROWS = np.array([[x, -0.35] for x in (-0.9, -0.7, -0.5, -0.3, -0.15, 0.15, 0.3, 0.5, 0.7, 0.9)])
_NOSE = np.array([[0, y] for y in (0, 0.2, 0.35, 0.5)] + [[x, 0.65] for x in (-0.2, -0.1, 0, 0.1, 0.2)])
_EYE = np.array([[-0.2, 0], [-0.07, -0.07], [0.07, -0.07], [0.2, 0], [0.07, 0.07], [-0.07, 0.07]])
_ANGLES = -np.pi + 2 * np.pi * np.arange(12) / 12
_LIPS = np.stack([0.35 * np.cos(_ANGLES), 1.05 + 0.15 * np.sin(_ANGLES)], 1)
_INNER = np.stack(
  [0.25 * np.cos(_ANGLES[:: 12 // 8][:8]), 1.05 + 0.06 * np.sin(2 * np.pi * np.arange(8) / 8 + np.pi)], 1
)
FACE = np.concatenate([_JAW, _BROWS, _NOSE, _EYE - [0.5, 0], _EYE + [0.5, 0], _LIPS, _INNER])


def landmarks(count: int, size: float = 16.0, middle=(48.0, 36.0)) -> np.ndarray:
  """[count, 68, 2]: a face that does not move; `size` is the distance between its eyes in pixels."""
  return np.repeat((FACE * size + middle)[None], count, axis=0)


def face_track(points: np.ndarray, pose: np.ndarray | None = None) -> FaceTrack:
  """The track of landmarks [f, 68, 2], with its pose [f, 3] (default: towards the camera)."""
  count = len(points)
  box = np.concatenate([points.min(1), points.max(1)], -1).astype(np.float32)
  pose = np.zeros((count, 3), np.float32) if pose is None else pose
  mesh = np.zeros((count, 468, 3), np.float32)
  return FaceTrack(points.astype(np.float32), mesh, box, pose, np.ones(count, bool), 1)


def with_face(video: footage.Footage, track: FaceTrack | None) -> footage.Footage:
  """The footage, in which this face is found; None: no face."""
  made = {f.name: np.asarray(getattr(track, f.name)) for f in dataclasses.fields(FaceTrack)} if track else {}
  return dataclasses.replace(video, _memory={'faces': made})

"""Where the face is in every frame: 68 landmarks, box and head pose.

Landmarks follow the iBUG 68-point layout as seen in the picture: 0-16 jaw from left to right (8 the chin), 17-26 brows,
27-30 bridge and tip of the nose, 31-35 its base, 36-41 left and 42-47 right eye, 48-59 outer and 60-67 inner lips.

Head pose is three angles in degrees, as seen in the picture, all zero for a face that looks straight into the camera:
  yaw    positive when the face turns to the right of the picture,
  pitch  positive when it looks up,
  roll   positive when the head tilts clockwise.
"""

import dataclasses
from collections.abc import Iterable

import cv2
import numpy as np

from talkjax.errors import UserError
from talkjax.faces import detector

# Which of the 468 points of MediaPipe's mesh stand for the 68: the published table of Speech Driven Video Editing.
# The mesh has no iBUG points, so these are the nearest; jaw points 1 and 15 lie beside the middle of the nose.
MESH_TO_68 = np.array([
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,  # jaw
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,  # brows
    168, 197, 5, 4, 75, 97, 2, 326, 305,  # nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,  # outer lips
    78, 82, 13, 312, 308, 317, 14, 87,  # inner lips
])  # yapf: disable

# The points that speech and expression move least, and where they lie on a mean face: x to the right, y down, z away
# from the camera, origin between the eyes, unit the distance between the eyes' centres. The mean of MediaPipe's meshes
# of 19 people, aligned in space and made symmetric.
STABLE = np.array([0, 1, 2, 14, 15, 16, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 39, 42, 45])
MEAN_FACE = np.array([
    [-1.126, -0.140, 0.714], [-1.135, 0.356, 0.913], [-1.117, 0.597, 0.898],
    [1.117, 0.597, 0.898], [1.135, 0.356, 0.913], [1.126, -0.140, 0.714],
    [0.0, -0.101, -0.314], [0.0, 0.126, -0.487], [0.0, 0.339, -0.688], [0.0, 0.476, -0.738],
    [-0.215, 0.644, -0.400], [-0.130, 0.696, -0.439], [0.0, 0.699, -0.467],
    [0.130, 0.696, -0.439], [0.215, 0.644, -0.400],
    [-0.724, -0.011, 0.045], [-0.276, 0.011, -0.045], [0.276, 0.011, -0.045], [0.724, -0.011, 0.045],
])  # yapf: disable

MIN_FOUND = 0.5  # share of frames that must show a face
MAX_GAP = 25  # frames without a face that are bridged


class NoFace(UserError):
  """No face that can be used: none, in too few frames, or gone for too long."""


@dataclasses.dataclass(frozen=True)
class FaceTrack:
  """The largest face of a clip, frame by frame."""

  landmarks: np.ndarray  # [f, 68, 2] float32, x, y in pixels
  mesh: np.ndarray  # [f, 468, 3] float32, x, y in pixels, z in pixels, smaller is nearer
  box: np.ndarray  # [f, 4] float32, x0, y0, x1, y1 in pixels, around the mesh
  pose: np.ndarray  # [f, 3] float32, yaw, pitch, roll in degrees
  found: np.ndarray  # [f] bool; elsewhere the values are interpolated
  num_faces: int  # most faces seen at once, in 5 % of the frames or more


def find_faces(
  frames: Iterable[np.ndarray], name: str = 'the video', min_found: float = MIN_FOUND, max_gap: int = MAX_GAP
) -> FaceTrack:
  """Finds the face of a clip in every frame; of several it follows the largest.

  Frames without a face take the values between their neighbours', or the nearest at the ends. Only the meshes are held
  in memory, not the frames.

  Args:
    frames: uint8 [h, w, 3] RGB, all of one size.
    name: what the frames are, for errors.
    min_found: least share of the frames that must show a face.
    max_gap: most frames in a row that may show none.

  Raises:
    NoFace: no face in any frame, in too few, or none for too long.
    UserError: MediaPipe is not installed.
  """
  meshes, counts = [], []
  with detector.Detector() as detect:
    previous = None
    for frame in frames:
      faces = detect(frame)
      counts.append(len(faces))
      mesh = _follow(faces, previous)
      previous = mesh if mesh is not None else previous
      meshes.append(mesh)
  found = np.array([m is not None for m in meshes], bool)
  check_found(found, name, min_found, max_gap)
  mesh = fill_gaps(np.stack([np.full((468, 3), np.nan) if m is None else m for m in meshes]), found)
  counts = np.sort(counts)[::-1]
  return FaceTrack(
    landmarks=mesh[:, MESH_TO_68, :2].astype(np.float32),
    mesh=mesh.astype(np.float32),
    box=np.concatenate([mesh[..., :2].min(1), mesh[..., :2].max(1)], -1).astype(np.float32),
    pose=head_pose(mesh[:, MESH_TO_68]),
    found=found,
    num_faces=max(1, int(counts[len(counts) // 20])),
  )


def _follow(faces: list[np.ndarray], previous: np.ndarray | None) -> np.ndarray | None:
  """The face to go on with: the previous one, unless it is gone or another is more than twice as large."""
  if not faces:
    return None
  largest = max(faces, key=detector.area)
  if previous is None:
    return largest
  same = max(faces, key=lambda m: detector.overlap(m, previous))
  lost = detector.overlap(same, previous) < 0.2 or detector.area(same) < 0.5 * detector.area(largest)
  return largest if lost else same


def check_found(found: np.ndarray, name: str, min_found: float = MIN_FOUND, max_gap: int = MAX_GAP) -> None:
  """Raises NoFace, with how many frames had a face, where too few of `found` [f] are True."""
  total, seen = len(found), int(np.sum(found))
  if total == 0:
    raise NoFace(f'{name} has no frames: give a video with a face')
  if seen == 0:
    where, what = (name, 'picture') if total == 1 else (f'any of the {total} frames of {name}', 'video')
    raise NoFace(
      f'no face was found in {where}: give a {what} of one person facing the camera, the face at least a tenth of the '
      'picture high'
    )
  if seen < min_found * total:
    raise NoFace(
      f'a face was found in only {seen} of the {total} frames of {name}, at least {min_found:.0%} are '
      'needed: cut it to the part where the person faces the camera'
    )
  start, length = longest_gap(found)
  if length > max_gap:
    raise NoFace(
      f'a face was found in {seen} of the {total} frames of {name} but in none of frames {start} to '
      f'{start + length - 1}, at most {max_gap} in a row may lack one: cut that part out'
    )


def longest_gap(found: np.ndarray) -> tuple[int, int]:
  """(first frame, length) of the longest run of False in [f]."""
  edges = np.diff(np.concatenate([[1], np.asarray(found, np.int8), [1]]))
  starts, ends = np.flatnonzero(edges == -1), np.flatnonzero(edges == 1)
  if not len(starts):
    return 0, 0
  longest = int(np.argmax(ends - starts))
  return int(starts[longest]), int(ends[longest] - starts[longest])


def fill_gaps(values: np.ndarray, found: np.ndarray) -> np.ndarray:
  """[f, ...] with rows missing where `found` [f] is False -> the same, interpolated in time; the ends are held."""
  present = np.flatnonzero(found)
  if len(present) == len(found):
    return values
  flat = values.reshape(len(values), -1)
  right = np.searchsorted(present, np.arange(len(values)))  # the first present frame at or after each
  after = present[np.minimum(right, len(present) - 1)]
  before = present[np.maximum(np.minimum(right, len(present) - 1) - (after > np.arange(len(values))), 0)]
  before = np.minimum(before, after)
  share = np.clip((np.arange(len(values)) - before) / np.maximum(after - before, 1), 0, 1)[:, None]
  return ((1 - share) * flat[before] + share * flat[after]).reshape(values.shape)


def mesh_to_68(mesh: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
  """MediaPipe's mesh as published masks use it: int32 [68, 2] pixels, truncated towards zero (golden case dve_mask).

  Args:
    mesh: [468, 3], x and y as fractions of the picture; all zero stands for no face.
    size: (h, w) of the picture, or one number for a square.
  """
  return mesh_points(mesh, size).astype(np.int32)


def mesh_points(mesh: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
  """As `mesh_to_68`, unrounded: [..., 468, 3] fractions -> [..., 68, 2] pixels."""
  height, width = (size, size) if isinstance(size, (int, np.integer)) else size
  mesh = np.asarray(mesh)
  return mesh[..., MESH_TO_68, :2] * np.asarray([width, height], mesh.dtype)


def head_pose(points: np.ndarray) -> np.ndarray:
  """[f, 68, 3] landmarks in space (pixels; y down, z away from the camera) -> [f, 3] float32 yaw, pitch, roll, degrees.

  The rotation that takes the mean face to the stable points in the least-squares sense (Kabsch), read as roll after
  pitch after yaw. The module's docstring tells the signs.
  """
  source = MEAN_FACE - MEAN_FACE.mean(0)
  target = np.asarray(points, np.float64)[:, STABLE]
  target = target - target.mean(1, keepdims=True)
  u, _, vt = np.linalg.svd(np.einsum('nk,fnj->fkj', source, target))
  flip = np.linalg.det(u @ vt)
  u[:, :, 2] *= np.sign(flip)[:, None]
  rotation = np.swapaxes(u @ vt, 1, 2)  # takes the mean face's axes to the picture's
  gaze = -rotation[:, :, 2]  # out of the face, towards the camera when it looks into it
  yaw = np.arctan2(gaze[:, 0], -gaze[:, 2])
  pitch = np.arcsin(np.clip(-gaze[:, 1], -1, 1))
  # What is left of the rotation about the line of sight: how far the eyes' line is from level.
  level = np.stack([np.cos(yaw), np.zeros_like(yaw), np.sin(yaw)], -1)
  down = np.cross(-gaze, level)
  right = rotation[:, :, 0]
  roll = np.arctan2((right * down).sum(-1), (right * level).sum(-1))
  return np.degrees(np.stack([yaw, pitch, roll], -1)).astype(np.float32)


def head_speed(pose: np.ndarray, fps: float) -> np.ndarray:
  """How fast a head turns: yaw, pitch, roll [f, 3] in degrees -> [f] degrees/s.

  Poses are averaged over 5 frames first: what is found in pictures trembles, and trembling is speed.
  """
  if len(pose) < 2:
    return np.zeros(len(pose), np.float32)
  window = min(5, len(pose))
  smooth = cv2.blur(np.asarray(pose, np.float64), (1, window), borderType=cv2.BORDER_REPLICATE)
  return (np.linalg.norm(np.gradient(smooth, axis=0), axis=1) * fps).astype(np.float32)


def mouth_opening(landmarks: np.ndarray) -> np.ndarray:
  """How far the mouth is open: [f, 68, 2] -> [f] float32, inner-lip distance over face height.

  The distance is the mean of the three pairs of inner-lip points; the face is as high as from the brows' middle to the
  chin of a closed mouth, taken from the eyes and the nose, which do not move with it. Heads near or far, tilted or
  turned give the same value.
  """
  points = np.asarray(landmarks, np.float64)
  opening = np.linalg.norm(points[:, [61, 62, 63]] - points[:, [67, 66, 65]], axis=-1).mean(-1)
  return (opening / face_height(points)).astype(np.float32)


def eye_distance(landmarks: np.ndarray) -> np.ndarray:
  """[..., 68, 2] -> [...] pixels between the eyes' centres, as it were if the head were not turned aside.

  Turning aside shortens it, so it is at least what the length of the nose says.
  """
  points = np.asarray(landmarks)
  eyes = np.linalg.norm(points[..., 42:48, :].mean(-2) - points[..., 36:42, :].mean(-2), axis=-1)
  nose = np.linalg.norm(points[..., 33, :] - points[..., 27, :], axis=-1)
  return np.maximum(eyes, nose / 0.8)


def face_height(landmarks: np.ndarray) -> np.ndarray:
  """[..., 68, 2] -> [...] pixels from between the brows to the chin of a closed mouth, 2.2 eye distances."""
  return 2.2 * eye_distance(landmarks)

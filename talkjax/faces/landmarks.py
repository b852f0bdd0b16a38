"""Face tracking: 68 landmarks, bounding box and head pose in every frame.

Landmarks follow the iBUG 68-point layout as seen in the image: 0-16 jaw from left to right (8 the chin), 17-26 brows,
27-30 bridge and tip of the nose, 31-35 its base, 36-41 left and 42-47 right eye, 48-59 outer and 60-67 inner lips.

Head pose is three angles in degrees, as seen in the image, all zero for a face that looks straight into the camera:
  yaw    positive when the face turns to the right of the image,
  pitch  positive when it looks up,
  roll   positive when the head tilts clockwise.
"""

import dataclasses
import itertools
import sys
from collections.abc import Iterable

import cv2
import numpy as np

from talkjax.errors import UserError
from talkjax.faces import detector
from talkjax.faces.measures import head_pose

# Indices of the 468 points of MediaPipe's mesh used as the 68 landmarks: the published table of Speech Driven Video
# Editing. The mesh has no iBUG points, so these are the nearest; jaw points 1 and 15 are level with the middle of the
# nose.
MESH_TO_68 = np.array([
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,  # jaw
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,  # brows
    168, 197, 5, 4, 75, 97, 2, 326, 305,  # nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,  # outer lips
    78, 82, 13, 312, 308, 317, 14, 87,  # inner lips
])  # yapf: disable

MIN_FOUND = 0.5  # least fraction of frames with a face
DETECTED = 256  # least size of frames that `track` detects faces in, pixels
MAX_GAP = 25  # most consecutive frames without a face, which are interpolated


class NoFace(UserError):
  """No usable face: none at all, in too few frames, or missing for too long."""


@dataclasses.dataclass(frozen=True)
class FaceTrack:
  """The largest face of a clip, frame by frame."""

  landmarks: np.ndarray  # [f, 68, 2] float32, x, y in pixels
  mesh: np.ndarray  # [f, 468, 3] float32, x, y, z in pixels; smaller z is nearer
  box: np.ndarray  # [f, 4] float32, x0, y0, x1, y1 in pixels, around the mesh
  pose: np.ndarray  # [f, 3] float32, yaw, pitch, roll in degrees
  found: np.ndarray  # [f] bool; where False, the values are interpolated
  num_faces: int  # most faces visible at once, in at least 5 % of the frames


def find_faces(
  frames: Iterable[np.ndarray], name: str = 'the video', min_found: float = MIN_FOUND, max_gap: int = MAX_GAP
) -> FaceTrack:
  """Finds the face of a clip in every frame; of several faces it tracks the largest.

  Frames without a face are interpolated from their neighbours; at the ends the nearest values are repeated. Only the
  meshes are kept in memory, not the frames.

  Args:
    frames: uint8 [h, w, 3] RGB, all of the same size.
    name: of the video, for error messages.
    min_found: least fraction of the frames with a face.
    max_gap: most consecutive frames without a face.

  Raises:
    NoFace: no face in any frame, in too few frames, or none for too long.
    UserError: MediaPipe is not installed.
  """
  meshes, counts = [], []
  with detector.Detector() as detect:
    previous = None
    for frame in frames:
      faces = detect(frame)
      counts.append(len(faces))
      mesh = select_face(faces, previous)
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


def track(frames: Iterable[np.ndarray]) -> FaceTrack | None:
  """The face in uint8 frames [h, w, 3], in pixels of the frames; None if no face is found in half of them.

  Small frames are enlarged for detection.
  """
  frames = iter(frames)
  first = next(frames)
  frames = itertools.chain([first], frames)
  scale = max(1, -(-DETECTED // max(first.shape[:2])))
  enlarge = lambda f: cv2.resize(f, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) if scale > 1 else f
  try:
    found = find_faces(map(enlarge, frames), min_found=0.5, max_gap=sys.maxsize)
  except NoFace:
    return None
  return FaceTrack(
    found.landmarks / scale, found.mesh / scale, found.box / scale, found.pose, found.found, found.num_faces
  )


def select_face(faces: list[np.ndarray], previous: np.ndarray | None) -> np.ndarray | None:
  """The face to track: the previous one, unless it is gone or another is more than twice as large."""
  if not faces:
    return None
  largest = max(faces, key=detector.area)
  if previous is None:
    return largest
  same = max(faces, key=lambda m: detector.overlap(m, previous))
  lost = detector.overlap(same, previous) < 0.2 or detector.area(same) < 0.5 * detector.area(largest)
  return largest if lost else same


def check_found(found: np.ndarray, name: str, min_found: float = MIN_FOUND, max_gap: int = MAX_GAP) -> None:
  """Raises NoFace if too few of `found` [f] are True; the message gives the number of frames with a face."""
  total, seen = len(found), int(np.sum(found))
  if total == 0:
    raise NoFace(f'{name} has no frames: give a video with a face')
  if seen == 0:
    where, kind = (name, 'picture') if total == 1 else (f'any of the {total} frames of {name}', 'video')
    raise NoFace(
      f'no face was found in {where}: give a {kind} of one person facing the camera, with a face at least a tenth of '
      'the height'
    )
  if seen < min_found * total:
    raise NoFace(
      f'a face was found in only {seen} of the {total} frames of {name}, but at least {min_found:.0%} are '
      'needed: trim it to the part where the person faces the camera'
    )
  start, length = longest_gap(found)
  if length > max_gap:
    raise NoFace(
      f'a face was found in {seen} of the {total} frames of {name} but in none of frames {start} to '
      f'{start + length - 1}, and at most {max_gap} consecutive ones may lack a face: cut that part out'
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
  """Interpolates the rows of [f, ...] where `found` [f] is False linearly in time; the ends are held."""
  present = np.flatnonzero(found)
  if len(present) == len(found):
    return values
  flat = values.reshape(len(values), -1)
  right = np.searchsorted(present, np.arange(len(values)))  # the first present frame at or after each
  after = present[np.minimum(right, len(present) - 1)]
  before = present[np.maximum(np.minimum(right, len(present) - 1) - (after > np.arange(len(values))), 0)]
  before = np.minimum(before, after)
  fraction = np.clip((np.arange(len(values)) - before) / np.maximum(after - before, 1), 0, 1)[:, None]
  return ((1 - fraction) * flat[before] + fraction * flat[after]).reshape(values.shape)


def mesh_to_68(mesh: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
  """Landmarks of MediaPipe's mesh as used by the published masks: int32 [68, 2] pixels, truncated towards zero.

  Golden case dve_mask.

  Args:
    mesh: [468, 3], x and y as fractions of the image size; all zero if there is no face.
    size: (h, w) of the image, or one number for a square.
  """
  return mesh_points(mesh, size).astype(np.int32)


def mesh_points(mesh: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
  """As `mesh_to_68`, unrounded: [..., 468, 3] fractions -> [..., 68, 2] pixels."""
  height, width = (size, size) if isinstance(size, (int, np.integer)) else size
  mesh = np.asarray(mesh)
  return mesh[..., MESH_TO_68, :2] * np.asarray([width, height], mesh.dtype)

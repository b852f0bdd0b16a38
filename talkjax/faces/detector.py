"""Face detection with MediaPipe's face mesh: a frame in, a list of meshes in pixels out."""

import contextlib
import importlib.util
import os
import sys
import weakref

import cv2
import numpy as np

from talkjax.errors import UserError
from talkjax.faces import mediapipe_tasks

MAX_FACES = 4
SMALL = 256  # images with a shorter side below this are enlarged before detection
SEARCH_EVERY = 10  # every tenth frame without a face is searched tile by tile
CONFIDENCE = 0.5  # detection threshold in the whole image
CLOSE_CONFIDENCE = 0.3  # detection threshold in a tile
_MISSING = 'MediaPipe, which detects faces, is not installed or cannot be loaded ({}): run launch/setup.sh'
# The FaceMeshes that have already found a face. The first detection of each prints a warning, which is silenced.
_WARNED = weakref.WeakSet()


class Detector:
  """Finds faces in the frames of one clip, in order; a context manager.

  A face is tracked from frame to frame. If none is found in the whole image, overlapping tiles are searched (for small
  faces in large images). In the following frames only the surroundings of a face found in a tile are searched.
  """

  def __init__(self):
    self._tracker = self._still = None
    self._empty = 0  # frames in a row without a face
    self._near = None  # (x0, y0, x1, y1), the region to search after a face was found in a tile only

  def __enter__(self) -> 'Detector':
    self._tracker = _face_mesh(static=False, confidence=CONFIDENCE)
    return self

  def __exit__(self, *_):
    for mesh in (self._tracker, self._still):
      if mesh is not None:
        mesh.close()
    self._tracker = self._still = None

  def __call__(self, rgb: np.ndarray) -> list[np.ndarray]:
    """uint8 [h, w, 3] RGB -> a list of [468, 3] float64 meshes: x, y, z in pixels of the frame."""
    faces = []
    if self._near is None:
      faces = distinct(_process(self._tracker, rgb))
    if not faces and (self._near is not None or self._empty % SEARCH_EVERY == 0):
      faces = self._search_tiles(rgb)
    self._empty = 0 if faces else self._empty + 1
    return faces

  def _search_tiles(self, rgb: np.ndarray) -> list[np.ndarray]:
    if self._still is None:
      self._still = _face_mesh(static=True, confidence=CLOSE_CONFIDENCE)
    height, width = rgb.shape[:2]
    regions = [self._near] if self._near is not None else [(0, 0, width, height), *tiles(height, width)]
    faces = []
    for x0, y0, x1, y1 in regions:
      region = np.ascontiguousarray(rgb[y0:y1, x0:x1])
      faces += [mesh + [x0, y0, 0] for mesh in _process(self._still, region)]
    faces = distinct(faces)
    self._near = None
    if faces:
      x0, y0, x1, y1 = box(max(faces, key=area))
      side = 1.5 * max(x1 - x0, y1 - y0)  # half the side of the square to search in the next frame
      x, y = (x0 + x1) / 2, (y0 + y1) / 2
      self._near = (max(0, int(x - side)), max(0, int(y - side)), min(width, int(x + side)), min(height, int(y + side)))
    return faces


def mesh_edges() -> list[tuple[int, int]]:
  """Pairs of vertices of the mesh's edges, in no order.

  Raises:
    UserError: MediaPipe is not installed.
  """
  with quiet():
    try:
      if _has_solutions():
        from mediapipe.python.solutions import face_mesh_connections

        return [(int(a), int(b)) for a, b in face_mesh_connections.FACEMESH_TESSELATION]
      from mediapipe.tasks.python import vision

      edges = vision.FaceLandmarksConnections.FACE_LANDMARKS_TESSELATION
      return [(int(edge.start), int(edge.end)) for edge in edges]
    except ImportError as error:
      raise UserError(_MISSING.format(error)) from error


def tiles(height: int, width: int) -> list[tuple[int, int, int, int]]:
  """Overlapping squares that cover an image, with a half and a quarter of its shorter side: (x0, y0, x1, y1)."""
  pieces = []
  for side in (min(height, width) // 2, min(height, width) // 4):
    if side < 48:
      break
    for y0 in np.unique(np.linspace(0, height - side, max(1, round(height / side * 2) - 1)).astype(int)):
      for x0 in np.unique(np.linspace(0, width - side, max(1, round(width / side * 2) - 1)).astype(int)):
        pieces.append((int(x0), int(y0), int(x0) + side, int(y0) + side))
  return pieces


def box(mesh: np.ndarray) -> np.ndarray:
  """[468, 3] -> [4]: x0, y0, x1, y1."""
  return np.concatenate([mesh[:, :2].min(0), mesh[:, :2].max(0)])


def area(mesh: np.ndarray) -> float:
  """Area of the bounding box of a mesh in pixels."""
  x0, y0, x1, y1 = box(mesh)
  return float((x1 - x0) * (y1 - y0))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
  """Intersection over union of the bounding boxes of two meshes."""
  p, q = box(a), box(b)
  low, high = np.maximum(p[:2], q[:2]), np.minimum(p[2:], q[2:])
  both = float(np.prod(np.maximum(high - low, 0)))
  return both / max(area(a) + area(b) - both, 1e-9)


def distinct(faces: list[np.ndarray]) -> list[np.ndarray]:
  """One mesh per face: drops meshes that overlap a larger one."""
  found = []
  for mesh in sorted(faces, key=area, reverse=True):
    if all(overlap(mesh, other) < 0.3 for other in found):
      found.append(mesh)
  return found


def _process(face_mesh, rgb: np.ndarray) -> list[np.ndarray]:
  height, width = rgb.shape[:2]
  if min(height, width) < SMALL:
    factor = SMALL / min(height, width)
    rgb = cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
  with contextlib.nullcontext() if face_mesh in _WARNED else quiet():
    faces = face_mesh.process(np.ascontiguousarray(rgb))
  if faces:
    _WARNED.add(face_mesh)
  return [mesh[:468] * [width, height, width] for mesh in faces]  # MediaPipe's z has the scale of x


class SolutionsMesh:
  """MediaPipe 0.10.21 and before: `process(rgb)` returns [478, 3] meshes, x and y as fractions of the image size."""

  def __init__(self, static: bool, max_faces: int, confidence: float, tracking_confidence: float):
    from mediapipe.python.solutions import face_mesh

    self._mesh = face_mesh.FaceMesh(
      static_image_mode=static,
      max_num_faces=max_faces,
      refine_landmarks=True,
      min_detection_confidence=confidence,
      min_tracking_confidence=tracking_confidence,
    )

  def process(self, rgb: np.ndarray) -> list[np.ndarray]:
    faces = self._mesh.process(rgb).multi_face_landmarks or []
    return [np.array([(p.x, p.y, p.z) for p in face.landmark]) for face in faces]

  def close(self) -> None:
    self._mesh.close()


def _has_solutions() -> bool:
  with contextlib.suppress(ModuleNotFoundError):  # MediaPipe is not installed
    return importlib.util.find_spec('mediapipe.python') is not None
  return False


def _face_mesh(static: bool, confidence: float):
  """The face mesh with refined lips and eyes, as in the published code, for the installed MediaPipe release."""
  with quiet():
    try:
      kind = SolutionsMesh if _has_solutions() else mediapipe_tasks.TasksMesh
      mesh = kind(static, MAX_FACES, confidence, CONFIDENCE)
    except ImportError as error:
      raise UserError(_MISSING.format(error)) from error
    mesh.process(np.zeros((64, 80, 3), np.uint8))  # starts its threads, whose start-up messages are silenced here
  # MediaPipe keeps the error of an optional import, whose traceback would keep all variables of the functions that were
  # running: the clips of a batch.
  recorder = sys.modules.get('mediapipe.tasks.python.audio.core.audio_record')
  if error := getattr(recorder, 'sd_error', None):
    error.__traceback__ = None
  return mesh


@contextlib.contextmanager
def quiet():
  """Silences the process's stderr: MediaPipe's C++ code writes to it before its logging can be configured."""
  os.environ.setdefault('GLOG_minloglevel', '3')
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  sys.stderr.flush()
  try:
    saved = os.dup(2)
  except OSError:  # there is no stderr
    yield
    return
  devnull = os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(devnull, 2)
    yield
  finally:
    sys.stderr.flush()
    os.dup2(saved, 2)
    os.close(saved)
    os.close(devnull)

"""`mesh_pca`: a morphable model fitted to the meshes of a corpus, and the coefficients of meshes under it.

It stands in for the Basel Face Model (section 3.1.1 of FD2Talk) without a download. Identity is a PCA of people's mean
shapes, expression a PCA of the deviations of frames from them. Poses are similarities (Procrustes) fitted to the
vertices that expressions move least; their scale becomes the translation in depth. Coefficients have unit variance, and
are the most probable ones given a mesh: least squares with the prior that they are independent and normal.

Meshes are [f, 468, 3] x, y, z in pixels of the picture, z away from the camera (`landmarks.FaceTrack.mesh`).
"""

import collections
import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from talkjax.faces import detector
from talkjax.faces.landmarks import MESH_TO_68, FaceTrack, find_faces
from talkjax.faces.measures import MEAN_FACE, STABLE
from talkjax.faces.mediapipe_tasks import LIPS
from talkjax.faces.morphable import MorphableModel, angles_of, normals, statistics

NAME = 'mesh_pca'
IDENTITY, EXPRESSION = 16, 24  # numbers of coefficients
FOCAL, DISTANCE = 2.0, 10.0  # at translation z 0, the eyes are a fifth of the picture's side apart
MOUTH = np.array(LIPS[:40], np.int32)  # outer and inner edge of the lips
RIGID = 0.4  # fraction of the vertices that the pose is fitted to
ROUNDS = 3  # of fitting pose and shape in turns


@dataclasses.dataclass(frozen=True)
class Fit:
  """A fitted model, and the fractions of the variance that its bases explain, cumulative by coefficient."""

  model: MorphableModel
  identity_explained: np.ndarray  # [k_i] of the variance between people
  expression_explained: np.ndarray  # [k_e] of the variance within a person's frames


def fit(
  clips: Sequence[tuple[str, np.ndarray, tuple[int, int]]], identity: int = IDENTITY, expression: int = EXPRESSION
) -> Fit:
  """Fits a model to the meshes of clips.

  A model of fewer people than identity coefficients has zeros for the rest, whose coefficients are 0.

  Args:
    clips: (speaker, mesh [f, 468, 3], (h, w) of the picture); clips of one speaker share a mean shape.
    identity, expression: numbers of coefficients.
  """
  points = [to_model_axes(mesh, size) for _, mesh, size in clips]
  people = list(dict.fromkeys(speaker for speaker, *_ in clips))
  owner = np.concatenate([[people.index(speaker)] * len(x) for (speaker, *_), x in zip(clips, points)])
  points = np.concatenate(points)
  mean, aligned, rigid = _common_shape(points, owner, len(people))
  shapes = np.stack([aligned[owner == i].mean(0) for i in range(len(people))])
  identity_basis, identity_explained = _principal(shapes - mean, identity)
  # Deviations are measured in each person's own shape, so that identity does not leak into them through the pose.
  deviations = _unpose(points, *procrustes(shapes[owner], points, rigid)) - shapes[owner]
  expression_basis, expression_explained = _principal(deviations, expression)
  noise = np.sqrt(max(1 - expression_explained[-1], 1e-4) * np.mean(deviations**2))
  model = MorphableModel(
    name=NAME,
    mean=mean.astype(np.float32),
    identity=identity_basis,
    expression=expression_basis,
    triangles=_triangles(mean),
    mouth=MOUTH,
    landmarks68=MESH_TO_68.astype(np.int32),
    rigid=rigid.astype(np.int32),
    noise=np.float32(noise),
    row_mean=np.zeros(identity + expression + 6, np.float32),
    row_std=np.ones(identity + expression + 6, np.float32),
    camera=np.array([FOCAL, DISTANCE, 0], np.float32),
  )
  row_mean, row_std = statistics(np.concatenate([coefficients(model, mesh, size) for _, mesh, size in clips]))
  return Fit(dataclasses.replace(model, row_mean=row_mean, row_std=row_std), identity_explained, expression_explained)


def coefficients(model: MorphableModel, mesh: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Rows of coefficients [f, k] float32 of the meshes [f, 468, 3] of one clip or picture of (h, w) pixels.

  All rows have the same identity.
  """
  points = to_model_axes(mesh, size)
  mean, rigid = np.asarray(model.mean, np.float64), np.asarray(model.rigid)
  bases = np.concatenate([model.identity, model.expression], -1).reshape(mean.size, -1)
  alpha, shape = np.zeros(model.identity.shape[-1]), mean
  for _ in range(ROUNDS):
    pose = procrustes(shape, points, rigid)
    still = _unpose(points, *pose)
    alpha = _most_probable(bases, still.mean(0) - mean, model.noise)[: len(alpha)]
    shape = mean + model.identity @ alpha
  scale, matrix, moved = pose = procrustes(shape, points, rigid)
  beta = _most_probable(model.expression.reshape(mean.size, -1), _unpose(points, *pose) - shape, model.noise)
  translation = np.concatenate([moved[:, :2] / scale[:, None], DISTANCE - FOCAL / scale[:, None]], -1)
  rows = [np.broadcast_to(alpha, (len(points), len(alpha))), beta, angles_of(matrix), translation]
  return np.concatenate(rows, -1).astype(np.float32)


def in_square(rows: np.ndarray, corner: tuple[float, float], side: float, size: tuple[int, int]) -> np.ndarray:
  """Rows of coefficients in a square of the picture instead of all of it, which changes translations alone.

  Args:
    rows: [..., k], of a picture of `size` (h, w) pixels.
    corner: the top left corner of the square, x and y in pixels.
    side: of the square, in pixels.
    size: of the picture.

  Returns:
    [..., k] float32.
  """
  rows = np.array(rows, np.float32)
  (height, width), (x, y), shorter = size, corner, min(size)
  distance = DISTANCE - rows[..., -1]  # of the face from the camera; it is FOCAL / distance shorter sides per unit
  rows[..., -3] -= (x + (side - width) / 2) / shorter * distance / FOCAL
  rows[..., -2] += (y + (side - height) / 2) / shorter * distance / FOCAL
  rows[..., -1] = DISTANCE - side / shorter * distance
  return rows


def depth_of(model: MorphableModel, crop: float):
  """Translation z of the mean face in a square whose side is `crop` times the longer side of its landmarks' box."""
  points = model.mean[model.landmarks68][:, :2]
  return DISTANCE - FOCAL * crop * (points.max(0) - points.min(0)).max()


def of_track(model: MorphableModel, track: FaceTrack, size: tuple[int, int]) -> np.ndarray:
  """Rows of coefficients [f, k] of a tracked face in pictures of (h, w) pixels."""
  return coefficients(model, track.mesh, size)


def of_picture(model: MorphableModel, picture: np.ndarray, name: str = 'the picture') -> np.ndarray:
  """The row of coefficients [k] of the face in a picture uint8 [h, w, 3].

  Raises:
    NoFace: there is none; the message has `name`.
  """
  return of_track(model, find_faces([picture], name), picture.shape[:2])[0]


def to_model_axes(mesh: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Pixels [f, 468, 3] -> float64, x right, y up, z towards the viewer, from the centre, in (shorter) picture sides."""
  height, width = size
  return (np.asarray(mesh, np.float64) - [width / 2, height / 2, 0]) * np.array([1, -1, -1]) / min(height, width)


def procrustes(source: np.ndarray, target: np.ndarray, vertices: np.ndarray):
  """The similarities that fit shapes to points: target = scale * (source @ matrix) + moved.

  Args:
    source: [n, 3], or one per frame [f, n, 3].
    target: [f, n, 3].
    vertices: those that count.

  Returns:
    scale [f], matrix [f, 3, 3] as of `morphable.rotation`, moved [f, 3].
  """
  a, b = source[..., vertices, :], target[:, vertices]
  a_mean, b_mean = a.mean(-2, keepdims=True), b.mean(-2, keepdims=True)
  a, b = a - a_mean, b - b_mean
  u, values, vt = np.linalg.svd(np.swapaxes(a, -1, -2) @ b)
  sign = np.sign(np.linalg.det(u @ vt))
  u[..., 2] *= sign[:, None]
  values[:, 2] *= sign
  matrix = u @ vt
  scale = values.sum(-1) / (a**2).sum((-1, -2))
  return scale, matrix, (b_mean - scale[:, None, None] * (a_mean @ matrix))[:, 0]


def _unpose(points: np.ndarray, scale: np.ndarray, matrix: np.ndarray, moved: np.ndarray) -> np.ndarray:
  """The inverse of a similarity of `procrustes`: [f, n, 3]."""
  return ((points - moved[:, None]) / scale[:, None, None]) @ np.swapaxes(matrix, -1, -2)


def _common_shape(points: np.ndarray, owner: np.ndarray, people: int):
  """The mean of people's shapes, all frames aligned to it, and the rigid vertices.

  It faces the viewer and has the size of MEAN_FACE, whose eyes are 1 apart.
  """
  reference = MEAN_FACE * [1, -1, -1]
  stable, rigid = MESH_TO_68[STABLE], np.arange(points.shape[1])
  aligned = _unpose(points, *procrustes(reference, points[:, stable], np.arange(len(stable))))
  for _ in range(ROUNDS):
    shapes = np.stack([aligned[owner == i].mean(0) for i in range(people)])
    mean = shapes.mean(0)
    mean = _unpose(mean[None], *procrustes(reference, mean[None, stable], np.arange(len(stable))))[0]
    moves = np.sqrt(((aligned - shapes[owner]) ** 2).sum(-1).mean(0))
    rigid = np.sort(np.argsort(moves)[: round(RIGID * len(moves))])
    aligned = _unpose(points, *procrustes(mean, points, rigid))
  return np.mean([aligned[owner == i].mean(0) for i in range(people)], 0), aligned, rigid


def _principal(deviations: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Principal components of [f, n, 3], scaled to coefficients of variance 1: [n, 3, count], zeros where there are none.

  Also returns the cumulative fraction of the variance that they explain, [count].
  """
  flat = deviations.reshape(len(deviations), -1)
  values, vectors = np.linalg.eigh(flat @ flat.T if len(flat) < flat.shape[1] else flat.T @ flat)
  values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
  if len(flat) < flat.shape[1]:
    vectors = flat.T @ vectors / np.sqrt(np.maximum(values, 1e-12))
  used = int(np.sum(values[:count] > 1e-6 * max(values.sum(), 1e-12)))
  basis = np.zeros((flat.shape[1], count))
  basis[:, :used] = vectors[:, :used] * np.sqrt(values[:used] / len(flat))
  explained = np.cumsum(values[:count]) / max(values.sum(), 1e-12)
  explained = np.concatenate([explained, np.repeat(explained[-1:], count - len(explained))])
  return basis.reshape(*deviations.shape[1:], count).astype(np.float32), explained


def _most_probable(basis: np.ndarray, deviations: np.ndarray, noise: float) -> np.ndarray:
  """Coefficients of [..., n, 3] under a basis [3n, k] and a standard normal prior: [..., k]."""
  basis = np.asarray(basis, np.float64)
  flat = deviations.reshape(*deviations.shape[:-2], -1)
  return np.linalg.solve(basis.T @ basis + float(noise) ** 2 * np.eye(basis.shape[1]), basis.T @ flat[..., None])[
    ..., 0
  ]


def _triangles(mean: np.ndarray) -> np.ndarray:
  """The triangles of the mesh, with holes for mouth and eyes: [852, 3] int32, facing the viewer.

  MediaPipe has edges only: its triangles are the three-cycles of edges, without those that enclose a vertex.
  """
  neighbours = collections.defaultdict(set)
  for a, b in detector.mesh_edges():
    neighbours[a].add(b)
    neighbours[b].add(a)
  cycles = [
    (a, b, c)
    for a, others in neighbours.items()
    for b in others
    for c in others & neighbours[b]
    if a < b < c and not _encloses(neighbours, a, b, c)
  ]
  triangles = _oriented(sorted(cycles))
  facing = normals(mean, triangles)[:, 2].mean() > 0
  return triangles if facing else np.ascontiguousarray(triangles[:, ::-1])


def _oriented(triangles: Sequence[tuple[int, int, int]]) -> np.ndarray:
  """Turns triangles so that neighbours go along their common edge in opposite directions, from the first on."""
  at_edge = collections.defaultdict(list)
  for i, triangle in enumerate(triangles):
    for pair in itertools.combinations(triangle, 2):
      at_edge[frozenset(pair)].append(i)
  turned, waiting = {0: triangles[0]}, [0]
  while waiting:
    a, b, c = turned[waiting.pop()]
    for start, end in ((b, a), (c, b), (a, c)):  # as neighbours go along the edges
      for i in at_edge[frozenset((start, end))]:
        if i not in turned:
          (other,) = set(triangles[i]) - {start, end}
          turned[i] = start, end, other
          waiting.append(i)
  return np.array([turned[i] for i in range(len(triangles))], np.int32)


def _encloses(neighbours, a: int, b: int, c: int) -> bool:
  """Whether the vertices of a cycle have a neighbour in common that has no others: it is inside of the cycle."""
  return any(neighbours[v] == {a, b, c} for v in neighbours[a] & neighbours[b] & neighbours[c])

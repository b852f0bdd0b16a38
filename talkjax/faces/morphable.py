"""The morphable model: a face as a mean shape and linear bases of identity and expression, with a pose and a camera.

Section 3.1.1 of FD2Talk, in the conventions of Deep3DFaceRecon. Axes of the model: x right, y up, z towards the viewer.
A row of coefficients describes one frame:

  [identity k_i | expression k_e | angles 3 | translation 3]

  angles       radians about x (positive looks down), y (positive turns to the right of the image) and z (positive
               tilts counter-clockwise), applied in this order. The corpora's yaw, pitch, roll are `degrees`.
  translation  units of the model; z is towards the camera, and therefore carries the size of the face in the picture.

There are two models: `bfm`, the Basel Face Model that users bring (`talkjax.convert --source=bfm`), and `mesh_pca`,
fitted to the meshes of a corpus (`talkjax.faces.mesh_pca`), which stands in for it and never has its name.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Numbers of vertices, triangles, mouth and rigid vertices, and of coefficients."""

  vertices: int
  triangles: int
  mouth: int
  rigid: int
  identity: int
  expression: int

  @property
  def row(self) -> int:
    """Length of a row of coefficients."""
    return self.identity + self.expression + 6


@dataclasses.dataclass(frozen=True)
class MorphableModel:
  """A morphable model; its arrays may be those of numpy or of JAX.

  Attributes:
    name: 'bfm' or 'mesh_pca'.
    mean: [n, 3] float32.
    identity: [n, 3, k_i], shape per unit of a coefficient.
    expression: [n, 3, k_e].
    triangles: [t, 3] int32, vertices counter-clockwise as seen from outside.
    mouth: [m] int32, the vertices of the mouth.
    landmarks68: [68] int32, the vertices nearest to the 68 landmarks.
    rigid: [r] int32, the vertices that expressions move least, to which the pose of mesh_pca is fitted.
    noise: [] standard deviation of measured coordinates around the model, in its units; of mesh_pca.
    row_mean: [k] mean of the rows of coefficients of the training split, with which networks normalise.
    row_std: [k] standard deviation of the same; 1 where they are constant.
    camera: [3] focal length in sides of the picture, distance of the camera from the origin in units of the model, and
      1 for a perspective camera (bfm) or 0 for one scale of the whole face, that of its centre (mesh_pca).
  """

  name: str
  mean: Any
  identity: Any
  expression: Any
  triangles: Any
  mouth: Any
  landmarks68: Any
  rigid: Any
  noise: Any
  row_mean: Any
  row_std: Any
  camera: Any

  @property
  def sizes(self) -> Sizes:
    counts = (len(x) for x in (self.mean, self.triangles, self.mouth, self.rigid))
    return Sizes(*counts, self.identity.shape[-1], self.expression.shape[-1])

  def arrays(self) -> dict[str, Any]:
    """The arrays by name, as in the parameter branch `morphable`."""
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != 'name'}

  def split(self, rows):
    """Rows [..., k] -> identity [..., k_i], expression [..., k_e], angles [..., 3], translation [..., 3]."""
    first = self.identity.shape[-1]
    second = first + self.expression.shape[-1]
    return rows[..., :first], rows[..., first:second], rows[..., second:-3], rows[..., -3:]

  def shape(self, alpha, beta):
    """Eq. 1: identity [..., k_i] and expression [..., k_e] -> vertices [..., n, 3]; of numpy or JAX."""
    flat = lambda basis: basis.reshape(-1, basis.shape[-1]).T
    moved = alpha @ flat(self.identity) + beta @ flat(self.expression)
    return self.mean + moved.reshape(*moved.shape[:-1], *self.mean.shape)

  def part(self, vertices) -> 'MorphableModel':
    """The model of some vertices [m] alone, such as `mouth`, which costs less; its index arrays are of no use."""
    chosen = {name: getattr(self, name)[vertices] for name in ('mean', 'identity', 'expression')}
    return dataclasses.replace(self, **chosen)

  def normalise(self, rows):
    """Rows of coefficients -> rows of mean 0 and standard deviation 1 over the training split."""
    return (rows - self.row_mean) / self.row_std

  def denormalise(self, rows):
    """The inverse of `normalise`."""
    return rows * self.row_std + self.row_mean

  def project(self, rows, size: tuple[int, int]):
    """Rows [..., k] -> vertices in a picture of (h, w) pixels: x, y and depth [..., n, 3], smaller depth is nearer."""
    alpha, beta, angles, translation = self.split(rows.astype(np.float32))
    placed = posed(self.shape(alpha, beta), angles, translation)
    (focal, distance, perspective), (height, width) = (self.camera[i] for i in range(3)), size
    centre = translation[..., None, 2:]
    relative = placed[..., 2:] - centre
    scale = focal * min(height, width) / (distance - centre - perspective * relative)
    x, y = placed[..., :1] * scale + width / 2, height / 2 - placed[..., 1:2] * scale
    return rows.__array_namespace__().concatenate([x, y, -relative * scale], axis=-1)


def rotation(angles):
  """Angles [..., 3] in radians -> matrices [..., 3, 3] for row vectors, points @ matrix: (Rz Ry Rx) transposed."""
  of = angles.__array_namespace__()  # numpy or JAX
  (sx, cx), (sy, cy), (sz, cz) = ((of.sin(angles[..., i]), of.cos(angles[..., i])) for i in range(3))
  columns = (
    (cz * cy, sz * cy, -sy),
    (cz * sy * sx - sz * cx, sz * sy * sx + cz * cx, cy * sx),
    (cz * sy * cx + sz * sx, sz * sy * cx - cz * sx, cy * cx),
  )
  return of.stack([of.stack(column, -1) for column in columns], -2)


def angles_of(matrix: np.ndarray) -> np.ndarray:
  """The inverse of `rotation`: [..., 3, 3] -> [..., 3], y within +-pi/2."""
  x = np.arctan2(matrix[..., 1, 2], matrix[..., 2, 2])
  y = np.arcsin(np.clip(-matrix[..., 0, 2], -1, 1))
  z = np.arctan2(matrix[..., 0, 1], matrix[..., 0, 0])
  return np.stack([x, y, z], -1)


def posed(shape, angles, translation):
  """Rotates and moves vertices: shape [..., n, 3], angles and translation [..., 3] -> [..., n, 3]."""
  return shape @ rotation(angles) + translation[..., None, :]


def degrees(angles: np.ndarray) -> np.ndarray:
  """Angles [..., 3] in radians -> yaw, pitch, roll [..., 3] in degrees, as in a record."""
  return np.degrees(np.asarray(angles)[..., [1, 0, 2]] * np.array([1, -1, -1]))


def statistics(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """`row_mean` and `row_std` of rows [f, k]."""
  std = np.asarray(rows, np.float64).std(0)
  return np.mean(rows, 0, dtype=np.float64).astype(np.float32), np.where(std > 1e-6, std, 1).astype(np.float32)


def normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
  """Unit normals of triangles, outwards: [..., n, 3] and [t, 3] -> [..., t, 3]."""
  a, b, c = (vertices[..., triangles[:, i], :] for i in range(3))
  across = np.cross(a - b, b - c)
  return across / np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-12)


def of_arrays(name: str, arrays: Mapping[str, Any]) -> MorphableModel:
  """The model of a parameter branch; the inverse of `MorphableModel.arrays`."""
  return MorphableModel(name, **arrays)


def blank(name: str, sizes: Sizes) -> MorphableModel:
  """A model of these sizes whose arrays are zero: what `init` of a system returns before the real one is loaded."""
  zeros, n = np.zeros, sizes.vertices
  integers = {'triangles': (sizes.triangles, 3), 'mouth': sizes.mouth, 'landmarks68': 68, 'rigid': sizes.rigid}
  floats = {'mean': (n, 3), 'identity': (n, 3, sizes.identity), 'expression': (n, 3, sizes.expression)}
  floats |= {'noise': (), 'row_mean': sizes.row, 'row_std': sizes.row, 'camera': 3}
  arrays = {k: zeros(shape, np.int32) for k, shape in integers.items()}
  return MorphableModel(name, **arrays, **{k: zeros(shape, np.float32) for k, shape in floats.items()})

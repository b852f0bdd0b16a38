"""The Basel Face Model 2009 in the arithmetic of Deep3DFaceRecon: camera, texture, normals and light.

Shape, pose and the layout of coefficients are those of `talkjax.faces.morphable`, which this extends by what a picture
of a face needs. Golden case deep3d_bfm_math.
"""

import dataclasses
from typing import Any

import numpy as np

from talkjax.faces.morphable import MorphableModel, normals

NAME = 'bfm'
FOCAL, CAMERA_DISTANCE, CENTRE = 1015.0, 10.0, 112.0  # pixels of a 224-pixel picture, units of the model, pixels
AMBIENT = 0.8  # added to the first band of the light
MOUTH = 256  # vertices nearest to the lips' landmarks, taken for the mouth

# The nine spherical harmonics of the light: constants of the bands, with those of a cosine lobe.
_BAND = (np.pi, 2 * np.pi / np.sqrt(3), 2 * np.pi / np.sqrt(8))
_HARMONIC = (1 / np.sqrt(4 * np.pi), np.sqrt(3) / np.sqrt(4 * np.pi), 3 * np.sqrt(5) / np.sqrt(12 * np.pi))


@dataclasses.dataclass(frozen=True)
class Texture:
  """What the Basel Face Model has besides a MorphableModel's arrays.

  Attributes:
    mean: [n, 3] float32 RGB, 0 to 255.
    basis: [n, 3, k_t].
    triangles_of: [n, 8] int32, the triangles around each vertex; their number t where there are fewer.
  """

  mean: Any
  basis: Any
  triangles_of: Any

  def colours(self, delta: np.ndarray) -> np.ndarray:
    """Texture coefficients [b, k_t] -> RGB [b, n, 3], 1 is white."""
    moved = delta @ self.basis.reshape(-1, self.basis.shape[-1]).T
    return (self.mean + moved.reshape(-1, *self.mean.shape)) / 255


def model(arrays: dict[str, np.ndarray], recenter: bool = True) -> MorphableModel:
  """The MorphableModel of the arrays in Deep3DFaceRecon's BFM_model_front.mat; rows are not normalised.

  Args:
    arrays: by their names there: meanshape [1, 3n], idBase and exBase [3n, k], tri [t, 3] and keypoints [1, 68], both
      one-based.
    recenter: whether the mean of the vertices becomes the origin, as in the published code.
  """
  mean = np.asarray(arrays['meanshape'], np.float32).reshape(-1, 3)
  mean = mean - mean.mean(0, dtype=np.float32) if recenter else mean
  identity, expression = (np.asarray(arrays[k], np.float32).reshape(*mean.shape, -1) for k in ('idBase', 'exBase'))
  landmarks = np.asarray(arrays['keypoints'], np.int64).reshape(-1) - 1
  lips = mean[landmarks[48:68]]
  distance = np.linalg.norm(mean[:, None] - lips, axis=-1).min(1)
  row = identity.shape[-1] + expression.shape[-1] + 6
  return MorphableModel(
    name=NAME,
    mean=mean,
    identity=identity,
    expression=expression,
    triangles=np.asarray(arrays['tri'], np.int32) - 1,
    mouth=np.sort(np.argsort(distance, kind='stable')[:MOUTH]).astype(np.int32),
    landmarks68=landmarks.astype(np.int32),
    rigid=landmarks[27:36].astype(np.int32),  # the nose
    noise=np.float32(0),
    row_mean=np.zeros(row, np.float32),
    row_std=np.ones(row, np.float32),
    camera=np.array([FOCAL / (2 * CENTRE), CAMERA_DISTANCE, 1], np.float32),
  )


def texture(arrays: dict[str, np.ndarray]) -> Texture:
  """The Texture of the arrays of `model`: meantex [1, 3n], texBase [3n, k_t] and point_buf [n, 8], one-based."""
  mean = np.asarray(arrays['meantex'], np.float32).reshape(-1, 3)
  basis = np.asarray(arrays['texBase'], np.float32).reshape(*mean.shape, -1)
  return Texture(mean, basis, np.asarray(arrays['point_buf'], np.int32) - 1)


def to_camera(placed: np.ndarray, distance: float = CAMERA_DISTANCE) -> np.ndarray:
  """Posed vertices [..., n, 3] -> the same with their distance from the camera in place of z."""
  return np.concatenate([placed[..., :2], distance - placed[..., 2:]], -1)


def to_image(vertices: np.ndarray, focal: float = FOCAL, centre: float = CENTRE) -> np.ndarray:
  """Vertices of `to_camera` [..., n, 3] -> pixels [..., n, 2]; y grows upwards."""
  return vertices[..., :2] * focal / vertices[..., 2:] + centre


def vertex_normals(shape: np.ndarray, triangles: np.ndarray, triangles_of: np.ndarray) -> np.ndarray:
  """Unit normals of vertices: the mean direction of the triangles around them, [b, n, 3]."""
  flat = normals(shape, triangles)
  flat = np.concatenate([flat, np.zeros_like(flat[:, :1])], 1)  # the triangle that vertices with fewer name
  total = flat[:, triangles_of].sum(2)
  return total / np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), 1e-12)


def lit(colours: np.ndarray, directions: np.ndarray, gamma: np.ndarray) -> np.ndarray:
  """Colours under a light of nine spherical harmonics per channel.

  Args:
    colours: [b, n, 3].
    directions: [b, n, 3], normals after rotation.
    gamma: [b, 27], nine for red, then green, then blue.
  """
  x, y, z = np.moveaxis(directions, -1, 0)
  first, second, third = (a * c for a, c in zip(_BAND, _HARMONIC))
  harmonics = [
    np.full_like(x, first),
    -second * y,
    second * z,
    -second * x,
    third * x * y,
    -third * y * z,
    third / np.sqrt(12) * (3 * z**2 - 1),
    -third * x * z,
    third / 2 * (x**2 - y**2),
  ]
  light = gamma.reshape(-1, 3, 9) + AMBIENT * np.eye(9, dtype=gamma.dtype)[0]
  return np.einsum('hbn,bch->bnc', np.stack(harmonics), light) * colours

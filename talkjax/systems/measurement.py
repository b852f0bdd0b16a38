"""The coefficients of faces in pictures, as generation and scores measure them."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from talkjax.errors import UserError
from talkjax.faces import mesh_pca
from talkjax.faces.landmarks import FaceTrack
from talkjax.faces.morphable import MorphableModel


@dataclasses.dataclass(frozen=True)
class Face:
  """A face as it was found in pictures, from which its coefficients follow once the model is at hand.

  Attributes:
    mesh: [f, 468, 3] in pixels, see `landmarks.FaceTrack`.
    size: (h, w) of the pictures.
    measured: [f, k] coefficients that Deep3DFaceRecon found in the pictures; None where they follow from the mesh.
  """

  mesh: np.ndarray
  size: tuple[int, int]
  measured: np.ndarray | None = None

  def rows(self, model: MorphableModel) -> np.ndarray:
    """Coefficients [f, k] float32."""
    return mesh_pca.coefficients(model, self.mesh, self.size) if self.measured is None else self.measured

  def first(self) -> 'Face':
    """The first of the pictures alone."""
    return Face(self.mesh[:1], self.size, None if self.measured is None else self.measured[:1])


def measure(pictures: Callable[[], Iterable[np.ndarray]], track: FaceTrack, size: tuple[int, int], config) -> Face:
  """The face that was tracked in pictures uint8 [h, w, 3] of that size.

  Raises:
    UserError: the model is not mesh_pca, and the config does not name Deep3DFaceRecon's workdirs.
  """
  if config.morphable.name == mesh_pca.NAME:
    return Face(track.mesh, size)
  from talkjax.weights import coefficients as sources
  from talkjax.weights import deep3d_coefficients

  name, workdirs = sources.parse(config.data.coefficients)
  if name != 'deep3d':
    raise UserError(
      f'config.data.coefficients={config.data.coefficients}, but the coefficients of {config.morphable.name} are found '
      'by Deep3DFaceRecon: expected deep3d:NETWORK_WORKDIR,BFM_WORKDIR'
    )
  return Face(track.mesh, size, deep3d_coefficients.load(*workdirs).of_pictures(pictures(), track.landmarks))

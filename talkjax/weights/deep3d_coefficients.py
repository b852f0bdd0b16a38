"""Rows of coefficients that Deep3DFaceRecon's network finds in pictures, for a corpus or a portrait."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from talkjax.corpora import feature_cache
from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.faces import align_deep3d, bfm, morphable
from talkjax.faces.morphable import MorphableModel
from talkjax.nn.deep3d import Deep3D
from talkjax.training import checkpoint, sharding
from talkjax.weights import deep3d

BATCH = 8  # pictures per device and batch


@dataclasses.dataclass(frozen=True, eq=False)
class Coefficients:
  """Computes rows of coefficients of faces with the network.

  Attributes:
    model: the Basel Face Model.
    net: the network.
    params: its parameters, on the devices.
  """

  model: MorphableModel
  net: Deep3D
  params: Any

  def of_pictures(self, pictures: Iterable[np.ndarray], landmarks: np.ndarray) -> np.ndarray:
    """Rows [f, k] float32 of the frames of one clip, all with the mean of their identities.

    Args:
      pictures: f arrays uint8 [h, w, 3], all of one size.
      landmarks: [f, 68, 2] pixels of the picture.
    """
    batch, count, rows = BATCH * jax.device_count(), len(landmarks), []
    place, pictures = sharding.batch_placement(self.params), iter(pictures)
    for first in range(0, count, batch):
      size, placements, crops = None, [], []
      for points in landmarks[first : first + batch]:
        picture = next(pictures)
        size = picture.shape[:2]
        placements.append(align_deep3d.alignment(points, size))
        crops.append(align_deep3d.crop(picture, placements[-1]))
      crops = np.stack(crops + [crops[-1]] * (batch - len(crops)))
      found = np.asarray(_coefficients(self.net, self.params, place(crops)), np.float64)[: len(placements)]
      rows += [self._row(values, where, size) for values, where in zip(found, placements)]
    rows = np.stack(rows)
    identities = self.model.identity.shape[-1]
    rows[:, :identities] = rows[:, :identities].mean(0)
    return rows.astype(np.float32)

  def _row(self, values: np.ndarray, where: align_deep3d.Alignment, size: tuple[int, int]) -> np.ndarray:
    """The network's coefficients of one picture -> a row, without texture and light, in the whole picture."""
    alpha, beta, _, angles, _, flat, depth = np.split(values, np.cumsum(self.net.heads)[:-1])
    focal, distance, _ = (float(x) for x in self.model.camera)
    moved = align_deep3d.translation_in_picture(np.r_[flat, depth], where, size, focal, distance)
    return np.concatenate([alpha, beta, angles, moved])

  def __call__(self, record: Record) -> list[np.ndarray]:
    """Encodes a record for the cache, by the landmarks that it has."""
    rows = self.of_pictures(map(record.frame, range(len(record.frames))), record.landmarks)
    return [rows.astype(np.float16)]

  def fingerprint(self) -> str:
    """A digest of the network's parameters."""
    return feature_cache.fingerprint({path: np.asarray(x) for path, x in flatten_dict(self.params, sep='/').items()})


@functools.partial(jax.jit, static_argnums=0)
def _coefficients(net: Deep3D, params, crops):
  return net.apply({'params': params}, crops.astype(jnp.float32) / 255)[0]


@functools.cache
def load(network_workdir: str, bfm_workdir: str) -> Coefficients:
  """The coefficients of converted workdirs.

  Raises:
    UserError: a workdir has not what is expected, or the network's coefficients are not those of the face model.
  """
  params, parts = _of(network_workdir, 'deep3d'), _of(bfm_workdir, 'bfm')
  net = deep3d.network({path: x.shape for path, x in flatten_dict(params, sep='/').items()})
  model = morphable.of_arrays(bfm.NAME, {k: np.asarray(v) for k, v in parts['morphable'].items()})
  sizes = model.sizes
  if (sizes.identity, sizes.expression) != tuple(net.heads[:2]):
    raise UserError(
      f'{network_workdir} predicts {net.heads[0]} identity and {net.heads[1]} expression coefficients, but '
      f'{bfm_workdir} has {sizes.identity} and {sizes.expression}: expected both from one release'
    )
  return Coefficients(model, net, sharding.replicate(params))


def _of(workdir: str, source: str) -> dict[str, Any]:
  config, params, _ = checkpoint.load_params(workdir)
  if config.get('pretrained_network') != source:
    raise UserError(
      f'--coefficients=deep3d: {workdir} was not made by `talkjax.convert --source={source}`: expected '
      'deep3d:NETWORK_WORKDIR,BFM_WORKDIR'
    )
  return params

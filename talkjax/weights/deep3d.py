"""Deep3DFaceRecon: its published weights, and the Basel Face Model as it prepares it.

Users bring both: the network's `epoch_20.pth` and `BFM_model_front.mat`, which the published code makes of the Basel
Face Model 2009.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.io

from talkjax.errors import UserError
from talkjax.faces import bfm
from talkjax.nn.deep3d import SIZE, Deep3D
from talkjax.weights.fit import fit

# Arrays of BFM_model_front.mat, and their shapes for n vertices.
MATRICES = {'meanshape': (1, -3), 'meantex': (1, -3), 'idBase': (-3, 80), 'exBase': (-3, 64), 'texBase': (-3, 80)}
INDICES = {'tri': (None, 3), 'point_buf': (-1, 8), 'keypoints': (1, 68)}
_VERSIONS = (
  (('shapePC', 'shapeMU'), 'the unprepared Basel Face Model 2009 (01_MorphableModel.mat)'),
  (('shapeMU', 'expPC'), 'another preparation of the Basel Face Model'),
)


def network(shapes: Mapping[str, Sequence[int]]) -> Deep3D:
  """The network whose parameters have these shapes, by published or our own name."""
  find = lambda pattern: {m: shape for name, shape in shapes.items() if (m := re.search(pattern, name))}
  blocks = [tuple(map(int, m.groups())) for m in find(r'layer(\d+)[._](\d+)[./]')]
  layers = tuple(len({i for s, i in blocks if s == stage}) for stage in sorted({s for s, _ in blocks}))
  heads = {int(m[1]): shape[0] for m, shape in find(r'final_layers[._](\d+)[./]bias$').items()}
  (width,) = [*find(r'backbone[./]bn1[./]bias$').values()] or [(Deep3D.width,)]
  basic, joint = not find(r'layer1[._]0[./]conv3'), bool(find(r'backbone[./]fc[./]bias$'))
  return Deep3D(layers, width[0], basic, tuple(heads[i] for i in sorted(heads)) or Deep3D.heads, joint)


def of_state(state: Mapping[str, np.ndarray], name: str) -> tuple[Deep3D, dict[str, Any]]:
  """The network and its parameters from the published state dict `net_recon`."""
  net = network({k: v.shape for k, v in state.items()})
  wanted = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))['params']
  return net, fit(state, wanted, name, ignored=r'num_batches_tracked$')


def read_bfm(file: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
  """The Basel Face Model as parameters: `morphable` (see `MorphableModel.arrays`) and `texture`.

  Raises:
    UserError: the file is none, or of another version than BFM_model_front.mat.
  """
  expected = 'expected the BFM_model_front.mat that Deep3DFaceRecon prepares from the Basel Face Model 2009'
  try:
    arrays = scipy.io.loadmat(file)
  except NotImplementedError:  # of HDF5 files
    raise UserError(f'{file} is an HDF5 file, as the Basel Face Models of 2017 and 2019 are: {expected}') from None
  except Exception as error:  # scipy raises nearly anything for what is no MATLAB file
    signature = file.read_bytes()[:8]
    kind = (
      'an HDF5 file, as the Basel Face Models of 2017 and 2019 are' if signature[1:4] == b'HDF' else 'no MATLAB file'
    )
    raise UserError(f'{file} is {kind}: {expected}') from error
  for names, version in _VERSIONS:
    if all(name in arrays for name in names):
      raise UserError(f'{file} is {version}: {expected}')
  if missing := [name for name in (*MATRICES, *INDICES) if name not in arrays]:
    raise UserError(f'{file} has no {", ".join(missing)}: {expected}')
  vertices = arrays['meanshape'].size // 3
  for name, shape in (MATRICES | INDICES).items():
    found = arrays[name].shape if arrays[name].ndim == 2 else ()
    wanted = tuple(-n * vertices if n is not None and n < 0 else n for n in shape)
    if len(found) != 2 or any(n is not None and n != m for n, m in zip(wanted, found)):
      raise UserError(f'{file}: {name} is {list(arrays[name].shape)}, but {list(wanted)} was expected: {expected}')
  made, texture = bfm.model(arrays), bfm.texture(arrays)
  for name, indices, count in (
    ('tri', made.triangles, vertices),
    ('keypoints', made.landmarks68, vertices),
    ('point_buf', texture.triangles_of, len(made.triangles) + 1),
  ):
    if indices.min() < 0 or indices.max() >= count:
      raise UserError(f'{file}: {name} refers to what is not there: the file is damaged; {expected}')
  for name, value in {**made.arrays(), 'texBase': texture.basis, 'meantex': texture.mean}.items():
    if not np.isfinite(value).all():
      raise UserError(f'{file}: {name} has values that are not finite: the file is damaged; {expected}')
  return {
    'morphable': made.arrays(),
    'texture': {f.name: getattr(texture, f.name) for f in dataclasses.fields(texture)},
  }

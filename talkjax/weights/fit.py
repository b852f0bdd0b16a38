"""Published state dicts as Flax parameters, by name.

Our modules are called as the published ones, with '_' where those have '.': a leaf is found by its path.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from talkjax.errors import UserError
from talkjax.weights.errors import printable


def fit(state: Mapping[str, np.ndarray], wanted: Any, what: str, ignored: str = '') -> dict:
  """A published state dict as Flax parameters.

  Args:
    state: PyTorch's names and layouts (convolutions OIHW, matrices OI).
    wanted: the tree of parameters (arrays or their shapes) that they are for.
    what: what the state dict is, for messages.
    ignored: a regular expression of names that are left out (tables that are computed here, heads not used).

  Returns:
    a tree like `wanted` of float32 arrays (HWIO, IO).

  Raises:
    UserError: a name is missing, too many, or of another shape.
  """
  flat = {tuple(k.key for k in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)}
  ours = {'_'.join(path[:-1]) + '.' + _PYTORCH.get(path[-1], path[-1]): path for path in flat}
  found, unknown = {}, []
  for name, value in state.items():
    if ignored and re.search(ignored, name):
      continue
    module, _, kind = name.rpartition('.')
    path = ours.get(module.replace('.', '_') + '.' + kind)
    if path is None:
      unknown.append(name)
      continue
    array, shape = np.asarray(value, np.float32), flat[path].shape
    array = _as_flax(array) if path[-1] == 'kernel' else array
    if array.squeeze().shape == tuple(n for n in shape if n != 1):
      array = array.reshape(shape)  # a 1x1 convolution may be a matrix here
    if array.shape != shape:
      raise UserError(
        f'{what}: {printable(name)} is {list(value.shape)}, which does not fit {"/".join(path)} {list(shape)}'
      )
    found[path] = array
  lost = [p for p in flat if p not in found]
  if lost or unknown:
    said = [f'lacks {_some(map("/".join, lost))}'] if lost else []
    said += [f'holds what has no place here: {_some(unknown)}'] if unknown else []
    raise UserError(f'{what} {" and ".join(said)}: it is of another network, or of other sizes')
  tree: dict = {}
  for path, value in found.items():
    node = tree
    for key in path[:-1]:
      node = node.setdefault(key, {})
    node[path[-1]] = value
  return tree


_PYTORCH = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}


def _as_flax(value: np.ndarray) -> np.ndarray:
  """A kernel: O, I, then space -> space, then I, O."""
  return value.transpose(*range(2, value.ndim), 1, 0) if value.ndim > 1 else value


def _some(names) -> str:
  names = sorted(map(printable, names))
  return ', '.join(names[:4]) + (f' and {len(names) - 4} more' if len(names) > 4 else '')

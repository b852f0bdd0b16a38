"""Converts published PyTorch state dicts to Flax parameters by name.

The modules of `talkjax.nn` are named like the published ones, with '_' instead of '.', so each entry's name determines
the path of its parameter.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from talkjax.errors import UserError
from talkjax.weights.errors import printable


def fit(state: Mapping[str, np.ndarray], wanted: Any, what: str, ignored: str = '') -> dict:
  """Converts a published state dict to Flax parameters.

  Args:
    state: arrays by PyTorch name, in PyTorch's layouts (convolutions OIHW, matrices OI).
    wanted: the expected parameter tree, of arrays or of shapes.
    what: a name of the state dict for error messages.
    ignored: a regular expression of names to ignore (computed tables, unused heads).

  Returns:
    a tree with the structure of `wanted`, of float32 arrays (HWIO, IO).

  Raises:
    UserError: an entry is missing or unexpected, or has another shape.
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
    array = _to_flax_kernel(array) if path[-1] == 'kernel' else array
    if array.squeeze().shape == tuple(n for n in shape if n != 1):
      array = array.reshape(shape)  # a 1x1 convolution may be a dense layer here
    if array.shape != shape:
      raise UserError(
        f'{what}: {printable(name)} is {list(value.shape)}, which does not fit {"/".join(path)} {list(shape)}'
      )
    found[path] = array
  missing = [p for p in flat if p not in found]
  if missing or unknown:
    problems = [f'lacks {_summary(map("/".join, missing))}'] if missing else []
    problems += [f'has unexpected entries: {_summary(unknown)}'] if unknown else []
    raise UserError(f'{what} {" and ".join(problems)}: it is of another network, or of other sizes')
  tree: dict = {}
  for path, value in found.items():
    node = tree
    for key in path[:-1]:
      node = node.setdefault(key, {})
    node[path[-1]] = value
  return tree


_PYTORCH = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}


def _to_flax_kernel(value: np.ndarray) -> np.ndarray:
  """A kernel [out, in, *spatial] -> [*spatial, in, out]."""
  return value.transpose(*range(2, value.ndim), 1, 0) if value.ndim > 1 else value


def _summary(names) -> str:
  names = sorted(map(printable, names))
  return ', '.join(names[:4]) + (f' and {len(names) - 4} more' if len(names) > 4 else '')

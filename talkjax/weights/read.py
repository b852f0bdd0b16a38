"""Published weights from disk: safetensors and PyTorch's files, without PyTorch. Any file may be hostile."""

import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from talkjax.errors import UserError
from talkjax.weights.errors import Refused, printable
from talkjax.weights.safetensors import read_safetensors
from talkjax.weights.torch_files import read_legacy, read_zip
from talkjax.weights.torch_values import Array, Tensor


def read_weights(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Every tensor of a weights file, by its name.

  Args:
    path: `.safetensors`, or a file of `torch.save` (`.pth .pt .ckpt .bin`): a state dict, or a checkpoint that holds
      one under 'state_dict'. Its other entries (epoch, settings) are left out and their arrays are not read.

  Returns:
    arrays in the file's own type (bfloat16 as ml_dtypes.bfloat16), which may be read-only.

  Raises:
    UserError: no such file, an unknown or damaged format, a pickle that wants to do more than build tensors.
  """
  path = _existing(path)
  if path.suffix != '.safetensors':
    return _read(path, _state_dict)
  try:
    return read_safetensors(path)
  except OSError as error:
    raise UserError(f'weights {path}: cannot be read ({error.strerror or error})') from None


def read_pickle(path: str | pathlib.Path) -> Any:
  """What `torch.save` wrote, tensors and numpy's arrays of numbers as arrays, containers as plain ones.

  Args:
    path: a zip archive (PyTorch 1.6 and later) or the older sequence of pickles.

  Returns:
    nested dicts, lists, tuples, sets, numbers, strings and read-only numpy arrays.

  Raises:
    UserError: as `read_weights`.
  """
  return _read(_existing(path), lambda tree: tree)


def _existing(path: str | pathlib.Path) -> pathlib.Path:
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f'weights {path}: no such file; expected a .safetensors file or a PyTorch checkpoint')
  return path


def _read(path: pathlib.Path, select: Callable[[Any], Any]) -> Any:
  try:
    return read_zip(path, select) if zipfile.is_zipfile(path) else read_legacy(path, select)
  except Refused as error:
    raise UserError(f'weights {path}: {error}') from None
  except OSError as error:
    raise UserError(f'weights {path}: cannot be read ({error.strerror or error})') from None


def _state_dict(tree: Any) -> dict[str, Tensor | Array]:
  """The tensors by name in what a pickle describes."""
  if type(tree) is not dict:
    raise Refused(f'holds no tensors by name (it holds: {type(tree).__name__}); expected a state dict')
  if type(tree.get('state_dict')) is dict:
    tree = tree['state_dict']
  state = {name: value for name, value in tree.items() if type(value) in (Tensor, Array)}
  if not state:
    found = ', '.join(map(printable, list(tree)[:5]))
    raise Refused(f'holds no tensors by name (it holds: {found}); expected a state dict')
  for name in state:
    if type(name) is not str:
      raise Refused(f'holds a tensor under {printable(name)}, which is not a name; expected a state dict')
  return state

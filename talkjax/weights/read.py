"""Reads published weights, safetensors and PyTorch files, without PyTorch. No file is trusted."""

import pathlib
import zipfile
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from talkjax.errors import UserError
from talkjax.weights.errors import Refused, printable
from talkjax.weights.safetensors import read_safetensors
from talkjax.weights.torch_files import read_legacy, read_zip
from talkjax.weights.torch_values import Array, Tensor

STATES = ('state_dict', 'net_recon')  # entries of a checkpoint: of most, and of Deep3DFaceRecon


def read_weights(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the tensors of a weights file by name.

  Args:
    path: a `.safetensors` file, or a `torch.save` file (`.pth .pt .ckpt .bin`) with a state dict or a checkpoint that
      has one under one of STATES. Other entries (epoch, settings) are ignored and their arrays not read.

  Returns:
    arrays of the stored dtype (bfloat16 as ml_dtypes.bfloat16), possibly read-only.

  Raises:
    UserError: the file does not exist, is damaged or of an unknown format, or its pickle does more than build tensors.
  """
  path = _existing_path(path)
  if path.suffix != '.safetensors':
    return _read(path, _state_dict)
  try:
    return read_safetensors(path)
  except OSError as error:
    raise UserError(f'weights {path}: cannot be read ({error.strerror or error})') from None


def find_file(path: pathlib.Path, names: Collection[str], what: str) -> pathlib.Path:
  """The weights file that a user means.

  Args:
    path: the file, or a folder.
    names: of the files to look for in a folder; the first that it has is used.
    what: they hold, for the message.

  Raises:
    UserError: the folder has none of them.
  """
  if not path.is_dir():
    return path
  for name in names:
    if (path / name).is_file():
      return path / name
  raise UserError(f'folder {path} has no {what}: expected {" or ".join(names)}, or a file')


def read_pickle(path: str | pathlib.Path) -> Any:
  """Reads an object written by `torch.save`; tensors become NumPy arrays.

  Args:
    path: a zip archive (PyTorch 1.6 and later) or a file in the legacy format, a sequence of pickles.

  Returns:
    nested dicts, lists, tuples and sets of numbers, strings and read-only NumPy arrays.

  Raises:
    UserError: as `read_weights`.
  """
  return _read(_existing_path(path), lambda tree: tree)


def _existing_path(path: str | pathlib.Path) -> pathlib.Path:
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
  """Selects the tensors of the state dict in an unpickled object, by name."""
  if type(tree) is not dict:
    raise Refused(f'holds no tensors by name (it holds: {type(tree).__name__}); expected a state dict')
  tree = next((tree[name] for name in STATES if type(tree.get(name)) is dict), tree)
  state = {name: value for name, value in tree.items() if type(value) in (Tensor, Array)}
  if not state:
    found = ', '.join(map(printable, list(tree)[:5]))
    raise Refused(f'holds no tensors by name (it holds: {found}); expected a state dict')
  for name in state:
    if type(name) is not str:
      raise Refused(f'holds a tensor under {printable(name)}, which is not a name; expected a state dict')
  return state

"""Published weights from disk: safetensors and PyTorch pickles, without PyTorch."""

import pathlib
import tarfile
import zipfile
from typing import Any

import numpy as np

from talkjax.cli import UserError
from talkjax.weights.safetensors import read_safetensors
from talkjax.weights.torch_files import read_legacy, read_zip
from talkjax.weights.torch_pickle import Refused


def read_weights(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Every tensor of a weights file, by its name.

  Args:
    path: `.safetensors`, or whatever `torch.save` made (`.pth .pt .ckpt .bin`): a state dict, or a checkpoint that
      holds one under 'state_dict'. Entries of it that are no tensors (epoch, settings) are left out.

  Returns:
    arrays in the file's own type (bfloat16 as ml_dtypes.bfloat16).

  Raises:
    UserError: no such file, an unknown or damaged format, a pickle that wants to do more than build tensors.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f'weights {path}: no such file; expected a .safetensors file or a PyTorch checkpoint')
  if path.suffix == '.safetensors':
    return read_safetensors(path)
  tree = read_pickle(path)
  if isinstance(tree, dict) and isinstance(tree.get('state_dict'), dict):
    tree = tree['state_dict']
  state = {k: v for k, v in tree.items() if isinstance(v, np.ndarray)} if isinstance(tree, dict) else {}
  if not state:
    found = ', '.join(map(str, list(tree)[:5])) if isinstance(tree, dict) else type(tree).__name__
    raise UserError(f'weights {path}: holds no tensors by name (it holds: {found}); expected a state dict')
  return state


def read_pickle(path: str | pathlib.Path) -> Any:
  """What `torch.save` wrote, tensors and numpy's arrays of numbers as arrays, containers as plain ones.

  Args:
    path: a zip archive (PyTorch 1.6 and later) or the older sequence of pickles.

  Returns:
    nested dicts, lists, tuples, sets, numbers, strings and numpy arrays.

  Raises:
    UserError: as `read_weights`.
  """
  path = pathlib.Path(path)
  try:
    if zipfile.is_zipfile(path):
      return read_zip(path)
    if tarfile.is_tarfile(path):
      raise Refused('is a tar archive, as PyTorch wrote before version 0.2: load and save it again with a newer one')
    return read_legacy(path)
  except Refused as error:
    raise UserError(f'weights {path}: {error}') from None
  except OSError as error:
    raise UserError(f'weights {path}: cannot be read ({error.strerror or error})') from None
  except Exception as error:  # a damaged pickle can fail in any way
    raise UserError(
      f'weights {path}: damaged, or not a file of weights ({type(error).__name__}: {error}); download it again'
    ) from None

"""Reads safetensors files with the official library.

The library is written in Rust and validates the header first: its length, the depth of its JSON, offsets (unsigned, no
overflow), tensors that cover the file without gaps or overlaps, and shapes that match the byte counts. This module adds
the checks that the library leaves to its caller: the memory the header needs, the dtypes, and boolean values.
"""

import pathlib
import struct

import ml_dtypes
import numpy as np
import safetensors

from talkjax.errors import UserError
from talkjax.weights.errors import printable

_TYPES = {
  'F64': np.float64,
  'F32': np.float32,
  'F16': np.float16,
  'BF16': ml_dtypes.bfloat16,
  'I64': np.int64,
  'I32': np.int32,
  'I16': np.int16,
  'I8': np.int8,
  'U8': np.uint8,
  'BOOL': np.bool_,
}
_MAX_HEADER = 1 << 24  # bytes, enough for over 100,000 tensors; parsing takes about 10 times as much memory


def read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the tensors of a file by name, each into an array of its own.

  Raises:
    UserError: the file is damaged, or has a tensor of an unsupported dtype.
    OSError: the file cannot be read.
  """
  with path.open('rb') as file:
    head = file.read(8)
  if len(head) == 8 and struct.unpack('<Q', head)[0] > _MAX_HEADER:
    raise UserError(f'weights {path}: not a whole safetensors file (its header is too long); download it again')
  try:
    with safetensors.safe_open(path, framework='np') as file:
      return {name: _tensor(file, name, path) for name in file.keys()}  # noqa: SIM118 - not a dict
  except (safetensors.SafetensorError, ValueError) as error:  # ValueError: more dimensions than NumPy supports
    raise UserError(
      f'weights {path}: not a whole safetensors file ({printable(str(error), 200)}); download it again'
    ) from None


def _tensor(file, name: str, path: pathlib.Path) -> np.ndarray:
  dtype = file.get_slice(name).get_dtype()
  if dtype not in _TYPES:
    raise UserError(
      f'weights {path}: {printable(name)} is of type {printable(dtype)}, expected one of {", ".join(_TYPES)}'
    )
  array = file.get_tensor(name)
  # Any non-zero byte becomes True: NumPy relies on booleans being 0 or 1 when it indexes with a mask.
  return array.view(np.uint8) != 0 if dtype == 'BOOL' else array.view(_TYPES[dtype])

"""The safetensors format, read by the official library.

The library is written in Rust and checks a header before anything else: its length, JSON of bounded depth, unsigned
offsets without overflow, tensors that cover the file without gap or overlap, shapes that fit their bytes. What it
leaves to its caller is done here: the memory that a header takes, types, and truth values.
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
_MAX_HEADER = 1 << 24  # bytes, 100,000 tensors and more; parsed, it takes some 10 times as much memory


def read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Every tensor of the file, by name, each a copy of its own.

  Raises:
    UserError: the file is damaged, or has tensors of a type not known here.
    OSError: the file cannot be read.
  """
  with path.open('rb') as file:
    head = file.read(8)
  if len(head) == 8 and struct.unpack('<Q', head)[0] > _MAX_HEADER:
    raise UserError(f'weights {path}: not a whole safetensors file (its header is too long); download it again')
  try:
    with safetensors.safe_open(path, framework='np') as file:
      return {name: _tensor(file, name, path) for name in file.keys()}  # noqa: SIM118 - it is no dict
  except (safetensors.SafetensorError, ValueError) as error:  # ValueError: more dimensions than numpy has
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
  # Truth values are made 0 or 1: numpy counts on it when it masks.
  return array.view(np.uint8) != 0 if dtype == 'BOOL' else array.view(_TYPES[dtype])

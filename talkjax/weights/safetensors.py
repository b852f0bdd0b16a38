"""The safetensors format."""

import json
import math
import mmap
import pathlib
import struct

import ml_dtypes
import numpy as np

from talkjax.cli import UserError

_SAFETENSORS = {
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


def read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  """8 bytes of length, a JSON table of names, types, shapes and offsets, then the numbers."""
  try:
    with path.open('rb') as file:
      data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    (length,) = struct.unpack('<Q', data[:8])
    table = json.loads(bytes(data[8 : 8 + length]))
    table.pop('__metadata__', None)
    body = data[8 + length :]
    return {name: _safetensor(body, **entry) for name, entry in table.items()}
  except (ValueError, KeyError, TypeError, struct.error, UnicodeDecodeError) as error:
    raise UserError(
      f'weights {path}: not a whole safetensors file ({type(error).__name__}: {error}); download it again'
    ) from None


def _safetensor(body, dtype, shape, data_offsets):
  start, end = data_offsets
  flat = np.frombuffer(body[start:end], np.dtype(_SAFETENSORS[dtype]))
  if start < 0 or end > len(body) or flat.size != math.prod(shape):
    raise ValueError(f'{dtype} of shape {shape} does not fit its bytes {start} to {end}')
  return flat.reshape(shape)  # a read-only view of the file

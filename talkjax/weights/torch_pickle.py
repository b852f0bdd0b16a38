"""The pickles of torch.save, read without PyTorch.

A pickle is a program. Here it may only build tensors and plain containers: every name it asks for is looked up in a
short table of our own builders, everything else is refused with one sentence before anything of it is called.
"""

import dataclasses
import math
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

# PyTorch's storage classes and dtypes, and how numpy calls what is in them.
_STORAGES = {
  'DoubleStorage': np.float64,
  'FloatStorage': np.float32,
  'HalfStorage': np.float16,
  'BFloat16Storage': ml_dtypes.bfloat16,
  'LongStorage': np.int64,
  'IntStorage': np.int32,
  'ShortStorage': np.int16,
  'CharStorage': np.int8,
  'ByteStorage': np.uint8,
  'BoolStorage': np.bool_,
}


class Refused(Exception):
  """Why a file is not read: the end of a sentence that begins with its name."""


# The pickle reader. The standard library's, in Python, with its table of operations cut down: what makes instances of
# classes, calls their methods or reaches into their attributes is gone, so a name can only be called, and only if ours.


_REFUSED = (
  *(pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.INST, pickle.OBJ, pickle.PERSID),
  *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)


@dataclasses.dataclass(frozen=True)
class _Kind:
  """A PyTorch storage class: all that is left of it is the type of its numbers."""

  dtype: Any


class Unpickler(pickle._Unpickler):
  """Reads one pickle; `storage(dtype, key, size, view)` finds the numbers of a tensor."""

  def __init__(self, file: BinaryIO, storage: Callable | None, deferred: bool = False):
    super().__init__(file, encoding='utf-8')
    self._storage = storage
    self._deferred = deferred

  def find_class(self, module, name):
    if module == 'torch' and name in _STORAGES:
      return _Kind(np.dtype(_STORAGES[name]))
    if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
      return self._tensor
    if (module, name) in _BUILDERS:
      return _BUILDERS[module, name]
    raise Refused(
      f'its pickle asks for {module}.{name}, which is neither a tensor nor a plain container, so it was not read; '
      'save its state dict alone (as .safetensors) where you trust it'
    )

  def persistent_load(self, saved):
    tag, kind, key, _, size, *view = saved
    if tag != 'storage' or self._storage is None or not isinstance(kind, _Kind) or not isinstance(size, int):
      raise Refused('its pickle refers to something that is not a tensor')
    return self._storage(kind.dtype, key, size, *view)

  def _tensor(self, storage, offset, shape, strides, *_):
    """`torch._utils._rebuild_tensor_v2`: a view of a storage, checked to lie inside it."""
    shape, strides = tuple(shape), tuple(strides)
    if not isinstance(storage, np.ndarray) or len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
      raise Refused('its pickle describes a tensor that cannot be')
    reach = offset + sum((n - 1) * s for n, s in zip(shape, strides)) + 1 if 0 not in shape else offset
    if reach > storage.size or math.prod(shape) > max(storage.size, 1):
      raise Refused(f'its pickle describes a tensor of shape {list(shape)} beyond the numbers it has')
    view = np.lib.stride_tricks.as_strided(storage[offset:], shape, [s * storage.itemsize for s in strides])
    # Behind a legacy pickle the numbers come later: keep the view. Otherwise let go of what is not this tensor.
    return view if self._deferred else np.ascontiguousarray(view).reshape(shape)

  def _build(self):
    """Attributes: a state dict carries `_metadata`, which is dropped; numpy's arrays get their numbers so."""
    state = self.stack.pop()
    if isinstance(self.stack[-1], np.dtype):  # its byte order, which stands second
      if state[1] not in ('<', '|', '='):
        raise Refused(f'its pickle has numbers in the byte order {state[1]!r}, expected <')
    elif type(self.stack[-1]) is np.ndarray:
      _, shape, dtype, fortran, numbers = state
      if not isinstance(dtype, np.dtype) or not isinstance(numbers, bytes):
        raise Refused('its pickle describes an array that is not one of numbers')
      # The same object: what refers to it was written before its numbers.
      self.stack[-1].__setstate__((1, tuple(shape), dtype, bool(fortran), numbers))
    elif type(self.stack[-1]) is not dict:
      raise Refused('its pickle sets attributes of something that is not a state dict')

  def _refuse(self):
    raise Refused('its pickle makes objects that are neither tensors nor plain containers')

  dispatch = pickle._Unpickler.dispatch | {
    **dict.fromkeys((code[0] for code in _REFUSED), _refuse),
    pickle.BUILD[0]: _build,
  }


def _dtype(name, *_):
  """numpy.dtype: numbers alone, no objects and no records."""
  if not isinstance(name, str) or not re.fullmatch('[fiu][1248]|b1', name):
    raise Refused(f'its pickle asks for an array of {name!r}, expected numbers')
  return np.dtype(name)


def _encode(text, encoding):
  """_codecs.encode: how numbers are written as text."""
  if encoding != 'latin1':
    raise Refused(f'its pickle has numbers as text in {encoding!r}, expected latin1')
  return text.encode('latin1')


def _number(dtype, numbers):
  """numpy.core.multiarray.scalar."""
  (value,) = np.frombuffer(numbers, dtype)
  return value


def _array(*_):
  """numpy.core.multiarray._reconstruct: an empty array; see `Unpickler._build`."""
  return np.empty(0, np.uint8)


_BUILDERS: Mapping[tuple[str, str], Callable] = {
  **{(f'numpy.{core}.multiarray', '_reconstruct'): _array for core in ('core', '_core')},
  **{(f'numpy.{core}.multiarray', 'scalar'): _number for core in ('core', '_core')},
  ('numpy', 'ndarray'): _array,
  ('numpy', 'dtype'): _dtype,
  ('_codecs', 'encode'): _encode,
  ('collections', 'OrderedDict'): lambda items=(): dict(items),
  ('torch._utils', '_rebuild_parameter'): lambda tensor, *_: tensor,
  ('torch', 'Size'): lambda items=(): tuple(items),
  ('torch', 'device'): lambda *names: ':'.join(map(str, names)),
  ('builtins', 'set'): lambda items=(): set(items),
  ('__builtin__', 'set'): lambda items=(): set(items),
}

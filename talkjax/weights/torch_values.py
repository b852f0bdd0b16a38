"""The names that pickles of torch.save may use and what they build: descriptions of arrays and plain containers.

Builders take the machine that runs the program (`torch_pickle`), for its limits, and the arguments from the program:
a tuple of any values that the program can build, so the exact type of each is checked. Sizes are Python's own integers
(neither bool nor NumPy's, whose arithmetic overflows), and no memory is accessed or allocated by them here.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from talkjax.weights.errors import Refused, printable

_MAX_DIMENSIONS = 32
_MAX_EMPTY = 1 << 40  # product of the non-zero dimensions of an empty array
_MAX_DEVICE = 200  # characters

# PyTorch's storage classes and their dtypes.
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
_NUMPY = ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'b1')  # no object or structured dtypes
_KEYS = frozenset({str, bytes, int, float, bool, type(None)})


@dataclasses.dataclass(frozen=True)
class Storage:
  """A flat array in the file: its key, dtype and number of elements; [start, stop) is the part referred to."""

  key: str
  dtype: np.dtype
  size: int
  start: int
  stop: int


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A strided view of a storage, checked to be within its bounds; offset and strides in elements."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


@dataclasses.dataclass(eq=False)
class Array:
  """A NumPy array stored in the pickle: the program creates it empty, then sets all its fields once."""

  dtype: np.dtype | None = None
  shape: tuple[int, ...] = ()
  order: str = 'C'
  data: bytes = b''


@dataclasses.dataclass(frozen=True)
class StorageType:
  """A storage class of PyTorch."""

  dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Builder:
  """A function that a program may call: `make(machine, args)`."""

  make: Callable


class _Marker:
  """A name that a program may refer to but not call."""


def fill_array(array: Array, state: Any) -> None:
  """numpy.ndarray.__setstate__((version, shape, dtype, is_fortran, data))."""
  _, shape, dtype, fortran, data = state if type(state) is tuple and len(state) == 5 else (None,) * 5
  if (
    array.dtype is not None
    or not is_shape(shape)
    or not isinstance(dtype, np.dtype)
    or type(fortran) is not bool
    or type(data) is not bytes
    or math.prod(shape) * dtype.itemsize != len(data)
    or math.prod(max(n, 1) for n in shape) > _MAX_EMPTY
  ):
    raise Refused('its pickle describes an array that does not fit its numbers')
  array.dtype, array.shape, array.order, array.data = dtype, shape, 'F' if fortran else 'C', data


def _tensor(machine, args: tuple) -> Tensor:
  """torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks[, metadata])."""
  storage, offset, shape, strides = args[:4] if is_tuple(args, 4, 7) else [None] * 4
  if (
    type(storage) is not Storage
    or not (is_shape((offset,)) and is_shape(shape) and is_shape(strides))
    or len(shape) != len(strides)
  ):
    raise Refused('its pickle describes a tensor that cannot be')
  size = storage.stop - storage.start
  if 0 in shape:
    fits = offset <= size and math.prod(max(n, 1) for n in shape) <= _MAX_EMPTY
  else:  # Python's integers do not overflow
    fits = offset + sum((n - 1) * s for n, s in zip(shape, strides)) < size and math.prod(shape) <= size
  if not fits:
    raise Refused(f'its pickle describes a tensor of shape {list(shape)} beyond the {size} numbers of its storage')
  return Tensor(storage, storage.start + offset, shape, strides)


def _parameter(machine, args: tuple) -> Tensor:
  if not is_tuple(args, 1, 3) or type(args[0]) is not Tensor:
    raise Refused('its pickle describes a parameter that is not a tensor')
  return args[0]


def _array(machine, args: tuple) -> Array:
  """numpy.core.multiarray._reconstruct(ndarray, (0,), b'b')."""
  if not args or args[0] is not _NDARRAY:
    raise Refused('its pickle describes an array that is not numeric')
  return Array()


def _dtype(machine, args: tuple) -> np.dtype:
  name = args[0] if args else None
  if type(name) is not str or name not in _NUMPY:
    raise Refused(f'its pickle asks for an array of {printable(name)}, expected numbers')
  return np.dtype(name)


def _scalar(machine, args: tuple) -> np.generic:
  dtype, data = args if len(args) == 2 else (None, None)
  if not isinstance(dtype, np.dtype) or type(data) is not bytes or len(data) != dtype.itemsize:
    raise Refused('its pickle describes a number that does not fit its bytes')
  return as_numbers(data, dtype)[0]


def _encode(machine, args: tuple) -> bytes:
  """_codecs.encode(text, 'latin1'), which NumPy uses to store array data as text."""
  text, encoding = args if len(args) == 2 else (None, None)
  if type(text) is not str or type(encoding) is not str or encoding != 'latin1':
    raise Refused(f'its pickle has numbers as text in {printable(encoding)}, expected latin1')
  machine.encoded += len(text)
  if machine.encoded > len(machine.program):
    raise Refused('its pickle encodes more text than it has')
  try:
    return text.encode('latin1')
  except UnicodeEncodeError:
    raise machine.damaged('text is not latin1') from None


def _no_bytes(machine, args: tuple) -> bytes:
  """bytes(), which protocol 2 uses for the data of an empty array. A size argument would allocate memory."""
  if args:
    raise Refused('its pickle makes bytes of something that is not text')
  return b''


def _items(machine, args: tuple) -> list | tuple:
  """The items of a new container, from no argument or from one list or tuple."""
  items = args[0] if len(args) == 1 else ()
  if len(args) > 1 or type(items) not in (list, tuple):
    raise Refused('its pickle makes a container of something that is not a list')
  machine.spend(len(items))
  return items


def _dict(machine, args: tuple) -> dict:
  items = _items(machine, args)
  if any(type(item) not in (list, tuple) or len(item) != 2 for item in items):
    raise Refused('its pickle makes a dictionary of something that is not pairs')
  return {check_key(key): value for key, value in items}


def _device(machine, args: tuple) -> str:
  """torch.device('cuda', 0) -> 'cuda:0'."""
  kind, index = (*args, None)[:2] if is_tuple(args, 1, 2) else (None, None)
  if type(kind) is not str or len(kind) > _MAX_DEVICE or type(index) not in (int, type(None)):
    raise Refused('its pickle describes a device that cannot be')
  return kind if index is None else f'{kind}:{index}'


def as_numbers(data: bytes, dtype: np.dtype) -> np.ndarray:
  """Bytes as a flat read-only array.

  Any non-zero byte of a bool becomes True: NumPy relies on booleans being 0 or 1 when it indexes with a mask.
  """
  numbers = np.frombuffer(data, np.uint8) != 0 if dtype == np.bool_ else np.frombuffer(data, dtype)
  numbers.flags.writeable = False
  return numbers


def check_key(key: Any) -> Any:
  """Checks a dictionary key or a set item. Larger integers could be chosen to have the same hash."""
  if type(key) not in _KEYS or (type(key) is int and not -(1 << 63) <= key < 1 << 63):
    raise Refused(f'its pickle has a {type(key).__name__} for a key, expected text or a number')
  return key


def is_tuple(value: Any, least: int, most: int) -> bool:
  return type(value) is tuple and least <= len(value) <= most


def is_shape(value: Any) -> bool:
  """Whether a value is a tuple of at most 32 sizes, which are Python's own integers (not bool, not NumPy's)."""
  return is_tuple(value, 0, _MAX_DIMENSIONS) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


_NDARRAY = _Marker()
NAMES: dict[tuple[str, str], Any] = {
  **{('torch', name): StorageType(np.dtype(dtype)) for name, dtype in _STORAGES.items()},
  **{(f'numpy.{core}.multiarray', '_reconstruct'): Builder(_array) for core in ('core', '_core')},
  **{(f'numpy.{core}.multiarray', 'scalar'): Builder(_scalar) for core in ('core', '_core')},
  ('numpy', 'ndarray'): _NDARRAY,
  ('numpy', 'dtype'): Builder(_dtype),
  ('_codecs', 'encode'): Builder(_encode),
  ('__builtin__', 'bytes'): Builder(_no_bytes),
  ('collections', 'OrderedDict'): Builder(_dict),
  ('torch._utils', '_rebuild_tensor_v2'): Builder(_tensor),
  ('torch._utils', '_rebuild_parameter'): Builder(_parameter),
  ('torch', 'Size'): Builder(lambda machine, args: tuple(_items(machine, args))),
  ('torch', 'device'): Builder(_device),
  ('builtins', 'set'): Builder(lambda machine, args: set(map(check_key, _items(machine, args)))),
  ('__builtin__', 'set'): Builder(lambda machine, args: set(map(check_key, _items(machine, args)))),
}

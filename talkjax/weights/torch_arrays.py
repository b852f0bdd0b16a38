"""Creates the arrays that a pickle of torch.save describes, after its program has ended.

All arrays are read-only. Arrays that are contiguous in their storage are views of it; others are copies.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from talkjax.weights.errors import Refused
from talkjax.weights.torch_values import Array, Storage, Tensor, as_numbers

_MAX_DEPTH = 64  # of nested containers
_MAX_VALUES = 1 << 21  # the same as the maximum number of steps of a program
# A tensor may be stored under several names: T5 has its embedding under four. A file whose values take more than this
# many times its size in memory is refused.
_MAX_GROWTH = 4
_SLACK = 1 << 24  # bytes in addition, because small files may repeat values more often


@dataclasses.dataclass(frozen=True)
class _Converted:
  """A value with its arrays created; depth, number of values and bytes are counted as if nothing in it were shared."""

  value: Any
  depth: int = 0
  count: int = 1
  size: int = 0


def make_arrays(tree: Any, fetch: Callable[[Storage], np.ndarray], stored: int) -> Any:
  """Replaces each `Tensor` and `Array` in the value of a program by a NumPy array.

  Args:
    tree: the value, see `torch_pickle.run`.
    fetch: reads the data of a storage as a flat read-only array; called once per storage that the tree refers to.
    stored: bytes of array data in the file.

  Raises:
    Refused: the tree is too deep or too large, contains itself, or contains a class or a bare storage.
  """
  return _Converter(fetch, _MAX_GROWTH * stored + _SLACK).make(tree, 0).value


class _Converter:
  def __init__(self, fetch: Callable[[Storage], np.ndarray], limit: int):
    self.fetch, self.limit = fetch, limit
    self.converted: dict[int, _Converted | None] = {}  # by id; None while the items of a container are being converted
    self.numbers: dict[str, np.ndarray] = {}
    self.tensors: dict[Tensor, np.ndarray] = {}
    self.copied = 0

  def make(self, value: Any, depth: int) -> _Converted:
    kind = type(value)
    if kind in (str, bytes):
      return _Converted(value, size=len(value))
    if kind in (type(None), bool, int, float) or isinstance(value, np.generic | np.dtype):
      return _Converted(value)
    if id(value) not in self.converted:
      self.converted[id(value)] = None
      if kind is Tensor:
        array = self.tensor(value)
        converted = _Converted(array, size=array.nbytes)
      elif kind is Array:
        converted = self.array(value)
      elif kind in (dict, list, tuple, set):
        converted = self.container(value, depth)
      else:
        raise Refused('holds a class or a storage that is not part of a tensor')
      self.converted[id(value)] = converted
    converted = self.converted[id(value)]
    if converted is None:
      raise Refused('holds a container that contains itself')
    return converted

  def container(self, value: Any, depth: int) -> _Converted:
    if depth >= _MAX_DEPTH:
      raise Refused(f'holds containers more than {_MAX_DEPTH} deep')
    items, deepest, count, size = [], 0, 1, 0
    for item in value.values() if type(value) is dict else value:
      converted = self.make(item, depth + 1)
      items.append(converted.value)
      deepest, count, size = max(deepest, converted.depth), count + converted.count, size + converted.size
      if deepest >= _MAX_DEPTH or count > _MAX_VALUES or size > self.limit:
        raise Refused('holds one value so often, or so deep, that it would take far more memory than the file')
    return _Converted(dict(zip(value, items)) if type(value) is dict else type(value)(items), deepest + 1, count, size)

  def array(self, value: Array) -> _Converted:
    if value.dtype is None:
      raise Refused('holds an array without numbers')
    return _Converted(as_numbers(value.data, value.dtype).reshape(value.shape, order=value.order), size=len(value.data))

  def tensor(self, value: Tensor) -> np.ndarray:
    if value not in self.tensors:
      if value.storage.key not in self.numbers:
        self.numbers[value.storage.key] = self.fetch(value.storage)
      self.tensors[value] = self.view(value, self.numbers[value.storage.key])
    return self.tensors[value]

  def view(self, value: Tensor, numbers: np.ndarray) -> np.ndarray:
    if 0 in value.shape:
      return np.empty(value.shape, numbers.dtype)
    size, contiguous = 1, True
    for n, stride in zip(value.shape[::-1], value.strides[::-1]):
      contiguous &= n == 1 or stride == size
      size *= n
    if contiguous:
      return numbers[value.offset : value.offset + size].reshape(value.shape)
    self.copied += size * numbers.itemsize
    if self.copied > self.limit:
      raise Refused('holds so many views of its storages that they would take far more memory than the file')
    # np.ndarray checks the bounds again.
    strides = [0 if n == 1 else s * numbers.itemsize for n, s in zip(value.shape, value.strides)]
    view = np.ndarray(value.shape, numbers.dtype, numbers, value.offset * numbers.itemsize, strides)
    copy = np.ascontiguousarray(view)
    copy.flags.writeable = False
    return copy

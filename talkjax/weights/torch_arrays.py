"""Arrays from the descriptions that a pickle of torch.save made, after its program ended.

All arrays are read-only. Those that are contiguous in their storage share its memory, others are copied.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from talkjax.weights.errors import Refused
from talkjax.weights.torch_values import Array, Storage, Tensor, as_numbers

_MAX_DEPTH = 64  # of containers in containers
_MAX_VALUES = 1 << 21  # as many as a program has steps
# A tensor may have several names: T5 has its embedding under four. More than that much is a file that grows when read.
_MAX_GROWTH = 4
_SLACK = 1 << 24  # bytes, so that small files may repeat themselves


@dataclasses.dataclass(frozen=True)
class _Made:
  """A value with arrays in place of descriptions; depth, number of values and bytes as if nothing in it were shared."""

  value: Any
  depth: int = 0
  count: int = 1
  size: int = 0


def make_arrays(tree: Any, fetch: Callable[[Storage], np.ndarray], stored: int) -> Any:
  """A program's value with numpy arrays in place of `Tensor` and `Array`.

  Args:
    tree: see `torch_pickle.run`.
    fetch: the numbers of a storage, flat and read-only; called once for each that the tree refers to.
    stored: bytes of numbers in the file.

  Raises:
    Refused: the tree is too deep or too large, contains itself, or holds something that is not a value.
  """
  return _Maker(fetch, _MAX_GROWTH * stored + _SLACK).make(tree, 0).value


class _Maker:
  def __init__(self, fetch: Callable[[Storage], np.ndarray], limit: int):
    self.fetch, self.limit = fetch, limit
    self.made: dict[int, _Made | None] = {}  # by id; None while a container's items are made
    self.numbers: dict[str, np.ndarray] = {}
    self.tensors: dict[Tensor, np.ndarray] = {}
    self.copied = 0

  def make(self, value: Any, depth: int) -> _Made:
    kind = type(value)
    if kind in (str, bytes):
      return _Made(value, size=len(value))
    if kind in (type(None), bool, int, float) or isinstance(value, np.generic | np.dtype):
      return _Made(value)
    if id(value) not in self.made:
      self.made[id(value)] = None
      if kind is Tensor:
        array = self.tensor(value)
        made = _Made(array, size=array.nbytes)
      elif kind is Array:
        made = self.array(value)
      elif kind in (dict, list, tuple, set):
        made = self.container(value, depth)
      else:
        raise Refused('holds a class or a storage that is not part of a tensor')
      self.made[id(value)] = made
    made = self.made[id(value)]
    if made is None:
      raise Refused('holds a container that contains itself')
    return made

  def container(self, value: Any, depth: int) -> _Made:
    if depth >= _MAX_DEPTH:
      raise Refused(f'holds containers more than {_MAX_DEPTH} deep')
    items, most, count, size = [], 0, 1, 0
    for item in value.values() if type(value) is dict else value:
      made = self.make(item, depth + 1)
      items.append(made.value)
      most, count, size = max(most, made.depth), count + made.count, size + made.size
      if most >= _MAX_DEPTH or count > _MAX_VALUES or size > self.limit:
        raise Refused('holds one value so often, or so deep, that it would take far more memory than the file')
    return _Made(dict(zip(value, items)) if type(value) is dict else type(value)(items), most + 1, count, size)

  def array(self, value: Array) -> _Made:
    if value.dtype is None:
      raise Refused('holds an array without numbers')
    return _Made(as_numbers(value.data, value.dtype).reshape(value.shape, order=value.order), size=len(value.data))

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
    # The constructor checks the bounds again.
    strides = [0 if n == 1 else s * numbers.itemsize for n, s in zip(value.shape, value.strides)]
    view = np.ndarray(value.shape, numbers.dtype, numbers, value.offset * numbers.itemsize, strides)
    copy = np.ascontiguousarray(view)
    copy.flags.writeable = False
    return copy

"""Runs the pickles of torch.save on a minimal stack machine, without PyTorch and `pickle.Unpickler`.

A pickle is a program, and its file is not trusted. This machine supports only the operations and names that trees of
tensors need. A program builds plain values and descriptions of arrays (`Storage`, `Tensor`, `Array`) and nothing else:
it never holds an array, so it cannot read or write memory through one. `torch_files` creates the arrays afterwards.

Every cost is bounded by the length of the program, MAX_STEPS and MAX_PROGRAM. Only plain scalars and strings are
hashed: tuples as keys would allow deep recursion and, because their hash is not keyed, millions of collisions.
"""

import dataclasses
import pickle
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from talkjax.weights.errors import Refused, printable
from talkjax.weights.torch_values import (
  NAMES,
  Array,
  Builder,
  Storage,
  StorageType,
  check_key,
  fill_array,
  is_shape,
  is_tuple,
)

MAX_PROGRAM = 1 << 28  # bytes; Stable Diffusion's has 1 MB, but NumPy arrays store their data inside the pickle
MAX_STEPS = 1 << 21  # operations, about 30 per tensor; each takes at most 250 bytes: 0.5 GB and a few seconds in total
_MAX_LINE = 200  # bytes in the name of a module or a class
_MAX_INT = 32  # bytes; the largest integers in use are NumPy's 128-bit random states


@dataclasses.dataclass(frozen=True)
class Program:
  """The result of a pickle: its value, its end in the file, and the storages it refers to by key (without views)."""

  value: Any
  end: int
  storages: dict[str, Storage]


def run(program: bytes, start: int = 0) -> Program:
  """Runs the pickle that starts at `start`.

  Returns:
    the program with its value: None, bool, int, float, str, bytes, NumPy scalars and dtypes, Tensor and Array in dicts,
    lists, tuples and sets. Containers may be shared or contain themselves, and classes and storages may occur outside
    tensors: `torch_arrays` refuses those.

  Raises:
    Refused: the program is damaged, too large, or does something that trees of tensors do not need.
  """
  machine = _Machine(program, start)
  value = machine.run()
  return Program(value, machine.position, machine.storages)


class _Machine:
  def __init__(self, program: bytes, position: int):
    self.program, self.position = program, position
    self.stack: list = []
    self.marks: list[int] = []  # stack heights; an operation may not access values below the last one
    self.memo: dict[int, Any] = {}
    self.storages: dict[str, Storage] = {}
    self.steps = self.encoded = 0

  def run(self) -> Any:
    while (code := self.take(1)) != pickle.STOP:
      self.spend(1)
      operation = _OPERATIONS.get(code)
      if operation is None:
        raise Refused(
          f'its pickle has the operation 0x{code.hex()}, which makes something other than tensors and plain '
          'containers, so it was not read; save its state dict alone (as .safetensors) where you trust it'
        )
      operation(self)
    return self.pop()

  def spend(self, steps: int) -> None:
    self.steps += steps
    if self.steps > MAX_STEPS:
      raise Refused(f'its pickle takes more than {MAX_STEPS} steps, far more than checkpoints do')

  def damaged(self, why: str) -> Refused:
    return Refused(f'is damaged ({why} at byte {self.position} of its pickle): download it again')

  # Reading the program.

  def take(self, count: int) -> bytes:
    if count > len(self.program) - self.position:
      raise self.damaged('it is truncated')
    self.position += count
    return self.program[self.position - count : self.position]

  def integer(self, width: int, signed: bool = False) -> int:
    return int.from_bytes(self.take(width), 'little', signed=signed)

  def text(self, data: bytes) -> str:
    try:
      return data.decode()
    except UnicodeDecodeError:
      raise self.damaged('text is not UTF-8') from None

  def line(self) -> str:
    end = self.program.find(b'\n', self.position, self.position + _MAX_LINE)
    if end < 0:
      raise self.damaged('a name does not end')
    return self.text(self.take(end + 1 - self.position)[:-1])

  # The stack.

  def top(self) -> Any:
    if len(self.stack) <= (self.marks[-1] if self.marks else 0):
      raise self.damaged('a value is missing')
    return self.stack[-1]

  def pop(self) -> Any:
    self.top()
    return self.stack.pop()

  def pop_mark(self) -> list:
    if not self.marks:
      raise self.damaged('a mark is missing')
    start = self.marks.pop()
    items = self.stack[start:]
    del self.stack[start:]
    return items

  def target(self, kind: type) -> Any:
    """The container on top of the stack, which an operation fills."""
    found = self.top()
    if type(found) is not kind:
      raise Refused(f'its pickle fills a {type(found).__name__} as if it were a {kind.__name__}, so it was not read')
    return found


# Operations.


def _proto(machine: _Machine) -> None:
  if machine.integer(1) > 5:
    raise machine.damaged('its protocol is not known')


def _long(machine: _Machine) -> None:
  width = machine.integer(1)
  if width > _MAX_INT:
    raise Refused(f'its pickle has an integer of {width} bytes, expected at most {_MAX_INT}')
  machine.stack.append(machine.integer(width, signed=True))


def _tuple(count: int) -> Callable:
  def operation(machine: _Machine) -> None:
    machine.stack.append(tuple([machine.pop() for _ in range(count)][::-1]))

  return operation


def _sized(width: int, is_text: bool) -> Callable:
  def operation(machine: _Machine) -> None:
    data = machine.take(machine.integer(width))
    machine.stack.append(machine.text(data) if is_text else data)

  return operation


def _set_items(machine: _Machine, items: list) -> None:
  target = machine.target(dict)
  if len(items) % 2:
    raise machine.damaged('a key has no value')
  for key, value in zip(items[::2], items[1::2]):
    target[check_key(key)] = value


def _set_item(machine: _Machine) -> None:
  value, key = machine.pop(), machine.pop()
  _set_items(machine, [key, value])


def _append(machine: _Machine) -> None:
  item = machine.pop()
  machine.target(list).append(item)


def _append_all(machine: _Machine) -> None:
  items = machine.pop_mark()
  machine.target(list).extend(items)


def _add_all(machine: _Machine) -> None:
  items = machine.pop_mark()
  machine.target(set).update(map(check_key, items))


def _put(width: int) -> Callable:
  def operation(machine: _Machine) -> None:
    machine.memo[machine.integer(width)] = machine.top()

  return operation


def _memoize(machine: _Machine) -> None:
  machine.memo[len(machine.memo)] = machine.top()


def _get(width: int) -> Callable:
  def operation(machine: _Machine) -> None:
    index = machine.integer(width)
    if index not in machine.memo:
      raise machine.damaged('it refers to a value that it has not made')
    machine.stack.append(machine.memo[index])

  return operation


def _global(machine: _Machine) -> None:
  _push_name(machine, machine.line(), machine.line())


def _stack_global(machine: _Machine) -> None:
  name, module = machine.pop(), machine.pop()
  if type(name) is not str or type(module) is not str:
    raise machine.damaged('a name is not text')
  _push_name(machine, module, name)


def _push_name(machine: _Machine, module: str, name: str) -> None:
  if (module, name) not in NAMES:
    raise Refused(
      f'its pickle asks for {printable(module)}.{printable(name)}, which is neither a tensor nor a plain container, '
      'so it was not read; save its state dict alone (as .safetensors) where you trust it'
    )
  machine.stack.append(NAMES[module, name])


def _reduce(machine: _Machine) -> None:
  args, called = machine.pop(), machine.pop()
  if type(called) is not Builder or type(args) is not tuple:
    raise Refused('its pickle calls something that does not build a tensor or a container, so it was not read')
  machine.stack.append(called.make(machine, args))


def _build(machine: _Machine) -> None:
  """Sets attributes: drops the `_metadata` of a state dict, checks the byte order of a dtype, fills an array."""
  state = machine.pop()
  target = machine.top()
  if type(target) is Array:
    fill_array(target, state)
  elif isinstance(target, np.dtype):
    order = state[1] if type(state) is tuple and len(state) > 1 else None
    if type(order) is not str or order not in ('<', '|', '='):
      raise Refused(f'its pickle has numbers in the byte order {printable(order)}, expected <')
  elif type(target) is not dict:
    raise Refused('its pickle sets attributes of something that is not a state dict, so it was not read')


def _persistent(machine: _Machine) -> None:
  """('storage', class, key, device, size[, view]); view, in the legacy format: None or (key, start, length)."""
  saved = machine.pop()
  tag, kind, key, _, size, view = (*saved, *([None] * (len(saved) == 5))) if is_tuple(saved, 5, 6) else [None] * 6
  if type(tag) is not str or tag != 'storage' or type(kind) is not StorageType or type(key) is not str:
    raise Refused('its pickle refers to something that is not a tensor')
  _, start, length = (key, 0, size) if view is None else view if is_tuple(view, 3, 3) else [None] * 3
  if not is_shape((size, start, length)) or start + length > size:
    raise Refused('its pickle describes a storage that cannot be')
  whole = machine.storages.setdefault(key, Storage(key, kind.dtype, size, 0, size))
  if (whole.dtype, whole.size) != (kind.dtype, size):
    raise Refused(f'its pickle has two types or sizes for the storage {printable(key)}')
  machine.stack.append(Storage(key, kind.dtype, size, start, start + length))


_OPERATIONS: dict[bytes, Callable[[_Machine], None]] = {
  pickle.PROTO: _proto,
  pickle.FRAME: lambda machine: machine.take(8),
  pickle.MARK: lambda machine: machine.marks.append(len(machine.stack)),
  pickle.NONE: lambda machine: machine.stack.append(None),
  pickle.NEWTRUE: lambda machine: machine.stack.append(True),
  pickle.NEWFALSE: lambda machine: machine.stack.append(False),
  pickle.BININT: lambda machine: machine.stack.append(machine.integer(4, signed=True)),
  pickle.BININT1: lambda machine: machine.stack.append(machine.integer(1)),
  pickle.BININT2: lambda machine: machine.stack.append(machine.integer(2)),
  pickle.LONG1: _long,
  pickle.BINFLOAT: lambda machine: machine.stack.append(struct.unpack('>d', machine.take(8))[0]),
  pickle.SHORT_BINUNICODE: _sized(1, True),
  pickle.BINUNICODE: _sized(4, True),
  pickle.BINUNICODE8: _sized(8, True),
  pickle.SHORT_BINSTRING: _sized(1, True),  # text in Python 2
  pickle.BINSTRING: _sized(4, True),
  pickle.SHORT_BINBYTES: _sized(1, False),
  pickle.BINBYTES: _sized(4, False),
  pickle.BINBYTES8: _sized(8, False),
  pickle.EMPTY_LIST: lambda machine: machine.stack.append([]),
  pickle.APPEND: _append,
  pickle.APPENDS: _append_all,
  pickle.EMPTY_DICT: lambda machine: machine.stack.append({}),
  pickle.SETITEM: _set_item,
  pickle.SETITEMS: lambda machine: _set_items(machine, machine.pop_mark()),
  pickle.EMPTY_SET: lambda machine: machine.stack.append(set()),
  pickle.ADDITEMS: _add_all,
  pickle.EMPTY_TUPLE: lambda machine: machine.stack.append(()),
  pickle.TUPLE: lambda machine: machine.stack.append(tuple(machine.pop_mark())),
  pickle.TUPLE1: _tuple(1),
  pickle.TUPLE2: _tuple(2),
  pickle.TUPLE3: _tuple(3),
  pickle.BINPUT: _put(1),
  pickle.LONG_BINPUT: _put(4),
  pickle.MEMOIZE: _memoize,
  pickle.BINGET: _get(1),
  pickle.LONG_BINGET: _get(4),
  pickle.GLOBAL: _global,
  pickle.STACK_GLOBAL: _stack_global,
  pickle.REDUCE: _reduce,
  pickle.BUILD: _build,
  pickle.BINPERSID: _persistent,
}

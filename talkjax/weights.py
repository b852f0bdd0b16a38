"""Published weights from disk: safetensors and PyTorch pickles, without PyTorch.

A pickle is a program. Here it may only build tensors and plain containers: every name it asks for is looked up in a
short table of our own builders, everything else is refused with one sentence before anything of it is called.
"""

import dataclasses
import json
import math
import mmap
import pathlib
import pickle
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import jax
import ml_dtypes
import numpy as np

from talkjax.errors import UserError

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
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first of the pickles that PyTorch wrote before its zip format
_LEGACY_PROTOCOL = 1001


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
    return _read_safetensors(path)
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
      return _read_zip(path)
    if tarfile.is_tarfile(path):
      raise _Refused('is a tar archive, as PyTorch wrote before version 0.2: load and save it again with a newer one')
    return _read_legacy(path)
  except _Refused as error:
    raise UserError(f'weights {path}: {error}') from None
  except OSError as error:
    raise UserError(f'weights {path}: cannot be read ({error.strerror or error})') from None
  except Exception as error:  # a damaged pickle can fail in any way
    raise UserError(
      f'weights {path}: damaged, or not a file of weights ({type(error).__name__}: {error}); download it again'
    ) from None


# Names. Our modules are called as the published ones, with '_' where those have '.': a leaf is found by its path.


def fit(state: Mapping[str, np.ndarray], wanted: Any, what: str, ignored: str = '') -> dict:
  """A published state dict as Flax parameters.

  Args:
    state: PyTorch's names and layouts (convolutions OIHW, matrices OI).
    wanted: the tree of parameters (arrays or their shapes) that they are for.
    what: what the state dict is, for messages.
    ignored: a regular expression of names that are left out (tables that are computed here, heads not used).

  Returns:
    a tree like `wanted` of float32 arrays (HWIO, IO).

  Raises:
    UserError: a name is missing, too many, or of another shape.
  """
  flat = {tuple(k.key for k in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)}
  ours = {'_'.join(path[:-1]) + '.' + _PYTORCH.get(path[-1], path[-1]): path for path in flat}
  found, unknown = {}, []
  for name, value in state.items():
    if ignored and re.search(ignored, name):
      continue
    module, _, kind = name.rpartition('.')
    path = ours.get(module.replace('.', '_') + '.' + kind)
    if path is None:
      unknown.append(name)
      continue
    array, shape = np.asarray(value, np.float32), flat[path].shape
    array = _as_flax(array) if path[-1] == 'kernel' else array
    if array.squeeze().shape == tuple(n for n in shape if n != 1):
      array = array.reshape(shape)  # a 1x1 convolution may be a matrix here
    if array.shape != shape:
      raise UserError(f'{what}: {name} is {list(value.shape)}, which does not fit {"/".join(path)} {list(shape)}')
    found[path] = array
  lost = [p for p in flat if p not in found]
  if lost or unknown:
    said = [f'lacks {_some(map("/".join, lost))}'] if lost else []
    said += [f'holds what has no place here: {_some(unknown)}'] if unknown else []
    raise UserError(f'{what} {" and ".join(said)}: it is of another network, or of other sizes')
  tree: dict = {}
  for path, value in found.items():
    node = tree
    for key in path[:-1]:
      node = node.setdefault(key, {})
    node[path[-1]] = value
  return tree


_PYTORCH = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}


def _as_flax(value: np.ndarray) -> np.ndarray:
  """A kernel: O, I, then space -> space, then I, O."""
  return value.transpose(*range(2, value.ndim), 1, 0) if value.ndim > 1 else value


def _some(names) -> str:
  names = sorted(names)
  return ', '.join(names[:4]) + (f' and {len(names) - 4} more' if len(names) > 4 else '')


class _Refused(Exception):
  """Why a file is not read: the end of a sentence that begins with its name."""


# Formats.


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
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


def _read_zip(path: pathlib.Path) -> Any:
  """NAME/data.pkl is the pickle, NAME/data/KEY a storage's numbers, NAME/byteorder how they are written."""
  with zipfile.ZipFile(path) as archive:
    members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name.rpartition('/')[2] == 'data.pkl']
    if len(pickles) != 1:
      raise _Refused('is a zip archive, but not one of torch.save (it should hold one data.pkl)')
    root = pickles[0].removesuffix('data.pkl')
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
      raise _Refused('is a compressed zip archive, which torch.save never writes')  # and which can unfold without end
    order = archive.read(root + 'byteorder').strip() if root + 'byteorder' in members else b'little'
    storages: dict[str, np.ndarray] = {}

    def storage(dtype, key, size, *_):
      if key not in storages:
        numbers = np.frombuffer(archive.read(f'{root}data/{key}'), np.dtype(dtype))
        storages[key] = (numbers if order == b'little' else numbers.byteswap())[:size]
      if storages[key].dtype != dtype:
        raise _Refused(f'reads the storage {key} both as {storages[key].dtype} and as {np.dtype(dtype)}')
      return storages[key]

    with archive.open(pickles[0]) as file:
      return _Unpickler(file, storage).load()


def _read_legacy(path: pathlib.Path) -> Any:
  """Five pickles (magic number, protocol, machine, the object, keys of its storages), then the storages' numbers."""
  with path.open('rb') as file:
    try:
      magic = _Unpickler(file, None).load()
    except (_Refused, pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError):
      magic = None
    if magic != _LEGACY_MAGIC:
      file.seek(0)
      if file.read(4) == b'PK\3\4':
        raise _Refused('is cut short: download it again')
      raise _Refused('is neither a PyTorch checkpoint nor safetensors; expected .pth .pt .ckpt .bin or .safetensors')
    protocol, machine = _Unpickler(file, None).load(), _Unpickler(file, None).load()
    if protocol != _LEGACY_PROTOCOL or not machine.get('little_endian', True):
      raise _Refused(f'is in a PyTorch format that is not known here (protocol {protocol}, {machine})')
    limit = path.stat().st_size
    storages: dict[str, np.ndarray] = {}

    def storage(dtype, key, size, view=None):
      if key not in storages:
        if size * np.dtype(dtype).itemsize > limit:
          raise _Refused(f'promises a storage of {size} numbers, more than the file has')
        storages[key] = np.zeros(size, dtype)  # filled below: the numbers stand behind the pickle
      if view is None:
        return storages[key]
      _, offset, length = view
      return storages[key][offset : offset + length]

    tensors = _Unpickler(file, storage, deferred=True)
    tree = tensors.load()
    for key in _Unpickler(file, None).load():
      (size,) = struct.unpack('<q', file.read(8))
      target = storages[key]
      if size != target.size or file.readinto(target.view(np.uint8)) != target.nbytes:
        raise _Refused(f'ends before its numbers do (storage {key})')
    return tree


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


class _Unpickler(pickle._Unpickler):
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
    raise _Refused(
      f'its pickle asks for {module}.{name}, which is neither a tensor nor a plain container, so it was not read; '
      'save its state dict alone (as .safetensors) where you trust it'
    )

  def persistent_load(self, saved):
    tag, kind, key, _, size, *view = saved
    if tag != 'storage' or self._storage is None or not isinstance(kind, _Kind) or not isinstance(size, int):
      raise _Refused('its pickle refers to something that is not a tensor')
    return self._storage(kind.dtype, key, size, *view)

  def _tensor(self, storage, offset, shape, strides, *_):
    """`torch._utils._rebuild_tensor_v2`: a view of a storage, checked to lie inside it."""
    shape, strides = tuple(shape), tuple(strides)
    if not isinstance(storage, np.ndarray) or len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
      raise _Refused('its pickle describes a tensor that cannot be')
    reach = offset + sum((n - 1) * s for n, s in zip(shape, strides)) + 1 if 0 not in shape else offset
    if reach > storage.size or math.prod(shape) > max(storage.size, 1):
      raise _Refused(f'its pickle describes a tensor of shape {list(shape)} beyond the numbers it has')
    view = np.lib.stride_tricks.as_strided(storage[offset:], shape, [s * storage.itemsize for s in strides])
    # Behind a legacy pickle the numbers come later: keep the view. Otherwise let go of what is not this tensor.
    return view if self._deferred else np.ascontiguousarray(view).reshape(shape)

  def _build(self):
    """Attributes: a state dict carries `_metadata`, which is dropped; numpy's arrays get their numbers so."""
    state = self.stack.pop()
    if isinstance(self.stack[-1], np.dtype):  # its byte order, which stands second
      if state[1] not in ('<', '|', '='):
        raise _Refused(f'its pickle has numbers in the byte order {state[1]!r}, expected <')
    elif type(self.stack[-1]) is np.ndarray:
      _, shape, dtype, fortran, numbers = state
      if not isinstance(dtype, np.dtype) or not isinstance(numbers, bytes):
        raise _Refused('its pickle describes an array that is not one of numbers')
      # The same object: what refers to it was written before its numbers.
      self.stack[-1].__setstate__((1, tuple(shape), dtype, bool(fortran), numbers))
    elif type(self.stack[-1]) is not dict:
      raise _Refused('its pickle sets attributes of something that is not a state dict')

  def _refuse(self):
    raise _Refused('its pickle makes objects that are neither tensors nor plain containers')

  dispatch = pickle._Unpickler.dispatch | {
    **dict.fromkeys((code[0] for code in _REFUSED), _refuse),
    pickle.BUILD[0]: _build,
  }


def _dtype(name, *_):
  """numpy.dtype: numbers alone, no objects and no records."""
  if not isinstance(name, str) or not re.fullmatch('[fiu][1248]|b1', name):
    raise _Refused(f'its pickle asks for an array of {name!r}, expected numbers')
  return np.dtype(name)


def _encode(text, encoding):
  """_codecs.encode: how numbers are written as text."""
  if encoding != 'latin1':
    raise _Refused(f'its pickle has numbers as text in {encoding!r}, expected latin1')
  return text.encode('latin1')


def _number(dtype, numbers):
  """numpy.core.multiarray.scalar."""
  (value,) = np.frombuffer(numbers, dtype)
  return value


def _array(*_):
  """numpy.core.multiarray._reconstruct: an empty array; see `_Unpickler._build`."""
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

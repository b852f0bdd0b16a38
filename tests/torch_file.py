"""Writes files as torch.save does, without PyTorch: stand-ins for its classes, and both of its containers."""

import io
import pickle
import sys
import types
import zipfile

import numpy as np

_KINDS = {'float32': 'FloatStorage', 'float16': 'HalfStorage', 'int64': 'LongStorage', 'bfloat16': 'BFloat16Storage'}


def _module(name, **members):
  module = types.ModuleType(name)
  for key, member in members.items():
    member.__module__, member.__qualname__ = name, key
    setattr(module, key, member)
  return module


def _rebuild_tensor_v2(*args):
  raise AssertionError('only its name is wanted')


_STORAGES = {name: type(name, (), {}) for name in _KINDS.values()}
_MODULES = {
  'torch': _module('torch', **_STORAGES),
  'torch._utils': _module('torch._utils', _rebuild_tensor_v2=_rebuild_tensor_v2),
}


class Tensor:
  """Pickles as a view of a storage."""

  def __init__(self, array, storage=None, offset=0, strides=None):
    self.storage = np.ascontiguousarray(array if storage is None else storage).reshape(-1)
    self.shape = np.shape(array)
    self.offset = offset
    self.strides = strides or tuple(s // 8 for s in np.empty(self.shape, np.float64).strides)

  def __reduce__(self):
    return _rebuild_tensor_v2, (_Storage(self.storage), self.offset, self.shape, self.strides, False, {})


class _Storage:
  def __init__(self, array):
    self.array = array


class _Pickler(pickle.Pickler):
  def __init__(self, file, legacy):
    super().__init__(file, protocol=2)
    self.legacy, self.storages = legacy, {}

  def persistent_id(self, obj):
    if not isinstance(obj, _Storage):
      return None
    key = next((k for k, a in self.storages.items() if a is obj.array), str(len(self.storages)))
    self.storages[key] = obj.array
    kind = _STORAGES[_KINDS[obj.array.dtype.name]]
    return ('storage', kind, key, 'cpu', obj.array.size, *((None,) if self.legacy else ()))


def save(path, tree, legacy: bool = False, compression: int = zipfile.ZIP_STORED) -> None:
  """Writes `tree`, whose arrays are pickled as tensors."""
  if isinstance(tree, dict):
    tree = {k: Tensor(v) if isinstance(v, np.ndarray) else v for k, v in tree.items()}
  there = {name: sys.modules.get(name) for name in _MODULES}
  sys.modules.update(_MODULES)
  try:
    body = io.BytesIO()
    pickler = _Pickler(body, legacy)
    pickler.dump(tree)
  finally:
    for name, module in there.items():
      if module is None:
        del sys.modules[name]
      else:
        sys.modules[name] = module
  if legacy:
    with open(path, 'wb') as file:
      for head in (0x1950A86A20F9469CFC6C, 1001, {'little_endian': True, 'type_sizes': {'int': 4}}):
        pickle.dump(head, file, protocol=2)
      file.write(body.getvalue())
      pickle.dump(sorted(pickler.storages), file, protocol=2)
      for key in sorted(pickler.storages):
        file.write(np.int64(pickler.storages[key].size).tobytes() + pickler.storages[key].tobytes())
    return
  with zipfile.ZipFile(path, 'w', compression) as archive:
    archive.writestr('archive/data.pkl', body.getvalue())
    archive.writestr('archive/byteorder', 'little')
    for key, array in pickler.storages.items():
      archive.writestr(f'archive/data/{key}', array.tobytes())

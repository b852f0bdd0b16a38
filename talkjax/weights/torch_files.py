"""The two containers that torch.save has written: a zip archive, and before it a sequence of pickles."""

import pathlib
import pickle
import struct
import zipfile
from typing import Any

import numpy as np

from talkjax.weights.torch_pickle import Refused, Unpickler

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first of the pickles that PyTorch wrote before its zip format
_LEGACY_PROTOCOL = 1001


def read_zip(path: pathlib.Path) -> Any:
  """NAME/data.pkl is the pickle, NAME/data/KEY a storage's numbers, NAME/byteorder how they are written."""
  with zipfile.ZipFile(path) as archive:
    members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name.rpartition('/')[2] == 'data.pkl']
    if len(pickles) != 1:
      raise Refused('is a zip archive, but not one of torch.save (it should hold one data.pkl)')
    root = pickles[0].removesuffix('data.pkl')
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
      raise Refused('is a compressed zip archive, which torch.save never writes')  # and which can unfold without end
    order = archive.read(root + 'byteorder').strip() if root + 'byteorder' in members else b'little'
    storages: dict[str, np.ndarray] = {}

    def storage(dtype, key, size, *_):
      if key not in storages:
        numbers = np.frombuffer(archive.read(f'{root}data/{key}'), np.dtype(dtype))
        storages[key] = (numbers if order == b'little' else numbers.byteswap())[:size]
      if storages[key].dtype != dtype:
        raise Refused(f'reads the storage {key} both as {storages[key].dtype} and as {np.dtype(dtype)}')
      return storages[key]

    with archive.open(pickles[0]) as file:
      return Unpickler(file, storage).load()


def read_legacy(path: pathlib.Path) -> Any:
  """Five pickles (magic number, protocol, machine, the object, keys of its storages), then the storages' numbers."""
  with path.open('rb') as file:
    try:
      magic = Unpickler(file, None).load()
    except (Refused, pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError):
      magic = None
    if magic != _LEGACY_MAGIC:
      file.seek(0)
      if file.read(4) == b'PK\3\4':
        raise Refused('is cut short: download it again')
      raise Refused('is neither a PyTorch checkpoint nor safetensors; expected .pth .pt .ckpt .bin or .safetensors')
    protocol, machine = Unpickler(file, None).load(), Unpickler(file, None).load()
    if protocol != _LEGACY_PROTOCOL or not machine.get('little_endian', True):
      raise Refused(f'is in a PyTorch format that is not known here (protocol {protocol}, {machine})')
    limit = path.stat().st_size
    storages: dict[str, np.ndarray] = {}

    def storage(dtype, key, size, view=None):
      if key not in storages:
        if size * np.dtype(dtype).itemsize > limit:
          raise Refused(f'promises a storage of {size} numbers, more than the file has')
        storages[key] = np.zeros(size, dtype)  # filled below: the numbers stand behind the pickle
      if view is None:
        return storages[key]
      _, offset, length = view
      return storages[key][offset : offset + length]

    tensors = Unpickler(file, storage, deferred=True)
    tree = tensors.load()
    for key in Unpickler(file, None).load():
      (size,) = struct.unpack('<q', file.read(8))
      target = storages[key]
      if size != target.size or file.readinto(target.view(np.uint8)) != target.nbytes:
        raise Refused(f'ends before its numbers do (storage {key})')
    return tree

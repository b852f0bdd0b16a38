"""Reads the two file formats of torch.save: a zip archive, and the legacy sequence of pickles.

Sizes stated in a file are checked against the size of the file before memory is allocated for them.
"""

import io
import pathlib
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from talkjax.weights import torch_pickle
from talkjax.weights.errors import Refused, printable
from talkjax.weights.torch_arrays import make_arrays
from talkjax.weights.torch_values import Storage, as_numbers

_MAX_DIRECTORY = 1 << 23  # bytes, about 60,000 storages; zipfile takes 15 times as much memory
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the legacy format
_LEGACY_PROTOCOL = 1001
# Errors that zipfile raises for a damaged archive; OSError is for a negative offset.
_ZIP_ERRORS = (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError, OverflowError, struct.error)


class _CappedReader(io.BufferedReader):
  """Limits a single read to `cap` bytes, because zipfile reads a directory of whatever size the archive states."""

  cap: int | None = _MAX_DIRECTORY

  def read(self, size: int | None = -1) -> bytes:
    if self.cap is not None and size is not None and size > self.cap:
      raise Refused(f'has a directory of more than {self.cap} bytes, far more than checkpoints do')
    return super().read(size)


def read_zip(path: pathlib.Path, select: Callable[[Any], Any]) -> Any:
  """Reads a zip archive: the pickle NAME/data.pkl, each storage NAME/data/KEY, and their byte order NAME/byteorder.

  Args:
    path: the archive.
    select: takes the unpickled object and returns the part whose arrays are to be read.

  Raises:
    Refused: the archive is damaged or was not written by torch.save.
    OSError: the file cannot be read.
  """
  with _CappedReader(io.FileIO(path)) as file:
    try:
      archive = zipfile.ZipFile(file)
    except _ZIP_ERRORS as error:
      raise Refused(f'is a damaged zip archive ({printable(str(error))}): download it again') from None
    file.cap = None
    members = _members(archive, path.stat().st_size)
    pickles = [name for name in members if name.rpartition('/')[2] == 'data.pkl']
    if len(pickles) != 1:
      raise Refused('is a zip archive, but not one of torch.save (it should hold one data.pkl)')
    root = pickles[0].removesuffix('data.pkl')
    if root + 'constants.pkl' in members:
      raise Refused('is a TorchScript program, and no code is executed: give the state dict of the same network')
    if members[pickles[0]].file_size > torch_pickle.MAX_PROGRAM:
      raise Refused(f'has a pickle of more than {torch_pickle.MAX_PROGRAM} bytes, far more than checkpoints do')
    order = _read_member(archive, root + 'byteorder').strip() if root + 'byteorder' in members else b'little'
    if order not in (b'little', b'big'):
      raise Refused('has numbers in an unknown byte order, expected little or big')
    data = _read_member(archive, pickles[0])
    program = torch_pickle.run(data)

    def fetch(storage: Storage) -> np.ndarray:
      name = f'{root}data/{storage.key}'
      if name not in members or members[name].file_size != storage.size * storage.dtype.itemsize:
        raise Refused(f'lacks the {storage.size} numbers of its storage {printable(storage.key)}: download it again')
      numbers = as_numbers(_read_member(archive, name), storage.dtype)
      return numbers if order == b'little' else _read_only(numbers.byteswap())

    return make_arrays(select(program.value), fetch, _stored(program, len(data), path.stat().st_size))


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
  """Members of the archive by name, checked to be uncompressed and together no larger than the file."""
  members = {info.filename: info for info in archive.infolist()}
  if len(members) != len(archive.infolist()):
    raise Refused('is a zip archive with two members of one name, which torch.save never writes')
  if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
    raise Refused('is a compressed zip archive, which torch.save never writes')  # and whose expanded size is unbounded
  if any(info.file_size != info.compress_size for info in members.values()):
    raise Refused('is a damaged zip archive (a stored member has two sizes): download it again')
  if sum(info.file_size for info in members.values()) > size:
    raise Refused('is a damaged zip archive (its members overlap or end beyond it): download it again')
  return members


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
  try:
    return archive.read(name)
  except _ZIP_ERRORS as error:
    raise Refused(f'is a damaged zip archive ({printable(str(error))}): download it again') from None


def _stored(program: torch_pickle.Program, pickled: int, size: int) -> int:
  """Bytes of array data in the file; raises Refused if the stated storages are larger than the file."""
  stored = sum(s.size * s.dtype.itemsize for s in program.storages.values())
  if stored > size:
    raise Refused(f'promises storages of {stored} bytes, more than the file has: download it again')
  return stored + pickled


def _read_only(array: np.ndarray) -> np.ndarray:
  array.flags.writeable = False
  return array


def read_legacy(path: pathlib.Path, select: Callable[[Any], Any]) -> Any:
  """Reads five pickles (magic number, protocol, machine, object, keys of its storages), then the data of the storages.

  Args and errors as `read_zip`.
  """
  with path.open('rb') as file:
    data, size = file.read(torch_pickle.MAX_PROGRAM), path.stat().st_size
    end = _check_legacy(data)
    program = torch_pickle.run(data, end)
    keys = torch_pickle.run(data, program.end)
    offsets = _legacy_storages(file, keys, program.storages, size)
    stored = _stored(program, keys.end, size)
    del data

    def fetch(storage: Storage) -> np.ndarray:
      file.seek(offsets[storage.key])
      numbers = file.read(storage.size * storage.dtype.itemsize)
      if len(numbers) != storage.size * storage.dtype.itemsize:
        raise Refused(f'ends before its numbers do (storage {printable(storage.key)}): download it again')
      return as_numbers(numbers, storage.dtype)

    return make_arrays(select(program.value), fetch, stored)


def _check_legacy(data: bytes) -> int:
  """Offset of the object's pickle, after checking the pickles of the magic number, the protocol and the machine."""
  try:
    magic = torch_pickle.run(data)
  except Refused:
    magic = None
  if magic is None or type(magic.value) is not int or magic.value != _LEGACY_MAGIC:
    if data[:4] == b'PK\3\4':
      raise Refused('is truncated: download it again')
    if data[257:262] == b'ustar':
      raise Refused('is a tar archive, as PyTorch wrote before version 0.2: load and save it again with a newer one')
    raise Refused('is neither a PyTorch checkpoint nor safetensors; expected .pth .pt .ckpt .bin or .safetensors')
  protocol = torch_pickle.run(data, magic.end)
  machine = torch_pickle.run(data, protocol.end)
  if type(protocol.value) is not int or protocol.value != _LEGACY_PROTOCOL:
    raise Refused(f'is in an unknown PyTorch format (protocol {printable(protocol.value)})')
  if type(machine.value) is not dict or machine.value.get('little_endian', True) is not True:
    raise Refused('has numbers in another byte order, expected little-endian')
  return machine.end


def _legacy_storages(file, keys: torch_pickle.Program, storages: dict[str, Storage], size: int) -> dict[str, int]:
  """Offset of the data of each storage; storages are consecutive, each preceded by its number of elements."""
  if type(keys.value) is not list or not all(type(key) is str for key in keys.value):
    raise Refused('is damaged (its list of storages is not one): download it again')
  offsets: dict[str, int] = {}
  offset = keys.end
  for key in keys.value:
    if key not in storages or key in offsets:
      raise Refused(f'is damaged (the storage {printable(key)} is unknown or stored twice): download it again')
    file.seek(offset)
    if file.read(8) != struct.pack('<q', storages[key].size):
      raise Refused(f'is damaged (the storage {printable(key)} has two sizes): download it again')
    offsets[key] = offset + 8
    offset += 8 + storages[key].size * storages[key].dtype.itemsize
    if offset > size:
      raise Refused(f'ends before its numbers do (storage {printable(key)}): download it again')
  if len(offsets) != len(storages):
    raise Refused('is damaged (some of its storages are missing): download it again')
  return offsets

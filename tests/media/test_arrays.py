"""NumPy's files that are none, or that hold too much."""

import os
import zipfile

import numpy as np
import pytest

from talkjax.errors import UserError
from talkjax.media import arrays


def read(path, names=('a', 'b')):
  return arrays.read_npz(path, names, 'that file', 'give another')


def test_only_the_arrays_that_are_asked_for_are_read(tmp_path):
  np.savez(tmp_path / 'a.npz', a=np.arange(3), c=np.array([{}], object))
  ((name, value),) = read(tmp_path / 'a.npz').items()
  assert name == 'a' and value.tolist() == [0, 1, 2]


def test_a_small_file_cannot_fill_the_memory(tmp_path, monkeypatch):
  monkeypatch.setattr(arrays, 'MAX_BYTES', 1 << 20)
  with zipfile.ZipFile(tmp_path / 'a.npz', 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('a.npy', bytes(1 << 21))
    archive.writestr('c.npy', bytes(1 << 22))
  with pytest.raises(UserError, match='^that file has arrays of more than 1 MiB: give another'):
    read(tmp_path / 'a.npz')
  assert read(tmp_path / 'a.npz', ('b',)) == {}


@pytest.mark.parametrize('data', [b'', b'no', b'PK\x05\x06' + bytes(18)[:10]])
def test_what_is_no_archive(tmp_path, data):
  (tmp_path / 'a.npz').write_bytes(data)
  with pytest.raises(UserError, match='^that file cannot be read as an .npz file .*: give another'):
    read(tmp_path / 'a.npz')


@pytest.mark.parametrize('shape', ['(9, 3, 2', '(1 << 60, 3)', '(1099511627776, 3)', '(-1,)', 'x'])
def test_headers_that_lie(tmp_path, shape):
  head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
  data = b'\x93NUMPY\x01\0' + len(head).to_bytes(2, 'little') + head
  (tmp_path / 'a.npy').write_bytes(data)
  with pytest.raises(UserError, match='^points: not a readable .npy file'):
    arrays.read_npy(tmp_path / 'a.npy', 'points')
  with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
    archive.writestr('a.npy', data)
  with pytest.raises(UserError, match='cannot be read as an .npz file'):
    read(tmp_path / 'a.npz')


def test_only_regular_files_are_opened(tmp_path):
  os.mkfifo(tmp_path / 'a')
  for each in (read, lambda path: arrays.read_npy(path, 'points')):
    with pytest.raises(UserError, match='is a FIFO'):
      each(tmp_path / 'a')

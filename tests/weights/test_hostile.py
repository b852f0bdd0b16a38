"""Hostile files of weights: each ends in one sentence, without a crash and without memory that is not the file's."""

import pickle
import struct
import time
import zipfile

import numpy as np
import pytest
import read_apart
import torch_file

from talkjax.errors import UserError
from talkjax.weights import torch_arrays, torch_pickle
from talkjax.weights.read import read_pickle, read_weights

FAR = 1 << 62

# Pieces of pickles. Memo 0 is a tensor, 1 an array.


def name(module: str, member: str) -> bytes:
  return b'c' + f'{module}\n{member}\n'.encode()


def text(value: str) -> bytes:
  return pickle.BINUNICODE + struct.pack('<I', len(value)) + value.encode()


def number(value: int) -> bytes:
  data = value.to_bytes(9, 'little', signed=True)
  return pickle.LONG1 + bytes([len(data)]) + data


def storage(size: int = 6, key: str = '0') -> bytes:
  return b'(' + text('storage') + name('torch', 'FloatStorage') + text(key) + text('cpu') + number(size) + b'tQ'


def tensor(of: bytes, offset: bytes, shape: bytes, strides: bytes) -> bytes:
  return name('torch._utils', '_rebuild_tensor_v2') + b'(' + of + offset + shape + strides + b'\x89}tR'


WHOLE = tensor(storage(), number(0), number(6) + b'\x85', number(1) + b'\x85')
FLOAT32 = name('numpy', 'dtype') + text('f4') + b'\x85R'


def filled(count: int) -> bytes:
  """Sets an array's numbers."""
  data = pickle.BINBYTES + struct.pack('<I', 4 * count) + bytes(4 * count)
  return b'(' + number(1) + number(count) + b'\x85' + FLOAT32 + b'\x89' + data + b'tb'


EMPTY_ARRAY = (
  name('numpy.core.multiarray', '_reconstruct') + name('numpy', 'ndarray') + number(0) + b'\x85' + b'C\x01b' + b'\x87R'
)
ARRAY = EMPTY_ARRAY + b'q\x01' + filled(6)


def zipped(path, program: bytes, storages=(('0', bytes(24)),)):
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', b'\x80\x02' + program + b'.')
    for key, data in storages:
      archive.writestr(f'archive/data/{key}', data)


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'weights.pth'


LEGACY = pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])


@LEGACY
@pytest.mark.parametrize(
  ('dtype', 'offset', 'stride'),
  [
    (np.float16, 0, np.int64(FAR)),  # 4 strides are 2^64 elements, which int64 takes for 0
    (np.float32, 4, np.int64(FAR - 1)),  # 4 strides are -4, a stride -4 bytes: memory before the storage
    (np.float32, np.int64(1), np.int64(1)),  # harmless, but such a number is checked by arithmetic that overflows
    (np.float32, np.uint64(1), 1),
    (np.float32, True, 1),
    (np.float32, 0, FAR),
    (np.float32, (1 << 64) - 1, 1),
    (np.float32, 0, -1),
  ],
)
def test_sizes_that_overflow_a_check_are_refused(path, legacy, dtype, offset, stride):
  hostile = torch_file.Tensor(np.empty(5), np.zeros(10, dtype), offset, (stride,))
  torch_file.save(path, {'a': hostile}, legacy)
  assert read_apart.outcomes([path])[path.name].startswith(f'refused: weights {path}: its pickle describes a tensor')


@pytest.mark.parametrize('made', [WHOLE, ARRAY, storage(), FLOAT32], ids=['tensor', 'array', 'storage', 'dtype'])
@pytest.mark.parametrize('write', [number(0) + b'G' + bytes(8) + b's', b'(' + number(0) + number(7) + b'u', b'K\x00a'])
def test_items_are_set_in_plain_containers_only(path, made, write):
  zipped(path, b'}' + text('a') + made + write + b's')
  with pytest.raises(UserError, match='its pickle fills a .* as if it were a (dict|list)'):
    read_weights(path)


@pytest.mark.parametrize(
  ('program', 'sentence'),
  [
    (ARRAY + filled(3), 'does not fit its numbers'),  # its old numbers may be viewed
    (ARRAY + tensor(b'h\x01', number(0), number(6) + b'\x85', number(1) + b'\x85') + b'h\x01' + filled(3), 'cannot be'),
    (WHOLE + filled(6), 'sets attributes'),
    (storage() + filled(6), 'sets attributes'),
  ],
  ids=['array twice', 'array under a tensor', 'tensor', 'storage'],
)
def test_memory_in_use_is_not_replaced(path, program, sentence):
  zipped(path, program)
  with pytest.raises(UserError, match=sentence):
    read_pickle(path)


def test_pieces_make_what_they_say(path):
  """So that the refusals here are not those of a slip in the pieces."""
  zipped(path, b'](' + WHOLE + ARRAY + b'e')
  got = read_pickle(path)
  assert [a.shape for a in got] == [(6,), (6,)] and not any(a.flags.writeable for a in got)


def test_what_older_writers_made(path):
  """Python 2's names are byte strings; protocol 2 writes an empty array's numbers as a call of `bytes`."""
  zipped(path, b'}U\x01a' + WHOLE + b's')
  assert read_weights(path).keys() == {'a'}
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', pickle.dumps([np.zeros((0, 3, 2)), np.float32(2)], protocol=2))
  empty, number = read_pickle(path)
  assert empty.shape == (0, 3, 2) and number == 2


def nested(open_: bytes, close: bytes, depth: int) -> bytes:
  return open_ * depth + close * depth


@pytest.mark.parametrize(
  ('program', 'sentence'),
  [
    (nested(b'](', b'e', 100_000), 'deep'),
    (b'}' + b')' + b'\x85' * 200_000 + b'K\x00s', 'a tuple for a key'),
    (b'\x8f(' + b')' + b'\x85' * 200_000 + b'\x90', 'a tuple for a key'),
    (b'}' + number(1 << 64) + b'Ns', 'a int for a key'),
    (b']q\x00' + b'h\x00a', 'contains itself'),
    (b']' + b'q\x00]h\x00ah\x00a' * 60, 'so often'),  # 2^60 lists
    (b'](' + WHOLE + b'q\x00' + b'h\x00' * 1_500_000 + b'e', 'so often'),
    (b']' * torch_pickle.MAX_STEPS, 'takes more than'),
    (b'](' + b'N' * 100_000 + b'eq\x00' + (name('torch', 'Size') + b'h\x00\x85R') * 100, 'takes more than'),
    (
      text('a' * 10_000) + b'q\x00' + (name('_codecs', 'encode') + b'h\x00' + text('latin1') + b'\x86R') * 2000,
      'more text',
    ),
    (name('torch', 'device') + b'](' + nested(b'](', b'e', 5000) + b'e\x85R', 'device that cannot be'),
    (name('numpy', 'dtype') + nested(b'](', b'e', 5000) + b'\x85R', 'asks for an array of a list'),
    (b'X\xff\xff\xff\xffa', 'truncated'),
    (b'\x8d' + b'\xff' * 8, 'truncated'),
    (b'\x8b\xff\xff\xff\x7f', 'something other'),
    (b'\x8a\xff' + bytes(255), 'an integer of 255 bytes'),
    (b'0', 'something other'),
    (b'h\x05', 'has not made'),
    (b'(K\x00K\x01' + b'a', 'as if it were a list'),
    (b']' + b'(' + b'a', 'a value is missing'),
    (storage(), 'class or a storage'),
    (name('torch', 'FloatStorage'), 'class or a storage'),
    (EMPTY_ARRAY, 'an array without numbers'),
    (storage() + storage(7), 'two types or sizes'),
    (storage(1 << 62), 'more than the file has'),
    (tensor(storage(7), *[number(0), b')', b')']), 'lacks the 7 numbers'),
    (tensor(storage(6, '../0'), *[number(0), b')', b')']), 'lacks the 6 numbers'),
    (tensor(storage(), number(0), number(0) + number(FAR) + b'\x86', number(1) * 2 + b'\x86'), 'tensor of shape'),
    (tensor(storage(), number(0), b'(' + number(1) * 40 + b't', b'(' + number(1) * 40 + b't'), 'cannot be'),
    (name('\x1b[2J', 'x'), r'asks for \?\[2J\.x,'),
  ],
)
def test_programs_without_bounds_are_refused(path, program, sentence):
  zipped(path, program)
  begun = time.process_time()
  with pytest.raises(UserError, match=sentence):
    read_pickle(path)
  assert time.process_time() - begun < 20


def test_copies_of_a_storage_are_bounded(path):
  """Strided views must be copied: as many as the file has numbers for, and not more."""
  count = 1 << 18
  flat = np.zeros(count, np.float32)
  views = [torch_file.Tensor(np.empty((2, count // 2 - i)), flat, strides=(1, 2)) for i in range(40)]
  for view in views:
    view.storage = views[0].storage  # one in the file
  torch_file.save(path, {str(i): view for i, view in enumerate(views[:4])})
  assert len(read_weights(path)) == 4
  torch_file.save(path, {str(i): view for i, view in enumerate(views)})
  with pytest.raises(UserError, match='far more memory than the file'):
    read_weights(path)


def test_one_tensor_may_have_several_names(path):
  numbers = np.arange(1 << 22, dtype=np.float32)  # more than the slack for small files
  tied = torch_file.Tensor(numbers)
  assert numbers.nbytes * (torch_arrays._MAX_GROWTH + 1) > torch_arrays._SLACK
  torch_file.save(path, {name: tied for name in 'abcd'})
  got = read_weights(path)
  assert all(np.shares_memory(got['a'], got[name]) for name in 'bcd')


def test_truth_values_are_zero_or_one(path):
  kind = b'(' + text('storage') + name('torch', 'BoolStorage') + text('0') + text('cpu') + number(3) + b'tQ'
  zipped(path, tensor(kind, number(0), number(3) + b'\x85', number(1) + b'\x85'), [('0', b'\x00\xff\x07')])
  assert read_pickle(path).view(np.uint8).tolist() == [0, 1, 1]


# Archives.


def test_a_large_directory_is_not_read(path):
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', b'N.')
  whole = path.read_bytes()
  end = bytearray(whole[-22:])
  directory = int.from_bytes(end[12:16], 'little'), int.from_bytes(end[16:20], 'little')
  end[12:16] = (directory[0] + (9 << 20)).to_bytes(4, 'little')
  path.write_bytes(whole[:-22] + bytes(9 << 20) + end)
  with pytest.raises(UserError, match='directory of more than'):
    read_pickle(path)


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_members_that_lie(path):
  zipped(path, WHOLE, [('0', bytes(24)), ('0', bytes(24))])
  with pytest.raises(UserError, match='two members of one name'):
    read_pickle(path)
  zipped(path, WHOLE, [('0', bytes(20))])
  with pytest.raises(UserError, match='lacks the 6 numbers'):
    read_pickle(path)
  zipped(path, WHOLE)
  whole = path.read_bytes()
  entry = whole.rindex(b'PK\1\2')  # that of the storage, with its sizes from byte 20
  for sizes, sentence in (
    (struct.pack('<II', 24, 1 << 30), 'two sizes'),
    (struct.pack('<II', 1 << 30, 1 << 30), 'end'),
  ):
    path.write_bytes(whole[: entry + 20] + sizes + whole[entry + 28 :])
    with pytest.raises(UserError, match=sentence):
      read_pickle(path)
  data = whole.index(b'archive/data/0') + len('archive/data/0')
  path.write_bytes(whole[:data] + b'\x01' + whole[data + 1 :])
  with pytest.raises(UserError, match='damaged zip archive .Bad CRC'):
    read_pickle(path)


def test_a_tar_archive_is_not_unpacked(path):
  path.write_bytes(bytes(257) + b'ustar' + bytes(1000))
  with pytest.raises(UserError, match='tar archive'):
    read_pickle(path)


# Samples.


def test_hostile_samples(samples):
  """Files that crash or mislead a careless reader."""
  folder = samples / 'hostile'
  if not folder.is_dir():
    pytest.skip(f'TALKJAX_SAMPLES: no folder {folder}')
  results = read_apart.outcomes(sorted(folder.iterdir()))
  wrong = {name: said for name, said in results.items() if said != 'read' and not said.startswith('refused: ')}
  assert results and not wrong
  assert not any(said.count('\n') or len(said) > 600 for said in results.values())
  assert all(results[name] != 'read' for name in results if name.startswith(('oob', 'g', 'big', 'trunc')))

"""Property-based fuzzing of the readers, a process of its own: `python tests/weights/fuzz.py KIND EXAMPLES`.

Whatever a file holds, reading it returns plain values and arrays of the file's own numbers, or raises UserError. All
numbers in the files here are bytes of 7, so an array that shows anything else shows memory that is not the file's.
A crash, too much memory or too much time ends the process, which the test that started it sees.
"""

import collections
import io
import json
import pathlib
import pickle
import resource
import signal
import struct
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

import numpy as np  # noqa: E402
import torch_file  # noqa: E402
from hypothesis import HealthCheck, given, settings, strategies  # noqa: E402

from talkjax.errors import UserError  # noqa: E402
from talkjax.weights import read, torch_pickle  # noqa: E402
from talkjax.weights.errors import Refused  # noqa: E402

SECONDS = 5  # for one file
MEMORY = 3 << 30
STORAGES = {'0': ('FloatStorage', 12, 4), '1': ('CharStorage', 8, 1), '2': ('BoolStorage', 8, 1)}
HEAD = b''.join(
  pickle.dumps(value, protocol=2)
  for value in (0x1950A86A20F9469CFC6C, 1001, {'little_endian': True, 'type_sizes': {'int': 4}})
)
FOLDER = pathlib.Path(tempfile.mkdtemp())
seen = collections.Counter()


# What a reader may return.


def check(value) -> None:
  if type(value) is dict:
    for key, item in value.items():
      assert type(key) in (str, bytes, int, float, bool, type(None)), type(key)
      check(item)
  elif type(value) in (list, tuple):
    for item in value:
      check(item)
  elif type(value) is np.ndarray:
    own = value
    while isinstance(own.base, np.ndarray):
      own = own.base
    low, high = np.lib.array_utils.byte_bounds(value)
    least, most = np.lib.array_utils.byte_bounds(own)
    assert not value.size or least <= low <= high <= most
    assert not value.flags.writeable or not value.size
    if value.dtype == np.bool_:
      assert set(value.view(np.uint8).reshape(-1).tolist()) <= {1}
    else:
      assert set(value.tobytes()) <= {7}
    seen['arrays'] += 1
  else:
    plain = (type(None), bool, int, float, str, bytes, set)
    assert type(value) in plain or isinstance(value, np.generic | np.dtype), type(value)


def attempt(path: pathlib.Path, exact: bool = True) -> None:
  """Reads a file; `exact` also checks what was read."""
  signal.alarm(SECONDS)
  try:
    found = read.read_weights(path) if path.suffix == '.safetensors' else read.read_pickle(path)
    seen['read'] += 1
  except UserError as error:
    assert '\n' not in str(error) and len(str(error)) < 2000
    seen['refused'] += 1
    seen[str(error).removeprefix(f'weights {path}: ')[:40]] += 1
    return
  finally:
    signal.alarm(0)
  if exact:
    check(found)


# Pickles: values as the bytes of the program that makes them.


def text(value: str) -> bytes:
  data = value.encode()
  return pickle.BINUNICODE + struct.pack('<I', len(data)) + data


def integer(value: int) -> bytes:
  data = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
  return pickle.LONG1 + bytes([len(data)]) + data


def name(module: str, member: str) -> bytes:
  return pickle.GLOBAL + f'{module}\n{member}\n'.encode()


def call(function: bytes, *args: bytes) -> bytes:
  return function + pickle.MARK + b''.join(args) + pickle.TUPLE + pickle.REDUCE


def tupled(items) -> bytes:
  return pickle.MARK + b''.join(items) + pickle.TUPLE


def dtype(kind: str) -> bytes:
  return call(name('numpy', 'dtype'), text(kind), b'\x89', b'\x88')


def sevens(count: int) -> bytes:
  return pickle.SHORT_BINBYTES + bytes([count]) + b'\x07' * count


NAMES = [
  ('torch', 'FloatStorage'),
  ('torch', 'Size'),
  ('torch', 'device'),
  ('torch', 'load'),
  ('torch._utils', '_rebuild_tensor_v2'),
  ('torch._utils', '_rebuild_parameter'),
  ('collections', 'OrderedDict'),
  ('numpy', 'ndarray'),
  ('numpy', 'dtype'),
  ('numpy.core.multiarray', '_reconstruct'),
  ('numpy.core.multiarray', 'scalar'),
  ('_codecs', 'encode'),
  ('__builtin__', 'bytes'),
  ('builtins', 'set'),
  ('builtins', 'eval'),
  ('os', 'system'),
]
small = strategies.integers(0, 4)
hostile = strategies.sampled_from(
  [-(1 << 63), -(1 << 31), -7, -1, 12, 13, 255, (1 << 31) - 1, 1 << 32, 1 << 61, 1 << 62]
  + [(1 << 62) - 1, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 1 << 200]
)
numpy_integer = strategies.builds(
  lambda value, kind: call(
    name('numpy.core.multiarray', 'scalar'),
    dtype(kind),
    b'C\x08' + (value % (1 << 64)).to_bytes(8, 'little'),
  ),
  small | hostile,
  strategies.sampled_from(['i8', 'u8']),
)
size = strategies.one_of(
  *[small.map(integer)] * 6,
  hostile.map(integer),
  numpy_integer,
  strategies.sampled_from([b'\x88', b'N', b'G' + bytes(8)]),
)
any_byte = strategies.sampled_from(list(range(256))).map(lambda n: bytes([n]))
plain = strategies.one_of(
  strategies.sampled_from([b'N', b'\x88', b'\x89', b')', b']', b'}', b'\x8f', b'K\x07', b'J\xff\xff\xff\xff']),
  (small | hostile).map(integer),
  strategies.floats().map(lambda value: pickle.BINFLOAT + struct.pack('>d', value)),
  strategies.text(max_size=4).map(text),
  strategies.integers(0, 24).map(sevens),
  numpy_integer,
)
odd = strategies.one_of(
  strategies.sampled_from(NAMES).map(lambda pair: name(*pair)),
  strategies.sampled_from(['f4', 'i8', 'b1', 'O8', 'V3', 'f1']).map(dtype),
  strategies.sampled_from([b'h\x00', b'h\x01', b'h\x02', b'h\x09']),
)
scalar = strategies.one_of(*[plain] * 12, odd)
honest = strategies.sampled_from([True] * 9 + [False])


@strategies.composite
def storage(draw, right: bool = False) -> bytes:
  key = draw(strategies.sampled_from(list(STORAGES)))
  kind, count, _ = STORAGES[key]
  if not (right or draw(honest)):
    kind = draw(strategies.sampled_from(['FloatStorage', 'DoubleStorage', 'BoolStorage']))
  wanted = integer(count) if right or draw(honest) else draw(size)
  view = draw(strategies.sampled_from([b'', b'N']))
  if not (right or draw(honest)):
    view = tupled([text('v'), draw(size), draw(size)])
  return tupled([text('storage'), name('torch', kind), text(key), text('cpu'), wanted, view]) + pickle.BINPERSID


@strategies.composite
def tensor(draw, of: bytes | None = None, right: bool = False) -> bytes:
  sizes = small.map(integer) if right or draw(honest) else size
  shape = [draw(sizes) for _ in range(draw(strategies.integers(0, 2)))]
  strides = [draw(sizes) for _ in shape] if right or draw(honest) else [draw(sizes) for _ in range(draw(small))]
  whole, offset = draw(storage(right)) if of is None else of, draw(sizes)
  return call(name('torch._utils', '_rebuild_tensor_v2'), whole, offset, tupled(shape), tupled(strides), b'\x89', b'}')


@strategies.composite
def array(draw, right: bool = False) -> bytes:
  made = call(name('numpy.core.multiarray', '_reconstruct'), name('numpy', 'ndarray'), tupled([integer(0)]), b'C\x01b')
  made += draw(strategies.sampled_from([b'', b'q\x02']))
  for _ in range(1 if right or draw(honest) else draw(small)):
    shape, kind = draw(strategies.lists(small, max_size=3)), draw(strategies.sampled_from(['f4', 'i1', 'b1', 'u2']))
    count = int(np.prod(shape)) * int(kind[1]) + (not (right or draw(honest)))
    shape = [integer(n) for n in shape] if right or draw(honest) else [draw(size) for _ in shape]
    numbers = pickle.BINBYTES + struct.pack('<I', count) + b'\x07' * count
    made += tupled([integer(1), tupled(shape), dtype(kind), draw(strategies.sampled_from([b'\x88', b'\x89'])), numbers])
    made += pickle.BUILD
  return made


def contained(inner) -> strategies.SearchStrategy:
  items = strategies.lists(inner, max_size=4).map(b''.join)
  named = strategies.lists(
    strategies.tuples(strategies.text('ab', max_size=2).map(text), inner).map(b''.join), max_size=4
  )
  return strategies.one_of(
    items.map(lambda code: b'](' + code + b'e'),
    items.map(lambda code: b'(' + code + b't'),
    named.map(lambda codes: b'}(' + b''.join(codes) + b'u'),
    strategies.builds(lambda code, memo: code + memo, inner, strategies.sampled_from([b'q\x00', b'q\x01', b'\x94'])),
  )


def misused(inner) -> strategies.SearchStrategy:
  items = strategies.lists(inner, max_size=4).map(b''.join)
  pairs = strategies.lists(strategies.tuples(scalar, inner).map(b''.join), max_size=4).map(b''.join)
  return strategies.one_of(
    items.map(lambda code: b'\x8f(' + code + b'\x90'),
    pairs.map(lambda code: b'}(' + code + b'u'),
    strategies.builds(lambda code, state: code + state + b'b', inner, inner),
    strategies.builds(lambda code, key, item: code + key + item + b's', inner, scalar, inner),
    strategies.builds(lambda code, item: code + item + b'a', inner, inner),
    strategies.builds(lambda names, code: name(*names) + b'(' + code + b'tR', strategies.sampled_from(NAMES), items),
    strategies.builds(lambda code, byte: code + byte, inner, any_byte),
    inner.flatmap(tensor),
    contained(inner),
  )


right = strategies.recursive(plain | tensor(right=True) | array(right=True), contained, max_leaves=6)
wrong = strategies.recursive(strategies.one_of(scalar, storage(), tensor(), array()), misused, max_leaves=6)
rest = strategies.lists(right, max_size=2).map(b''.join)
program = strategies.one_of(
  right.map(lambda code: b'\x80\x02' + code + b'.'),
  strategies.builds(lambda before, code, after: b'](' + before + code + after + b'e.', rest, wrong, rest),
  strategies.builds(lambda before, code, after: b'](' + before + code + after + b'e.', rest, tensor(), rest),
  strategies.lists(wrong | any_byte, max_size=6).map(lambda codes: b''.join(codes) + b'.'),
)


def pickles(code: bytes) -> None:
  path = FOLDER / 'zip.pth'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', code)
    for key, (_, count, width) in STORAGES.items():
      archive.writestr(f'archive/data/{key}', b'\x07' * count * width)
  attempt(path)
  path = FOLDER / 'legacy.pth'
  try:
    keys = [key for key in torch_pickle.run(code).storages if key in STORAGES]  # as torch.save, those that it mentions
  except Refused:
    keys = list(STORAGES)
  stored = [(count, width) for key in keys for _, count, width in [STORAGES[key]]]
  numbers = b''.join(struct.pack('<q', count) + b'\x07' * count * width for count, width in stored)
  path.write_bytes(HEAD + code + pickle.dumps(keys, protocol=2) + numbers)
  attempt(path)


# Files that were whole.


def whole_files() -> dict[str, bytes]:
  tree = {
    'a': np.full((3, 4), 7, np.float32),
    'turned': torch_file.Tensor(np.empty((4, 3)), np.full(12, 7, np.float32), strides=(1, 4)),
    'state_dict': {'x': torch_file.Tensor(np.full(5, 7, np.int64))},
    'others': [1, 2.5, None, ('x', True), {3, 'y'}],
  }
  files = {}
  for legacy, file in ((False, 'zip.pth'), (True, 'legacy.pth')):
    torch_file.save(FOLDER / file, tree, legacy)
    files[file] = (FOLDER / file).read_bytes()
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w') as archive:
    archive.writestr('kps/data.pkl', pickle.dumps([np.full((3, 2), 7.5), np.zeros(0), np.float32(1)], protocol=2))
  files['numpy.pth'] = buffer.getvalue()
  table = {
    '__metadata__': {'format': 'pt'},
    'x': {'dtype': 'F32', 'shape': [2, 3], 'data_offsets': [0, 24]},
    'y': {'dtype': 'BOOL', 'shape': [4], 'data_offsets': [24, 28]},
    'z': {'dtype': 'BF16', 'shape': [2], 'data_offsets': [28, 32]},
  }
  head = json.dumps(table).encode()
  files['a.safetensors'] = struct.pack('<Q', len(head)) + head + b'\x07' * 32
  return files


@strategies.composite
def damaged(draw) -> tuple[str, bytes]:
  """A file with some bytes changed, cut, repeated, or replaced by large numbers."""
  file, data = draw(strategies.sampled_from(sorted(WHOLE.items())))
  data = bytearray(data)
  for _ in range(draw(strategies.integers(1, 4))):
    place = draw(strategies.integers(0, len(data)))
    way = draw(strategies.sampled_from(['flip', 'flip', 'flip', 'cut', 'remove', 'insert', 'large', 'digit']))
    if way == 'flip' and place < len(data):
      data[place] ^= 1 << draw(strategies.integers(0, 7))
    elif way == 'cut':
      del data[place:]
    elif way == 'remove':
      del data[place : place + draw(strategies.integers(1, 9))]
    elif way == 'insert':
      data[place:place] = draw(strategies.binary(min_size=1, max_size=9))
    elif way == 'large':
      data[place : place + 8] = draw(strategies.sampled_from([b'\xff' * 8, b'\xff' * 7 + b'\x7f', b'\0' * 7 + b'\x40']))
    elif way == 'digit':
      digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()] or [0]
      data[digits[place % len(digits)] :][:1] = b'9'
  return file, bytes(data)


def mutations(case: tuple[str, bytes]) -> None:
  file, data = case
  path = FOLDER / f'damaged-{file}'
  path.write_bytes(data)
  attempt(path, exact=False)  # numbers may be damaged and nobody can tell


if __name__ == '__main__':
  WHOLE = whole_files()
  for file, data in WHOLE.items():
    (FOLDER / file).write_bytes(data)
    attempt(FOLDER / file, exact=False)
  assert seen == {'read': len(WHOLE)}, seen
  kind, examples = sys.argv[1], int(sys.argv[2])
  resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
  settings.register_profile(
    'fuzz',
    max_examples=examples,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
  )
  settings.load_profile('fuzz')
  given(*{'pickles': (program,), 'mutations': (damaged(),)}[kind])({'pickles': pickles, 'mutations': mutations}[kind])()
  print(json.dumps(seen))

"""Weights files: what is read is what was written, and nothing in a file is run."""

import collections
import io
import json
import os
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch_file

from talkjax.errors import UserError
from talkjax.weights.read import read_pickle, read_weights

LEGACY = pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'weights.pth'


def zipped(path, pickled: bytes):
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', pickled)


@LEGACY
def test_tensors_come_back(path, legacy):
  r = np.random.default_rng(0)
  storage = r.standard_normal(30).astype(np.float32)
  written = {
    'whole': storage.reshape(5, 6),
    'half': r.standard_normal(3).astype(np.float16),
    'brain': np.array([1.5, -2], ml_dtypes.bfloat16),
    'count': np.array(7, np.int64),
    'none': np.zeros((0, 4), np.float32),
  }
  views = {
    'turned': torch_file.Tensor(np.empty((6, 5)), storage, strides=(1, 6)),
    'slice': torch_file.Tensor(np.empty((2, 3)), storage, offset=8, strides=(6, 1)),
  }
  torch_file.save(path, written | views, legacy)
  got = read_weights(path)
  expected = written | {'turned': storage.reshape(5, 6).T, 'slice': storage.reshape(5, 6)[1:3, 2:5]}
  assert got.keys() == expected.keys()
  for name, array in expected.items():
    assert got[name].dtype == array.dtype
    np.testing.assert_array_equal(got[name], array)


@LEGACY
def test_state_dict_of_a_checkpoint(path, legacy):
  state = collections.OrderedDict(a=torch_file.Tensor(np.ones((2, 2), np.float32)))
  state._metadata = {'': {'version': 1}}  # pickled as an attribute, as torch does
  torch_file.save(path, {'epoch': 3, 'state_dict': state, 'best': (0.5, None, ['x'])}, legacy)
  got = read_weights(path)
  np.testing.assert_array_equal(got['a'], np.ones((2, 2)))
  assert got.keys() == {'a'}
  assert read_pickle(path)['best'] == (0.5, None, ['x'])


class Call:
  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


class Thing:
  pass


@LEGACY
@pytest.mark.parametrize('thing', [Call(os.mkdir, 'made'), Call(eval, '1'), Thing(), Call(getattr, '', 'join')])
def test_nothing_is_run(path, legacy, thing, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  torch_file.save(path, {'a': thing}, legacy)
  with pytest.raises(UserError, match='asks for .*so it was not read'):
    read_weights(path)
  assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize(
  ('pickled', 'sentence'),
  [
    (b'ctorch._utils\n_rebuild_tensor_v2\n}X\x08\x00\x00\x00__code__K\x01sb.', 'sets attributes'),
    (b'ctorch\nFloatStorage\n(K\x01o.', 'makes something other'),
    (b'(itorch\nFloatStorage\n.', 'makes something other'),
    (b'\x80\x02ctorch\nFloatStorage\n)\x81.', 'makes something other'),
    (b'\x82\x01.', 'makes something other'),
    (b'ctorch\nload\n.', 'asks for torch.load'),
    (b'ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00)tR.', 'tensor that cannot be'),
  ],
)
def test_pickles_that_reach_further_are_refused(path, pickled, sentence):
  zipped(path, pickled)
  with pytest.raises(UserError, match=sentence):
    read_pickle(path)


@pytest.mark.parametrize(
  ('shape', 'offset', 'strides'),
  [
    ((4, 4), 0, (4, 1)),
    ((3,), 4, (1,)),
    ((1000, 1000), 0, (0, 0)),
    ((2,), -1, (1,)),
    ((2,), 1, (-1,)),
    ((2, 3), 0, (1,)),
  ],
)
@LEGACY
def test_tensors_stay_inside_their_numbers(path, legacy, shape, offset, strides):
  tensor = torch_file.Tensor(np.empty(0), np.arange(6, dtype=np.float32), offset, strides)
  tensor.shape = shape
  torch_file.save(path, {'a': tensor}, legacy)
  with pytest.raises(UserError, match='pickle describes a tensor'):
    read_weights(path)


@LEGACY
def test_cut_files(path, legacy):
  torch_file.save(path, {'a': np.arange(100, dtype=np.float32)}, legacy)
  whole = path.read_bytes()
  for length in (0, 5, 60, len(whole) // 2, len(whole) - 8):
    path.write_bytes(whole[:length])
    with pytest.raises(UserError, match=str(path)):
      read_weights(path)


def test_other_files(path, tmp_path):
  with pytest.raises(UserError, match='no such file'):
    read_weights(path)
  path.write_bytes(pickle.dumps({'a': 1}))
  with pytest.raises(UserError, match='neither a PyTorch checkpoint nor safetensors'):
    read_weights(path)
  torch_file.save(path, {'epoch': 3})
  with pytest.raises(UserError, match='no tensors by name .it holds: epoch'):
    read_weights(path)
  torch_file.save(path, {'a': np.zeros(1000, np.float32)}, compression=zipfile.ZIP_DEFLATED)
  with pytest.raises(UserError, match='compressed'):
    read_weights(path)
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('hello.txt', 'hello')
  with pytest.raises(UserError, match='not one of torch.save'):
    read_weights(path)


def safetensors(path, table, body):
  head = json.dumps(table).encode()
  path.write_bytes(struct.pack('<Q', len(head)) + head + body)


def test_safetensors(tmp_path):
  path = tmp_path / 'a.safetensors'
  x, y = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1.5, 3], ml_dtypes.bfloat16)
  table = {
    '__metadata__': {'format': 'pt'},
    'x': {'dtype': 'F32', 'shape': [2, 3], 'data_offsets': [0, 24]},
    'y': {'dtype': 'BF16', 'shape': [2], 'data_offsets': [24, 28]},
  }
  safetensors(path, table, x.tobytes() + y.tobytes())
  got = read_weights(path)
  np.testing.assert_array_equal(got['x'], x)
  np.testing.assert_array_equal(got['y'], y)
  assert got.keys() == {'x', 'y'}
  for broken in ({'data_offsets': [0, 28]}, {'shape': [3, 3]}, {'dtype': 'F31'}, {'data_offsets': [8, 40]}):
    safetensors(path, {'x': table['x'] | broken}, x.tobytes())
    with pytest.raises(UserError, match='not a whole safetensors file'):
      read_weights(path)
  path.write_bytes(b'')
  with pytest.raises(UserError, match='not a whole safetensors file'):
    read_weights(path)


@pytest.mark.parametrize('new', [True, False])
def test_against_torch(path, new):
  torch = pytest.importorskip('torch', reason='PyTorch is not installed; it is not needed')
  layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
  torch.save(layers.state_dict(), path, _use_new_zipfile_serialization=new)
  got = read_weights(path)
  assert got.keys() == layers.state_dict().keys()
  for name, tensor in layers.state_dict().items():
    np.testing.assert_array_equal(got[name], tensor.numpy())
  stream = io.BytesIO()
  torch.save(layers, stream, _use_new_zipfile_serialization=new)
  path.write_bytes(stream.getvalue())
  with pytest.raises(UserError, match='torch.nn.modules.container.Sequential'):
    read_weights(path)


def test_published_samples(samples):
  """Files of the released V-Express: a tensor in a storage, and numpy arrays inside the pickle."""
  folder = samples / 'vexpress'
  (speech,) = read_weights(folder / 'clip_wav2vec2_base_960h.pt').values()
  assert speech.shape == (102, 1, 768) and speech.dtype == np.float32 and np.isfinite(speech).all()
  assert np.shape(read_pickle(folder / 'triple_kps.pth')) == (137, 3, 2)
  assert len(read_pickle(folder / 'clip_face_info.pt')) > 50

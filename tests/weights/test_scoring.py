"""Networks of scores from workdirs, and a face embedding from an ONNX file written by hand."""

import struct

import flax.linen as nn
import jax
import ml_collections
import numpy as np
import pytest

from talkjax.errors import UserError
from talkjax.nn.deep3d import Deep3D
from talkjax.training import checkpoint
from talkjax.weights import face_embedding, pretrained, scoring


class Narrow(nn.Module):
  """Stands for Inception: what it is called with and what it returns."""

  @nn.compact
  def __call__(self, images):
    return nn.Dense(5, name='dense')(images.mean((1, 2))), {}


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """--metric_weights with a narrow network in place of Inception."""
  monkeypatch.setitem(pretrained.SCORING, 'inception', (Narrow(), (1, 8, 8, 3)))
  r = np.random.default_rng(0)
  params = {'dense': {'kernel': r.normal(size=(3, 5)).astype(np.float32), 'bias': np.ones(5, np.float32)}}
  about = ml_collections.ConfigDict({'pretrained_network': 'inception'})
  checkpoint.save_params(tmp_path / 'weights' / 'inception', about, params, 0)
  return tmp_path / 'weights', params['dense']


def test_batches_of_any_number(folder):
  path, dense = folder
  networks = scoring.load(path, ['inception', 'i3d', 'inception'])
  assert list(networks) == ['inception'] and len(networks['inception'].key) == 16
  for count in (1, 16, 19):
    frames = np.random.default_rng(count).integers(0, 256, (count, 6, 7, 3)).astype(np.uint8)
    wanted = (frames / 255).mean((1, 2)) @ dense['kernel'] + dense['bias']
    np.testing.assert_allclose(networks['inception']('features', frames), wanted, atol=1e-5)


def test_wrong_folders(folder, tmp_path):
  path, _ = folder
  with pytest.raises(UserError, match='nowhere: no such folder; make it with .python -m talkjax.convert'):
    scoring.load(tmp_path / 'nowhere', ['inception'])
  (tmp_path / 'empty').mkdir()
  with pytest.raises(UserError, match='empty has none of the folders inception, i3d, lpips, syncnet, hopenet, deep3d'):
    scoring.load(tmp_path / 'empty', ['inception'])
  (path / 'inception').rename(path / 'hopenet')
  with pytest.raises(UserError, match='hopenet is a workdir of inception: expected that of .*--source=hopenet'):
    scoring.load(path, ['hopenet'])


def test_expressions_are_the_second_head(tmp_path):
  """Deep3DFaceRecon of other sizes: they are found in the parameters."""
  net = Deep3D((1, 1), width=2, heads=(3, 4, 2))
  shapes = pretrained.shapes_of(net, (1, 224, 224, 3))
  r = np.random.default_rng(0)
  params = jax.tree.map(lambda x: np.abs(r.normal(size=x.shape)).astype(np.float32), shapes)
  checkpoint.save_params(tmp_path / 'deep3d', ml_collections.ConfigDict({'pretrained_network': 'deep3d'}), params, 0)
  faces = r.integers(0, 256, (2, 224, 224, 3)).astype(np.uint8)
  made = scoring.load(tmp_path, ['deep3d'])['deep3d']('expression', faces)
  whole = net.apply({'params': params}, faces / np.float32(255))[0]
  np.testing.assert_allclose(made, whole[:, 3:7], rtol=1e-4)


# A minimal ONNX file: protocol buffers by hand.


def field(number: int, value) -> bytes:
  if isinstance(value, int):
    return varint(number << 3) + varint(value)
  value = value.encode() if isinstance(value, str) else value
  return varint(number << 3 | 2) + varint(len(value)) + value


def varint(n: int) -> bytes:
  out = b''
  while n > 127:
    out, n = out + bytes([n & 127 | 128]), n >> 7
  return out + bytes([n])


def tensor_info(name, shape) -> bytes:
  dims = b''.join(field(1, field(1, n) if isinstance(n, int) else field(2, n)) for n in shape)
  return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))


def onnx_model(shape, weights: np.ndarray) -> bytes:
  """mean over the pixels, then a matrix: GlobalAveragePool, Flatten, MatMul."""
  node = lambda kind, inputs, out: field(1, b''.join(field(1, i) for i in inputs) + field(2, out) + field(4, kind))
  values = struct.pack(f'<{weights.size}f', *weights.ravel())
  initial = b''.join(field(1, n) for n in weights.shape) + field(2, 1) + field(8, 'w') + field(9, values)
  graph = node('GlobalAveragePool', ['x'], 'p') + node('Flatten', ['p'], 'f') + node('MatMul', ['f', 'w'], 'y')
  graph += field(2, 'g') + field(5, initial) + field(11, tensor_info('x', shape))
  graph += field(12, tensor_info('y', ['n', weights.shape[1]]))
  return field(1, 8) + field(7, graph) + field(8, field(1, '') + field(2, 13))


def test_a_face_embedding(tmp_path):
  pytest.importorskip('onnxruntime')
  weights = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
  faces = np.random.default_rng(1).integers(0, 256, (5, 64, 64, 3)).astype(np.uint8)
  wanted = ((faces - 127.5) / 127.5).mean((1, 2)) @ weights
  for first in ('n', 1, 2):
    path = tmp_path / f'{first}.onnx'
    path.write_bytes(onnx_model([first, 3, 64, 64], weights))
    network = face_embedding.load(path)
    assert network.size == 64
    np.testing.assert_allclose(network('embed', faces), wanted, atol=1e-5)


def test_wrong_face_embeddings(tmp_path):
  with pytest.raises(UserError, match='nowhere.onnx: no such file'):
    face_embedding.load(tmp_path / 'nowhere.onnx')
  pytest.importorskip('onnxruntime')
  path = tmp_path / 'model.onnx'
  path.write_bytes(b'nothing of the kind')
  with pytest.raises(UserError, match='cannot be read as an ONNX model'):
    face_embedding.load(path)
  path.write_bytes(onnx_model(['n', 1, 64, 64], np.ones((1, 4), np.float32)))
  with pytest.raises(UserError, match='expected one input'):
    face_embedding.load(path)

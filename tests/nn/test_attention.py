"""Every way of attention is the same attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from talkjax.nn import attention as module
from talkjax.nn.attention import attention
from talkjax.training import sharding


def made(*shapes):
  r = np.random.default_rng(0)
  return [r.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.fixture
def qkv():
  return made(*((2, n, 3, 8) for n in (1024, 96, 96)))


def gradients(qkv, method):
  return jax.jit(jax.grad(lambda qkv: jnp.square(attention(*qkv, method=method)).sum()))(qkv)


def assert_same(got, expected):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), got, expected)


@pytest.mark.parametrize('method', ['xla', 'blocks'])
def test_is_attention(qkv, method):
  q, k, v = (a.astype(np.float64) for a in qkv)
  weights = np.exp(np.einsum('bnhd,bmhd->bhnm', q, k) / np.sqrt(8))
  expected = np.einsum('bhnm,bmhd->bnhd', weights / weights.sum(-1, keepdims=True), v)
  np.testing.assert_allclose(attention(*qkv, method=method), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('saved_weights', [0, 1024 * 1024])
def test_gradients_agree(qkv, saved_weights, monkeypatch):
  """The blockwise gradient from recomputed weights, and the plain one from saved weights."""
  monkeypatch.setattr(module, '_SAVED_WEIGHTS', saved_weights)
  assert_same(gradients(qkv, 'blocks'), gradients(qkv, 'xla'))


def test_splash_is_the_same():
  """Lengths that are no multiples of its usual blocks, channels that are none of its lanes; in the interpreter."""
  qkv = made((2, 256, 2, 40), (2, 384, 2, 40), (2, 384, 2, 40))
  assert_same(attention(*qkv, method='splash'), attention(*qkv, method='xla'))
  assert_same(gradients(qkv, 'splash'), gradients(qkv, 'xla'))


def test_splash_on_a_mesh():
  qkv = made(*[(2, 128, 1, 8)] * 3)
  placed = jax.device_put(qkv, sharding.batch_sharding(sharding.make_mesh({'data': -1})))
  run = jax.jit(lambda qkv: attention(*qkv, method='splash'))
  assert 'shard_map' in str(run.trace(placed).jaxpr)
  assert_same(run(placed), attention(*qkv, method='xla'))


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_splash_can_be_placed_on_tpus(dtype):
  """With its gradients, as far as a kernel is compiled without a TPU, for one and for four of them."""
  mesh = AbstractMesh((2, 2, 1), sharding.AXES, axis_types=(AxisType.Auto,) * 3)

  def run(*qkv):
    return jax.grad(lambda qkv: jnp.square(module._splash(*qkv, interpret=False)).sum())(qkv)

  for layout in (None, NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))):
    x = jax.ShapeDtypeStruct((4, 1024, 8, 40), dtype, sharding=layout)
    lowered = jax.jit(run).trace(x, x, x).lower(lowering_platforms=('tpu',))
    assert lowered.as_text().count('tpu_custom_call') == 3  # forward, dq, dkv


def test_chosen_by_shape_and_device():
  of = lambda n, dtype=jnp.float32: jnp.zeros((1, n, 1, 8), dtype)
  assert module._choose(of(4096), of(4096), 'cpu') == 'blocks'
  assert module._choose(of(2304), of(2304), 'cpu') == 'blocks'
  assert module._choose(of(4099), of(4099), 'cpu') == 'xla'  # cannot be cut
  assert module._choose(of(4096), of(32), 'cpu') == 'xla'
  assert module._choose(of(12), of(12), 'cpu') == 'xla'
  assert module._choose(of(4096, jnp.bfloat16), of(4096), 'gpu') == 'cudnn'
  assert module._choose(of(4096), of(4096), 'gpu') == 'xla'
  assert module._choose(of(4096), of(1024), 'tpu') == 'splash'
  assert module._choose(of(4096), of(1024), 'tpu', devices=4) == 'xla'  # nothing says how they are laid out
  assert module._choose(of(4096), of(32), 'tpu') == 'xla'
  assert module._choose(of(1100), of(1100), 'tpu') == 'xla'


def test_unknown_method(qkv):
  with pytest.raises(ValueError, match='flash'):
    attention(*qkv, method='flash')

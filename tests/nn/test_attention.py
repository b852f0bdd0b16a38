"""Every way of attention is the same attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax.nn import attention as module
from talkjax.nn.attention import attention


@pytest.fixture
def qkv():
  r = np.random.default_rng(0)
  return [r.standard_normal((2, n, 3, 8)).astype(np.float32) for n in (1024, 96, 96)]


@pytest.mark.parametrize('method', ['xla', 'blocks'])
def test_is_attention(qkv, method):
  q, k, v = (a.astype(np.float64) for a in qkv)
  weights = np.exp(np.einsum('bnhd,bmhd->bhnm', q, k) / np.sqrt(8))
  expected = np.einsum('bhnm,bmhd->bnhd', weights / weights.sum(-1, keepdims=True), v)
  np.testing.assert_allclose(attention(*qkv, method=method), expected, rtol=1e-4, atol=1e-5)


def test_gradients_agree(qkv):
  loss = lambda qkv, method: jnp.square(attention(*qkv, method=method)).sum()  # noqa: E731
  gradients = [jax.grad(loss)(qkv, method) for method in ('xla', 'blocks')]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *gradients)


def test_long_rows_are_walked_in_blocks():
  short, long = jnp.zeros((1, 256, 1, 8)), jnp.zeros((1, 4096, 1, 8))
  if jax.default_backend() == 'cpu':
    assert module._choose(long, long) == 'blocks'
  assert module._choose(short, short) == 'xla'


def test_unknown_method(qkv):
  with pytest.raises(ValueError, match='flash'):
    attention(*qkv, method='flash')

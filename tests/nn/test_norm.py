"""Group normalisation against its definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax.nn.norm import GroupNorm


def test_is_group_norm_then_film():
  r = np.random.default_rng(0)
  x = r.standard_normal((2, 5, 3, 64)) * 3 + 7
  films = [r.standard_normal((2, 128)) for _ in range(2)]
  params = {'scale': r.standard_normal(64), 'bias': r.standard_normal(64)}

  groups = x.reshape(2, 15, 32, 2)
  mean, variance = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
  expected = ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * params['scale'] + params['bias']
  for film in films:
    expected = expected * (1 + film[:, None, None, :64]) + film[:, None, None, 64:]

  params, x32, films32 = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, x, tuple(films)))
  out = GroupNorm().apply({'params': params}, x32, films32)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('silu', [True, False])
def test_gradients(silu):
  """The written derivative is that of the definition, which JAX differentiates in float64."""

  def definition(x, film, params):
    groups = x.reshape(2, 12, 4, 2)
    mean, variance = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    y = ((groups - mean) / jnp.sqrt(variance + 1e-5)).reshape(x.shape) * params['scale'] + params['bias']
    y = y * (1 + film[:, None, :8]) + film[:, None, 8:]
    return y * jax.nn.sigmoid(y) if silu else y

  r = np.random.default_rng(1)
  with jax.enable_x64(True):
    params = {'scale': r.standard_normal(8), 'bias': r.standard_normal(8)}
    arrays = r.standard_normal((2, 12, 8)) * 2 + 1, r.standard_normal((2, 16)), params
    g = r.standard_normal((2, 12, 8))
    expected_y, vjp = jax.vjp(definition, *arrays)
    expected = vjp(jnp.asarray(g))
  arrays, g = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (arrays, g))
  norm = GroupNorm(groups=4, silu=silu)
  y, vjp = jax.vjp(lambda x, film, params: norm.apply({'params': params}, x, (film,)), *arrays)
  np.testing.assert_allclose(y, expected_y, rtol=1e-4, atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), vjp(g), expected)


def test_far_from_zero_nothing_overflows():
  x = jnp.array([-1e4, 1e4, -1.0, 1.0] * 8).reshape(1, 8, 4)
  norm = GroupNorm(groups=1, silu=True)
  params = {'params': {'scale': jnp.full(4, 300.0), 'bias': jnp.zeros(4)}}
  y, vjp = jax.vjp(lambda x: norm.apply(params, x), x)
  assert jnp.isfinite(y).all() and jnp.isfinite(vjp(jnp.ones_like(y))[0]).all()


def test_statistics_of_bfloat16_are_float32():
  x = jnp.full((1, 64, 64, 32), 3.0, jnp.bfloat16).at[0, 0, 0].add(1.0)
  out = GroupNorm(groups=1).apply({'params': {'scale': jnp.ones(32), 'bias': jnp.zeros(32)}}, x)
  assert out.dtype == jnp.bfloat16
  assert 60 < out[0, 0, 0, 0] < 68  # one pixel of 4096 stands out by sqrt(4095) deviations

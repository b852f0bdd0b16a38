"""Group normalisation against its definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np

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


def test_statistics_of_bfloat16_are_float32():
  x = jnp.full((1, 64, 64, 32), 3.0, jnp.bfloat16).at[0, 0, 0].add(1.0)
  out = GroupNorm(groups=1).apply({'params': {'scale': jnp.ones(32), 'bias': jnp.zeros(32)}}, x)
  assert out.dtype == jnp.bfloat16
  assert 60 < out[0, 0, 0, 0] < 68  # one pixel of 4096 stands out by sqrt(4095) deviations

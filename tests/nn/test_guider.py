"""Small networks of conditions: windows of sound, and queries that read them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax.nn.guider import Resampler, two_a_frame, windows


@pytest.mark.parametrize(('n', 'frames'), [(7, 5), (10, 5), (31, 5), (1, 2)])
def test_two_features_a_frame_are_interpolated_between_their_middles(n, frames):
  features = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
  wanted = (np.arange(2 * frames) + 0.5) / (2 * frames)  # shares of the sound
  expected = np.stack([np.interp(wanted, (np.arange(n) + 0.5) / n, f) for f in features.T], -1)
  got = two_a_frame(jnp.asarray(features), frames)
  assert got.shape == (frames, 6)
  np.testing.assert_allclose(np.asarray(got).reshape(2 * frames, 3), expected, atol=1e-5)


def test_a_frame_hears_its_neighbours():
  features = jnp.arange(14.0).reshape(1, 7, 2)
  np.testing.assert_array_equal(windows(features, 2)[0, 1], np.arange(2.0, 12.0))


def test_queries_read_the_whole_window_and_know_its_order():
  net = Resampler(16, 8, queries=3, layers=2, heads=2, head_features=4, expansion=2, length=6)
  x = jax.random.normal(jax.random.key(0), (2, 6, 5))
  params = net.init(jax.random.key(1), x)['params']
  run = jax.jit(lambda x: net.apply({'params': params}, x))
  tokens = run(x)
  assert tokens.shape == (2, 3, 8)
  np.testing.assert_allclose(tokens.mean(-1), 0, atol=1e-5)  # normed
  slope = jax.grad(lambda x: jnp.sum(run(x)[0] ** 2 * jnp.arange(8.0)))(x)
  assert np.all(np.abs(slope[0]).max(-1) > 0) and not np.any(slope[1])
  assert np.abs(run(x[:, ::-1]) - tokens).max() > 1e-3
  assert run(x[:, :4]).shape == (2, 3, 8)  # a shorter window

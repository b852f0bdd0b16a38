"""From audio features to tokens: windows around each frame, and both projections."""

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.nn.audio_projection import AudioProjection, Resampler, frame_windows


def test_a_window_has_the_features_of_the_neighbouring_frames():
  features = jnp.arange(14.0).reshape(1, 7, 2)
  np.testing.assert_array_equal(frame_windows(features, 2)[0, 1], np.arange(2.0, 12.0))


def test_projected_tokens_are_normalised_and_of_their_own_window():
  net = AudioProjection(tokens=3, features=8, hidden=6)
  x = jax.random.normal(jax.random.key(0), (2, 5))
  params = net.init(jax.random.key(1), x)
  tokens = net.apply(params, x)
  assert tokens.shape == (2, 3, 8)
  np.testing.assert_allclose(tokens.mean(-1), 0, atol=1e-5)
  np.testing.assert_allclose(net.apply(params, x.at[0].add(1))[1], tokens[1], atol=1e-6)
  assert np.abs(net.apply(params, x.at[0].add(1))[0] - tokens[0]).max() > 1e-3


def test_queries_attend_to_the_whole_window_in_order():
  net = Resampler(16, 8, queries=3, layers=2, heads=2, head_features=4, expansion=2, length=6)
  x = jax.random.normal(jax.random.key(0), (2, 6, 5))
  params = net.init(jax.random.key(1), x)['params']
  run = jax.jit(lambda x: net.apply({'params': params}, x))
  tokens = run(x)
  assert tokens.shape == (2, 3, 8)
  np.testing.assert_allclose(tokens.mean(-1), 0, atol=1e-5)  # normalised
  gradient = jax.grad(lambda x: jnp.sum(run(x)[0] ** 2 * jnp.arange(8.0)))(x)
  assert np.all(np.abs(gradient[0]).max(-1) > 0) and not np.any(gradient[1])
  assert np.abs(run(x[:, ::-1]) - tokens).max() > 1e-3
  assert run(x[:, :4]).shape == (2, 3, 8)  # a shorter window

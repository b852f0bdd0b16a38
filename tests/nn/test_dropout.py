"""Dropout keeps the mean and drops the share it says."""

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.nn.dropout import Dropout


def drop(rate, x, key=0, train=True):
  return Dropout(rate).apply({}, x, train, rngs={'dropout': jax.random.key(key)})


def test_share_and_scale():
  x = jnp.ones((4, 50, 50, 30))
  out = np.asarray(drop(0.25, x))
  assert set(np.unique(out)) == {0, np.float32(4 / 3)}
  assert abs((out == 0).mean() - 0.25) < 0.01
  # Neighbours are drawn by themselves: both dropped in a sixteenth of the pairs.
  zero = out == 0
  assert abs((zero[..., 1:] & zero[..., :-1]).mean() - 1 / 16) < 0.01
  assert not np.array_equal(out, drop(0.25, x, key=1))
  np.testing.assert_array_equal(out, drop(0.25, x))


def test_off():
  x = jnp.ones((2, 3))
  assert drop(0.5, x, train=False) is x
  assert drop(0.0, x) is x

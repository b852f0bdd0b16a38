"""The lip expert's embeddings and their cosine."""

import jax
import numpy as np

from talkjax.nn import lip_expert
from tests.micro import random_params


def test_the_cosine_is_that_of_eq_10():
  r = np.random.default_rng(0)
  v, a = r.random((2, 6, 8)).astype(np.float32)
  expected = [np.dot(x, y) / (np.linalg.norm(x) * np.linalg.norm(y)) for x, y in zip(v, a)]
  np.testing.assert_allclose(lip_expert.synchrony(v, a), expected, rtol=1e-5)
  assert lip_expert.synchrony(np.zeros(8), a[0]) == 0  # no division by zero


def test_windows_are_consecutive_frames():
  x = np.arange(2 * 7 * 3).reshape(2, 7, 3)
  found = np.asarray(lip_expert.windows(x))
  assert found.shape == (2, 3, 5, 3)
  for i in range(3):
    np.testing.assert_array_equal(found[:, i], x[:, i : i + 5])


def test_embeddings_are_not_negative_and_see_one_input_each():
  r = np.random.default_rng(1)
  mouth, audio = r.normal(size=(3, 5, 12)).astype(np.float32), r.normal(size=(3, 5, 7)).astype(np.float32)
  net = lip_expert.LipExpert(features=6, width=8, layers=1, dropout=0.5)
  params = random_params(jax.eval_shape(net.init, jax.random.key(0), mouth, audio))
  v, a = net.apply(params, mouth, audio)
  assert v.shape == a.shape == (3, 6) and (v >= 0).all() and (a >= 0).all() and (v > 0).any() and (a > 0).any()
  moved = net.apply(params, mouth + 1, audio)
  assert not np.allclose(moved[0], v) and np.array_equal(moved[1], a)
  dropped = net.apply(params, mouth, audio, True, rngs={'dropout': jax.random.key(0)})
  assert not np.allclose(dropped[0], v)

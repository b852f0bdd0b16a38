"""LPIPS: a distance of features, with a gradient everywhere. Its arithmetic is a golden case."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax.nn.lpips import LPIPS, TRUNKS
from tests.micro import random_params


@pytest.mark.parametrize('net', TRUNKS)
def test_features_after_every_tap(net):
  images = jnp.zeros((1, 64, 64, 3))
  taps = jax.eval_shape(lambda rng: LPIPS(net).init_with_output(rng, images, method='features')[0], jax.random.key(0))
  sides = {'alex': (15, 7, 3, 3, 3), 'vgg': (64, 32, 16, 8, 4)}[net]
  widths = {'alex': (64, 192, 384, 256, 256), 'vgg': (64, 128, 256, 512, 512)}[net]
  assert [tap.shape for tap in taps] == [(1, side, side, width) for side, width in zip(sides, widths)]


def test_distance_and_gradient():
  net = LPIPS()
  a, b = (0.3 * jax.random.normal(jax.random.key(i), (2, 32, 32, 3)) for i in range(2))
  params = {'params': random_params(jax.eval_shape(net.init, jax.random.key(0), a, b)['params'])}
  distance = jax.jit(lambda a, b: net.apply(params, a, b))
  np.testing.assert_array_equal(distance(a, a), 0)
  np.testing.assert_allclose(distance(a, b), distance(b, a), rtol=1e-5)
  # A trunk without any activation has no direction, and no gradient that is not finite.
  silent = jax.tree.map(jnp.zeros_like, params)
  gradient = jax.grad(lambda a: net.apply(silent, a, b).sum())(a)
  np.testing.assert_array_equal(gradient, 0)

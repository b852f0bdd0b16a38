"""The encoder of head speed."""

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.nn.speed import SpeedTokens, speed_buckets


def test_buckets_are_equation_of_section_3_2():
  buckets = np.asarray(speed_buckets(jnp.array([7.5, 30.0]), (0.0, 7.5), (7.5, 15.0)))
  np.testing.assert_allclose(buckets, np.tanh([[3, 0], [12, 4.5]]), atol=1e-6)


def test_a_token_depends_on_the_speeds_of_its_window_only():
  net = SpeedTokens(4, (5.0, 10.0), (5.0, 5.0), margin=1)
  speed = jnp.array([[4.0, 8.0, 6.0, 3.0, 9.0]])
  params = net.init(jax.random.key(0), speed)
  jacobian = jax.jacobian(lambda s: net.apply(params, s)[0].sum(-1))(speed)[:, 0]  # [tokens, speeds]
  assert net.apply(params, speed).shape == (1, 3, 4)
  np.testing.assert_array_equal(jacobian != 0, [[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1]])

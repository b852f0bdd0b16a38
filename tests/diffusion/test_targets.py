"""Epsilon, x0 and velocity: round trips, known points of the circle, and the ends of the schedule."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax.diffusion import schedules, targets


def level(alpha_bar):
  alpha_bar = jnp.asarray(alpha_bar, jnp.float32)
  return schedules.Level(jnp.zeros_like(alpha_bar), alpha_bar, jnp.sqrt(alpha_bar), jnp.sqrt(1 - alpha_bar))


@pytest.fixture
def pair():
  keys = jax.random.split(jax.random.key(0), 4)
  shapes = {'video': (3, 2, 4, 4, 3), 'audio': (3, 16)}
  draw = lambda keys: {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items())}
  return draw(keys[:2]), draw(keys[2:])


@pytest.mark.parametrize('target', targets.TARGETS)
def test_round_trip_on_a_tree(target, pair):
  x0, epsilon = pair
  at = level([0.1, 0.5, 0.95])
  x = targets.add_noise(x0, epsilon, at)
  output = targets.make(target, x0, epsilon, at)
  for name in x0:
    np.testing.assert_allclose(targets.to_x0(target, output, x, at)[name], x0[name], atol=1e-5)
    np.testing.assert_allclose(targets.to_epsilon(target, output, x, at)[name], epsilon[name], atol=1e-5)
    np.testing.assert_allclose(targets.from_x0(target, x0, x, at)[name], output[name], atol=1e-5)


def test_each_example_has_its_own_level(pair):
  x0, epsilon = pair
  both = targets.add_noise(x0, epsilon, level([1.0, 0.0, 0.64]))['audio']
  np.testing.assert_allclose(both[0], x0['audio'][0])
  np.testing.assert_allclose(both[1], epsilon['audio'][1])
  np.testing.assert_allclose(both[2], 0.8 * x0['audio'][2] + 0.6 * epsilon['audio'][2], atol=1e-6)


def test_velocity_is_the_quarter_turn():
  x0, epsilon = jnp.array([[2.0]]), jnp.array([[-3.0]])
  assert targets.make('velocity', x0, epsilon, level([1.0]))[0, 0] == -3  # at no noise: epsilon
  assert targets.make('velocity', x0, epsilon, level([0.0]))[0, 0] == -2  # at pure noise: -x0


@pytest.mark.parametrize('target', ['x0', 'velocity'])
def test_finite_and_right_at_zero_terminal_snr(target):
  x0, epsilon = jnp.array([[2.0]]), jnp.array([[-3.0]])
  at = level([0.0])
  x = targets.add_noise(x0, epsilon, at)
  output = targets.make(target, x0, epsilon, at)
  assert targets.to_x0(target, output, x, at)[0, 0] == 2
  assert targets.to_epsilon(target, output, x, at)[0, 0] == -3


@pytest.mark.parametrize(('a', 'b'), list(itertools.permutations(targets.TARGETS, 2)))
def test_outputs_convert_into_each_other(a, b, pair):
  x0, epsilon = pair[0]['audio'], pair[1]['audio']
  at = level(0.3)
  x = targets.add_noise(x0, epsilon, at)
  there = targets.from_x0(b, targets.to_x0(a, targets.make(a, x0, epsilon, at), x, at), x, at)
  np.testing.assert_allclose(there, targets.make(b, x0, epsilon, at), atol=1e-5)


def test_half_precision_outputs_are_computed_in_float32():
  x, output = jnp.ones((2, 3)), jnp.ones((2, 3), jnp.bfloat16)
  for target in targets.TARGETS:
    assert targets.to_x0(target, output, x, level([0.5, 0.6])).dtype == jnp.float32
    assert targets.to_epsilon(target, output, x, level([0.5, 0.6])).dtype == jnp.float32


def test_unknown_target_is_named():
  with pytest.raises(ValueError, match='score'):
    targets.make('score', jnp.ones(1), jnp.ones(1), level(0.5))

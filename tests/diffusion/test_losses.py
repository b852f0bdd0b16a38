"""Losses by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from talkjax.diffusion import losses, schedules


def test_mean_error_of_each_example():
  prediction, target = jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[0.0, 0.0], [0.0, 4.0]])
  np.testing.assert_allclose(losses.mean_error(prediction, target), [2.5, 8.0])


def test_the_pseudo_huber_error_is_quadratic_near_zero_and_then_linear():
  target = jnp.zeros((3, 1))
  errors = losses.mean_error(jnp.array([[3.0], [1e-2], [40.0]]), target, huber=4.0)
  np.testing.assert_allclose(errors, [5 - 4, 1e-4 / 8, 36.2], rtol=1e-3, atol=1e-6)
  slope = jax.grad(lambda x: losses.loss(x, jnp.zeros((1, 1)), huber=0.01))(jnp.array([[-7.0]]))
  np.testing.assert_allclose(slope, [[-1.0]], rtol=1e-4)
  # Of what is possible, the one in the middle is predicted, not the mean.
  possible = jnp.array([[0.0], [0.0], [3.0]])
  costs = [float(losses.loss(jnp.full((3, 1), x), possible, huber=0.01)) for x in (0.0, 1.0)]
  assert costs[0] < costs[1] and losses.loss(possible * 0 + 1, possible) < losses.loss(possible * 0, possible)


def test_a_mask_counts_its_region_alone():
  prediction = jnp.zeros((1, 2, 2, 3)).at[0, 0, 0].set(2.0).at[0, 1, 1].set(100.0)
  mask = jnp.zeros((1, 2, 2, 1)).at[0, 0].set(1.0)  # two of four positions, six of twelve values
  target = jnp.zeros_like(prediction)
  np.testing.assert_allclose(losses.mean_error(prediction, target, mask), [3 * 4 / 6])
  np.testing.assert_allclose(losses.mean_error(prediction, target, mask, normalize=False), [3 * 4 / 12])


def test_an_empty_mask_is_no_loss_and_no_nan():
  prediction = jnp.ones((2, 2, 2, 1))
  mask = jnp.zeros((2, 2, 2, 1)).at[1].set(1.0)
  np.testing.assert_allclose(losses.mean_error(prediction, 0 * prediction, mask), [0.0, 1.0])


def test_modalities_are_summed_and_examples_weighted():
  prediction = {'video': jnp.array([[1.0], [2.0]]), 'audio': jnp.array([[3.0, 3.0], [0.0, 0.0]])}
  target = {'video': jnp.zeros((2, 1)), 'audio': jnp.zeros((2, 2))}
  assert losses.loss(prediction, target) == pytest.approx(((1 + 9) + 4) / 2)
  assert losses.loss(prediction, target, example_weight=jnp.array([0.5, 2.0])) == pytest.approx((5 + 8) / 2)
  weight = {'video': jnp.ones((2, 1)), 'audio': jnp.array([[1.0, 0.0], [1.0, 1.0]])}
  assert losses.loss(prediction, target, weight=weight, normalize=False) == pytest.approx((1 + 4.5 + 4) / 2)


def test_min_snr_weights():
  ratio = jnp.array([0.0, 1.0, 5.0, 20.0, jnp.inf])
  np.testing.assert_allclose(losses.min_snr_weight(ratio, 'epsilon'), [1, 1, 1, 0.25, 0])
  np.testing.assert_allclose(losses.min_snr_weight(ratio, 'x0'), [0, 1, 5, 5, 5])
  np.testing.assert_allclose(losses.min_snr_weight(ratio, 'velocity'), [0, 0.5, 5 / 6, 5 / 21, 0], rtol=1e-6)
  shifted = losses.min_snr_weight(ratio, 'velocity', velocity_offset=1.0)
  np.testing.assert_allclose(shifted, [1, 1, 5 / 6, 5 / 21, 0], rtol=1e-6)


def bound(index, x0=0.2, x=0.5, predicted=0.2, variance=-1.0, steps=100):
  schedule = schedules.linear(steps)
  full = lambda value: jnp.full((1, 2, 2, 1), value, jnp.float32)
  arguments = full(x0), full(x), full(predicted), full(variance), jnp.array([index])
  return float(losses.variational_bound(*arguments, schedule)[0]), schedule


def test_the_bound_is_zero_for_the_posterior_itself():
  assert bound(40)[0] == pytest.approx(0, abs=1e-5)
  assert bound(40, predicted=0.3)[0] > 0.001 and bound(40, variance=1.0)[0] > 0


def test_the_bound_is_the_divergence_of_two_normal_distributions():
  value, schedule = bound(40, predicted=0.26, variance=0.4)
  posterior = schedules.posterior(schedule)
  p_log = 0.3 * posterior.log_variance[40] + 0.7 * np.log(schedule.betas[40])
  q, p = posterior.variance[40], np.exp(p_log)
  gap = posterior.x0_scale[40] * 0.06
  expected = 0.5 * (p_log - np.log(q) + (q + gap**2) / p - 1)
  assert value == pytest.approx(expected / np.log(2), rel=1e-3)


@pytest.mark.parametrize('step', [0, 100, 255])
def test_the_last_term_is_the_likelihood_of_a_step_of_the_picture(step):
  """The ends of the range belong to its first and last step."""
  x0 = step / 127.5 - 1
  value, schedule = bound(0, x0=x0, predicted=x0 + 0.004)
  posterior = schedules.posterior(schedule, 'next')
  mean = posterior.x0_scale[0] * (x0 + 0.004) + posterior.x_scale[0] * 0.5
  normal = scipy.stats.norm(mean, posterior.variance[1] ** 0.5)
  low, high = x0 - 1 / 255 if step else -np.inf, x0 + 1 / 255 if step < 255 else np.inf
  assert value == pytest.approx(-np.log2(normal.cdf(high) - normal.cdf(low)), rel=1e-2, abs=1e-3)


def test_the_bound_has_gradients_everywhere():
  schedule = schedules.linear(100)
  x0 = jnp.linspace(-1, 1, 16).reshape(1, 4, 4, 1)
  repeat = lambda values: jnp.repeat(jnp.asarray(values), 3)
  index, predicted = repeat([0, 1, 99]), jnp.tile(jnp.array([-3.0, 0.0, 3.0]), 3).reshape(9, 1, 1, 1)
  x0 = jnp.tile(x0, (9, 1, 1, 1))
  value = lambda v: losses.variational_bound(x0, x0, predicted + 0 * x0, v, index, schedule).sum()
  assert np.isfinite(jax.jit(jax.grad(value))(jnp.zeros_like(x0))).all()

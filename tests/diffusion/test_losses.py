"""Losses by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from talkjax.diffusion import losses


def test_squared_error_of_each_example():
  prediction, target = jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[0.0, 0.0], [0.0, 4.0]])
  np.testing.assert_allclose(losses.squared_error(prediction, target), [2.5, 8.0])


def test_a_mask_counts_its_region_alone():
  prediction = jnp.zeros((1, 2, 2, 3)).at[0, 0, 0].set(2.0).at[0, 1, 1].set(100.0)
  mask = jnp.zeros((1, 2, 2, 1)).at[0, 0].set(1.0)  # two of four positions, six of twelve values
  target = jnp.zeros_like(prediction)
  np.testing.assert_allclose(losses.squared_error(prediction, target, mask), [3 * 4 / 6])
  np.testing.assert_allclose(losses.squared_error(prediction, target, mask, normalize=False), [3 * 4 / 12])


def test_an_empty_mask_is_no_loss_and_no_nan():
  prediction = jnp.ones((2, 2, 2, 1))
  mask = jnp.zeros((2, 2, 2, 1)).at[1].set(1.0)
  np.testing.assert_allclose(losses.squared_error(prediction, 0 * prediction, mask), [0.0, 1.0])


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

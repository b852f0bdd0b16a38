import types

import jax
import numpy as np
import pytest

from talkjax.systems.portrait.loss import hide_mouths


@pytest.mark.parametrize('frames', [(), (3,)])
def test_mouths_are_hidden_at_the_noisier_levels_alone(frames):
  x, noise = np.ones((4, *frames, 2, 2, 1)), np.zeros((4, *frames, 2, 2, 1))
  mouth = np.zeros((4, *frames, 2, 2, 1), bool)
  mouth[..., 1, 0, :] = True
  level = types.SimpleNamespace(noise_scale=np.array([0.2, 0.69, 0.71, 1.0]))
  given = np.asarray(hide_mouths(x, noise, level, mouth, 1.0, jax.random.key(0)))
  assert (given[:2] == 1).all()
  np.testing.assert_array_equal(given[2:] == 0, mouth[2:])
  assert (np.asarray(hide_mouths(x, noise, level, mouth, 0.0, jax.random.key(0))) == 1).all()


def test_a_share_of_the_examples_has_its_mouth_hidden():
  x, mouth = np.ones((400, 1, 1, 1)), np.ones((400, 1, 1, 1), bool)
  level = types.SimpleNamespace(noise_scale=np.ones(400))
  given = np.asarray(hide_mouths(x, 0 * x, level, mouth, 0.25, jax.random.key(1)))
  assert 0.15 < np.mean(given == 0) < 0.35

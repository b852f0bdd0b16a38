"""What systems around a backbone share: what becomes of its outputs."""

import types

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax.diffusion.schedules import Level
from talkjax.systems import backbone


class Says(nn.Module):
  """A backbone that always says the same of every pixel, one number a channel."""

  said: tuple[float, ...]

  @nn.compact
  def __call__(self, x, *_, **__):
    return jnp.broadcast_to(jnp.array(self.said), (*x.shape[:3], len(self.said))), {}


@pytest.mark.parametrize('framewise', [False, True])
def test_the_change_from_a_portrait_has_a_part_of_its_own_and_one_in_proportion(framewise):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 3, 4, 4, 2))
  portrait = rng.normal(size=(2, 3, 4, 4, 2) if framewise else (2, 4, 4, 2))
  said = (0.5, -1.0, 2.0, 3.0)
  signal, noise = np.array([0.8, 0.6]), np.array([0.6, 0.8])
  level = Level(np.array([3, 7]), signal**2, signal, noise)
  condition = backbone.Condition({}, {}, None, None, None, portrait)
  assert backbone.outputs(2, 6.0) == len(said) and backbone.outputs(2, 0.0) == 2

  nets = types.SimpleNamespace(backbone=Says(said), change=6.0, prior=0.0)
  made = backbone.predict({'backbone': {}}, x, level, condition, nets=nets)
  shown = portrait if framewise else portrait[:, None]
  want = np.broadcast_to(np.array([0.5, -1.0]) + np.array([2.0, 3.0]) * shown, x.shape)
  np.testing.assert_allclose(made, want, atol=1e-6)

  nets.prior = 0.03  # the mean of a Gaussian of that variance given x
  made = backbone.predict({'backbone': {}}, x, level, condition, nets=nets)
  gain = signal * 0.03 / (signal**2 * 0.03 + noise**2)
  np.testing.assert_allclose(made, want + x * gain.reshape(2, 1, 1, 1, 1), atol=1e-6)

  alone = types.SimpleNamespace(backbone=Says(said[:2]), change=0.0, prior=0.0)
  made = backbone.predict({'backbone': {}}, x, level, condition, nets=alone)
  np.testing.assert_allclose(made, np.broadcast_to(said[:2], x.shape), atol=1e-6)

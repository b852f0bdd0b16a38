"""The motion transformer: which frame depends on which sound, shown by gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax.nn.attention import attention
from talkjax.nn.motion_transformer import MotionBlock, MotionTransformer, alignment_mask
from tests.micro import random_params

FRAMES = 12


def influence(function, x) -> np.ndarray:
  """Whether output frame j depends on input frame i: bool [j, i], for functions of [1, f, d]."""
  jacobian = np.asarray(jax.jacobian(lambda a: function(a).sum(-1)[0])(x))  # [j, 1, i, d]
  return np.abs(jacobian).sum((1, 3)) > 1e-9


def arrays(*channels):
  r = np.random.default_rng(0)
  return [r.standard_normal((1, FRAMES, c)).astype(np.float32) for c in channels]


def init(net, *inputs):
  return random_params(jax.eval_shape(net.init, jax.random.key(0), *inputs))


@pytest.mark.parametrize('radius', [0, 1, 3])
def test_a_frame_depends_on_the_sound_of_its_neighbours(radius):
  """One block: the self-attention comes before the sound is attended to, so nothing else mixes it over time."""
  x, condition = arrays(16, 8)
  net = MotionBlock(2, radius)
  params = init(net, x, condition)
  depends = influence(lambda c: net.apply(params, x, c), condition)
  expected = [[j - radius <= i <= j + radius for i in range(FRAMES)] for j in range(FRAMES)]
  np.testing.assert_array_equal(depends, expected)
  assert influence(lambda a: net.apply(params, a, condition), x).all()  # motion is continuous over the whole clip


def test_without_a_mask_a_frame_depends_on_all_sound():
  x, condition = arrays(16, 8)
  net = MotionBlock(2, None)
  assert influence(lambda c: net.apply(init(net, x, condition), x, c), condition).all()


def test_one_layer_of_the_whole_network_has_the_mask():
  x, audio = arrays(5, 7)
  net = MotionTransformer(width=16, layers=1, heads=2, radius=3)
  t = jnp.array([300.0])
  params = init(net, x, t, audio)
  y = net.apply(params, x, t, audio)
  assert y.shape == x.shape and y.dtype == jnp.float32
  np.testing.assert_array_equal(
    influence(lambda a: net.apply(params, x, t, a), audio), alignment_mask(FRAMES, FRAMES, 3)
  )
  assert not np.allclose(y, net.apply(params, x, t + 300, audio), atol=1e-3)


def test_frames_know_their_order():
  """The same coefficients and sound at two frames give different results; a permuted clip is not just permuted."""
  x, audio = (np.repeat(a[:, :1], FRAMES, 1) for a in arrays(5, 7))
  net = MotionTransformer(width=16, layers=1, heads=2, radius=None)
  t = jnp.array([300.0])
  y = net.apply(init(net, x, t, audio), x, t, audio)
  assert np.abs(np.diff(np.asarray(y), axis=1)).max(-1).min() > 1e-3


def test_attention_with_a_mask_is_attention_over_fewer_keys():
  r = np.random.default_rng(1)
  q, k, v = (r.standard_normal((2, n, 3, 8)).astype(np.float32) for n in (4, 9, 9))
  mask = np.zeros((4, 9), bool)
  mask[:, 2:5] = True
  np.testing.assert_allclose(attention(q, k, v, mask=mask), attention(q, k[:, 2:5], v[:, 2:5]), rtol=1e-4, atol=1e-5)
  with pytest.raises(ValueError, match="'blocks' has no mask"):
    attention(q, k, v, mask=mask, method='blocks')

"""The U-Net: sizes, what it may depend on, identity at the start, folding of patches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax.nn.conv import depth_to_space, downsample, space_to_depth, upsample
from talkjax.nn.embedding import sinusoid
from talkjax.nn.unet import UNet

SMALL = {'width': 32, 'multipliers': (1, 2), 'attention_downsamples': (2,), 'num_res_blocks': 1, 'head_channels': 16}

ONE_LEVEL = SMALL | {'multipliers': (1,), 'attention_downsamples': ()}


def batch(b=2, size=8, audio=24):
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (b, size, size, 9))
  return x, jax.random.uniform(keys[1], (b,)), jax.random.normal(keys[2], (b, audio))


@functools.cache
def small(**fields):
  """A small U-Net and weights past the start, where the zero-initialised layers speak too."""
  unet = UNet(**(SMALL | fields))
  shapes = jax.eval_shape(unet.init, jax.random.key(1), *batch())
  r = np.random.default_rng(2)
  return unet, jax.tree.map(lambda p: jnp.float32(0.1 * r.standard_normal(p.shape) + (p.ndim == 1)), shapes)


@pytest.mark.parametrize(
  ('fields', 'count'),
  [
    ({'multipliers': (1, 2, 3), 'attention_downsamples': (4,), 'head_channels': 64}, 13_698_691),  # multi-speaker
    ({'multipliers': (1, 2, 4, 8), 'attention_downsamples': (), 'head_channels': 32}, 66_655_619),  # single speaker
  ],
)
def test_parameter_counts_are_the_published_ones(fields, count):
  x, gamma, audio = jnp.zeros((1, 32, 32, 9)), jnp.ones((1,)), jnp.zeros((1, 1024))
  params = jax.eval_shape(UNet(**fields).init, jax.random.key(0), x, gamma, audio)
  assert sum(p.size for p in jax.tree.leaves(params)) == count


def test_starts_by_predicting_nothing():
  unet = UNet(**ONE_LEVEL)
  x, gamma, audio = batch()
  params = jax.jit(unet.init)(jax.random.key(1), x, gamma, audio)
  np.testing.assert_array_equal(jax.jit(unet.apply)(params, x, gamma, audio), np.zeros((2, 8, 8, 3)))


def test_pictures_of_a_batch_do_not_meet_and_every_parameter_learns():
  unet, params = small(noise_embedding='log_snr')
  gradients = jax.jit(jax.grad(lambda *args: jnp.square(unet.apply(*args)[0]).sum(), argnums=(0, 1, 2, 3)))
  of_params, *of_inputs = gradients(params, *batch())
  for path, leaf in jax.tree.leaves_with_path(of_params):
    assert jnp.abs(leaf).max() > 0, jax.tree_util.keystr(path)
  for leaf in of_inputs:
    assert jnp.abs(leaf[0]).max() > 0
    assert jnp.abs(leaf[1:]).max() == 0


def test_remat_changes_nothing():
  unet, params = small(**ONE_LEVEL)
  again = UNet(**ONE_LEVEL, remat=True)

  def loss(p, net):
    out = net.apply(p, *batch(), train=True, rngs={'dropout': jax.random.key(3)})
    return jnp.square(out).mean()

  value, gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, unet)
  value_again, gradient_again = jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, again)
  np.testing.assert_allclose(value, value_again, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), gradient, gradient_again)


def test_bfloat16_is_near_and_keeps_float32_parameters():
  unet, params = small()
  half = UNet(**SMALL, dtype=jnp.bfloat16)
  full, rough = (jax.jit(net.apply)(params, *batch()) for net in (unet, half))
  assert rough.dtype == jnp.float32
  assert jnp.abs(full - rough).max() < 0.05 * jnp.abs(full).max()
  made = jax.eval_shape(half.init, jax.random.key(0), *batch())
  assert {p.dtype for p in jax.tree.leaves(made)} == {jnp.dtype('float32')}


def test_patches_work_at_a_quarter_of_the_pixels():
  unet = UNet(**SMALL, patch_size=2)
  out, params = jax.eval_shape(unet.init_with_output, jax.random.key(0), *batch(size=16))
  assert out.shape == (2, 16, 16, 3)
  assert params['params']['conv_in']['kernel'].shape == (3, 3, 36, 32)
  x = jax.random.normal(jax.random.key(0), (2, 6, 4, 3))
  folded = space_to_depth(x, 2)
  np.testing.assert_array_equal(folded[1, 2, 1], x[1, 4:6, 2:4].reshape(-1))
  np.testing.assert_array_equal(depth_to_space(folded, 2), x)


def test_resizing():
  x = np.random.default_rng(0).standard_normal((2, 4, 6, 3)).astype(np.float32)
  np.testing.assert_array_equal(upsample(x), x.repeat(2, axis=1).repeat(2, axis=2))
  np.testing.assert_allclose(downsample(x)[1, 1, 2], x[1, 2:4, 4:6].mean((0, 1)), rtol=1e-5, atol=1e-6)


def test_sinusoid_is_unscaled():
  out = np.asarray(sinusoid(jnp.array([0.5]), 4))[0]
  np.testing.assert_allclose(out, [np.cos(0.5), np.cos(0.005), np.sin(0.5), np.sin(0.005)], rtol=1e-5)


def test_silent_unet_has_no_audio_parameters():
  x, gamma, _ = batch()
  params = jax.eval_shape(UNet(**SMALL).init, jax.random.key(0), x, gamma)['params']
  assert 'embed_audio' not in params and 'film_1' not in params['middle_block_0']


def test_says_which_pictures_fit():
  with pytest.raises(ValueError, match='multiples of 2'):
    UNet(**SMALL).init(jax.random.key(0), *batch(size=7))
  with pytest.raises(ValueError, match='noise_embedding'):
    UNet(**SMALL, noise_embedding='t').init(jax.random.key(0), *batch())

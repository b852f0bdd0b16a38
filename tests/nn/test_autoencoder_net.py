"""Autoencoders: scaling, optional attention, folded pixels, the codebook and its gradient, several decoded latents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax.nn.autoencoder import Autoencoder, straight_through
from talkjax.nn.conv import conv3x3
from talkjax.training.sharding import path_name
from tests.micro import random_params

KEY = jax.random.key(0)
TINY = dict(widths=(8, 16), layers=1, groups=4, latent_channels=3)


def noise(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def made(net, size=8):
  """Random parameters and images."""
  images = noise(0, 2, size, size, 3)
  return random_params(jax.eval_shape(net.init, KEY, images)['params']), images


def test_latents_are_scaled_and_scaled_back():
  net = Autoencoder(**TINY, scaling=0.5)
  images = noise(0, 1, 16, 16, 3)
  params = net.init(KEY, images)
  mean, logvar = net.apply(params, images, method='moments')
  np.testing.assert_allclose(net.apply(params, images, method='encode'), 0.5 * mean, rtol=1e-6)
  encode = jax.jit(lambda key: net.apply(params, images, key, method='encode'))
  samples = jnp.stack([encode(jax.random.key(i)) for i in range(200)])
  np.testing.assert_allclose(samples.std(0), 0.5 * jnp.exp(0.5 * logvar), rtol=0.5)
  unscaled = Autoencoder(**TINY, scaling=1.0).apply(params, mean, method='decode')
  np.testing.assert_allclose(net.apply(params, 0.5 * mean, method='decode'), unscaled, atol=1e-6)


def test_a_fresh_posterior_is_narrow():
  """Or an untrained decoder would see noise only."""
  net, images = Autoencoder(**TINY), noise(0, 1, 8, 8, 3)
  logvar = net.apply(net.init(KEY, images), images, method='moments')[1]
  assert logvar.max() < 0


@pytest.mark.parametrize('folding', [1, 2])
@pytest.mark.parametrize('shortcut', [False, True])
def test_sizes(folding, shortcut):
  net = Autoencoder(**TINY, folding=folding, shortcut=shortcut)
  params, images = made(net)
  assert net.factor == 2 * folding
  side = 8 // net.factor
  latents = net.apply({'params': params}, images, method='encode')
  assert latents.shape == (2, side, side, 3)
  assert net.apply({'params': params}, latents, method='decode').shape == images.shape


def test_the_shortcut_is_linear_in_the_folded_pixels():
  """With all else zero, a patch is reconstructed from three of its pixels."""
  net = Autoencoder(**TINY, folding=2, shortcut=True, scaling=1.0)
  params, images = made(net)
  params = jax.tree.map(jnp.zeros_like, params)
  first = jnp.eye(48)[:, :3]
  params['encoder']['shortcut']['kernel'] = jnp.pad(first, ((0, 0), (0, 3)))
  params['decoder']['shortcut']['kernel'] = first.T
  for name, size in (('quant_conv', 6), ('post_quant_conv', 3)):
    params[name]['kernel'] = jnp.eye(size)
  made_images = net.apply({'params': params}, images)
  kept = jnp.zeros_like(images).at[:, ::4, ::4].set(images[:, ::4, ::4])
  np.testing.assert_allclose(made_images, kept, atol=1e-5)


def test_attention_only_where_the_layout_has_it():
  def attentions(**fields):
    shapes = jax.eval_shape(Autoencoder(**TINY, **fields).init, KEY, jnp.zeros((1, 8, 8, 3)))['params']
    names = {path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(shapes)}
    return sorted(n.removesuffix('/to_q/kernel') for n in names if n.endswith('to_q/kernel'))

  assert attentions(middle_attention=False) == []
  middle = ['decoder/mid_block/attentions_0', 'encoder/mid_block/attentions_0']
  assert attentions() == middle
  levels = [
    'decoder/up_blocks_0_attentions_0',
    'decoder/up_blocks_0_attentions_1',
    'encoder/down_blocks_1_attentions_0',
  ]
  assert attentions(attention=(False, True)) == sorted(middle + levels)


def test_the_nearest_code_is_found_and_passes_its_gradient_through():
  net = Autoencoder(**TINY, codebook=5, scaling=1.0)
  params, _ = made(net)
  codes = params['quantize_embedding']['embedding']
  latents = noise(4, 2, 3, 3, 3)
  vectors, indices = net.apply({'params': params}, latents, method='quantise')
  nearest = np.square(np.asarray(latents)[..., None, :] - np.asarray(codes)).sum(-1).argmin(-1)
  np.testing.assert_array_equal(indices, nearest)
  np.testing.assert_array_equal(vectors, np.asarray(codes)[nearest])
  np.testing.assert_allclose(straight_through(latents, vectors), vectors, atol=1e-6)
  weights = noise(5, *latents.shape)
  gradient = jax.grad(
    lambda z: jnp.sum(weights * straight_through(z, net.apply({'params': params}, z, method='quantise')[0]))
  )
  np.testing.assert_array_equal(gradient(latents), weights)
  decode = lambda z: net.apply({'params': params}, z, method='decode')
  np.testing.assert_allclose(decode(latents), decode(vectors), atol=1e-4)


def test_the_decoder_may_read_a_reference_too():
  """FD2Talk's first convolution (eq. 13) is one of both latents, concatenated; it begins as the plain one."""
  one, two = Autoencoder(**TINY), Autoencoder(**TINY, decoded=2)
  wide, images = made(two)
  latents = one.apply({'params': wide}, images, method='encode')
  reference = noise(7, *latents.shape)
  decode = lambda net, params, z: net.apply({'params': params}, z, method='decode')
  pair = jnp.concatenate([reference, latents], axis=-1)

  parts = [wide['decoder'].pop(name) for name in ('conv_in', 'conv_in_reference')]
  kernel = jnp.concatenate([parts[1]['kernel'], parts[0]['kernel']], axis=2)
  both = jnp.concatenate([z @ wide['post_quant_conv']['kernel'] for z in (reference, latents)], -1) / one.scaling
  both += jnp.tile(wide['post_quant_conv']['bias'], 2)
  concatenated = conv3x3(both, kernel) + parts[0]['bias'] + parts[1]['bias']
  apart = [conv3x3(x, p['kernel']) + p['bias'] for x, p in zip(jnp.split(both, 2, -1), parts[::-1])]
  np.testing.assert_allclose(sum(apart), concatenated, atol=1e-4)

  wide['decoder']['conv_in'] = parts[0]
  plain = decode(one, wide, latents)
  silent = {**wide['decoder'], 'conv_in_reference': jax.tree.map(jnp.zeros_like, parts[1])}
  np.testing.assert_array_equal(decode(two, {**wide, 'decoder': silent}, pair), plain)
  wide['decoder']['conv_in_reference'] = parts[1]
  assert np.abs(decode(two, wide, pair) - plain).max() > 0.01

"""guided-diffusion's variants of the U-Net, its classifier, and the published sizes of both."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax.nn.guided_unet import POOLS, AttentionPool, NoisyClassifier, concatenate_low_resolution
from talkjax.nn.unet import ResBlock, UNet
from talkjax.weights import guided_diffusion
from tests.micro import random_params

SMALL = {'width': 32, 'multipliers': (1, 2), 'attention_downsamples': (2,), 'num_res_blocks': 1, 'head_channels': 16}


@pytest.mark.parametrize('case', ['guided_unet', 'guided_encoder_unet', 'mm_diffusion_sr'])
def test_names_and_shapes_are_the_published_ones(case, goldens):
  """The conversion is strict, so every entry has found its parameter."""
  described = json.loads((goldens / f'{case}.json').read_text())
  flags = described['config'].get('flags', described['config'])
  state = {name: np.broadcast_to(np.float32(0), shape) for name, shape in described['state'].items()}
  params, about = guided_diffusion.convert(state, flags, case)
  assert sum(p.size for p in jax.tree.leaves(params)) == described['params']
  assert ('classifier' in about) == (case == 'guided_encoder_unet')


def test_without_scale_and_shift_the_condition_is_added():
  block = ResBlock(64, scale_shift=False)
  x, c = jax.random.normal(jax.random.key(0), (2, 4, 4, 64)), jax.random.normal(jax.random.key(1), (2, 8))
  params = random_params(jax.eval_shape(lambda k: block.init(k, x, (c,), False), jax.random.key(0)))
  assert params['params']['film_0']['kernel'].shape == (8, 64)
  # What the condition's projection adds, the first convolution's bias can add as well.
  moved = jax.tree.map(jnp.asarray, params)
  added = c[0] @ moved['params']['film_0']['kernel'] + moved['params']['film_0']['bias']
  moved['params']['conv_0']['bias'] += added
  moved['params']['film_0'] = jax.tree.map(jnp.zeros_like, moved['params']['film_0'])
  run = jax.jit(lambda p: block.apply(p, x, (c,), False))
  np.testing.assert_allclose(run(params)[0], run(moved)[0], rtol=1e-4, atol=1e-4)
  assert np.abs(run(params)[1] - run(moved)[1]).max() > 0.1


def test_classes_heads_and_resizing_by_convolutions():
  unet = UNet(6, **SMALL, num_classes=3, heads=(4, 2), resize_blocks=False, noise_embedding='timestep')
  x, t = jax.random.normal(jax.random.key(0), (3, 8, 8, 3)), jnp.array([5.0, 5.0, 900.0])
  x = x.at[1].set(x[0])
  init = lambda key: unet.init(key, x, t, labels=jnp.array([0, 1, 2]))
  params = random_params(jax.eval_shape(init, jax.random.key(0)))
  assert params['params']['down_0_shrink']['conv']['kernel'].shape == (3, 3, 32, 32)
  run = jax.jit(lambda labels: unet.apply(params, x, t, labels=labels))
  out, same = run(jnp.array([0, 1, 2])), run(jnp.array([0, 0, 2]))
  assert out.shape == (3, 8, 8, 6)
  np.testing.assert_array_equal(out[2], same[2])
  np.testing.assert_allclose(same[0], same[1], rtol=1e-4, atol=1e-5)
  assert np.abs(out[0] - out[1]).max() > 1e-3
  with pytest.raises(ValueError, match='labels are missing, but num_classes is 3'):
    unet.init(jax.random.key(0), x, t)


def classifier(pool):
  net = NoisyClassifier(
    UNet(**SMALL, decoder=False, noise_embedding='timestep', dropout=0.0), 5, pool, head_channels=16
  )
  x, t = jax.random.normal(jax.random.key(0), (2, 8, 8, 3)), jnp.array([5.0, 900.0])
  return net, random_params(jax.eval_shape(net.init, jax.random.key(0), x, t)), x, t


@pytest.mark.parametrize('pool', POOLS)
def test_pools_give_logits_of_each_image_alone(pool):
  net, params, x, t = classifier(pool)
  gradient = jax.jit(jax.grad(lambda x: net.apply(params, x, t)[0].sum()))(x)
  assert jnp.abs(gradient[0]).max() > 0 and jnp.abs(gradient[1]).max() == 0
  assert jax.eval_shape(net.apply, params, x, t).shape == (2, 5)


def test_an_unknown_pool_is_named():
  with pytest.raises(ValueError, match="pool 'mean': expected one of attention, adaptive, spatial, spatial_v2"):
    classifier('mean')


def test_attention_pool_against_plain_arithmetic():
  pool, x = AttentionPool(3, head_channels=4), jax.random.normal(jax.random.key(0), (2, 2, 3, 8))
  params = random_params(jax.eval_shape(pool.init, jax.random.key(0), x))['params']
  p = jax.tree.map(np.float64, params)
  tokens = np.float64(x).reshape(2, 6, 8)
  tokens = np.concatenate([tokens.mean(1, keepdims=True), tokens], 1) + p['positional_embedding'].T
  q, k, v = np.split(tokens @ p['qkv_proj']['kernel'] + p['qkv_proj']['bias'], 3, axis=-1)
  heads = []
  for h in (slice(0, 4), slice(4, 8)):
    weights = np.exp(np.einsum('bd,bnd->bn', q[:, 0, h], k[..., h]) / 2)
    heads.append(np.einsum('bn,bnd->bd', weights / weights.sum(1, keepdims=True), v[..., h]))
  expected = np.concatenate(heads, -1) @ p['c_proj']['kernel'] + p['c_proj']['bias']
  np.testing.assert_allclose(pool.apply({'params': params}, x), expected, rtol=1e-4, atol=1e-5)


def test_the_small_image_is_upsampled_and_concatenated():
  x, small = jnp.zeros((1, 4, 4, 1)), jnp.array([0.0, 1.0]).reshape(1, 1, 2, 1)
  both = concatenate_low_resolution(x, small)
  np.testing.assert_allclose(both[0, 2, :, 1], [0, 0.25, 0.75, 1])  # bilinear, pixel centres aligned
  np.testing.assert_array_equal(both[..., 0], 0)

"""Residual blocks and batch normalisation against the arithmetic of their definitions."""

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.nn.hopenet import Hopenet
from talkjax.nn.norm import BatchNorm
from talkjax.nn.resnet import ResNet


def random_params(net, *inputs):
  shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs)['params']
  leaves, tree = jax.tree.flatten(shapes)
  r = np.random.default_rng(0)
  # Variances are positive.
  return tree.unflatten([np.abs(r.normal(size=x.shape, scale=0.3)).astype(np.float32) for x in leaves])


def test_batch_norm():
  x = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
  params = random_params(BatchNorm(1e-3), x)
  got = BatchNorm(1e-3).apply({'params': params}, x)
  p = params
  wanted = (x - p['running_mean']) / np.sqrt(p['running_var'] + 1e-3) * p['scale'] + p['bias']
  np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_names_are_those_of_torchvision():
  net = ResNet((1, 2), width=4)
  params = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))['params']
  assert set(params) == {'conv1', 'bn1', 'layer1_0', 'layer2_0', 'layer2_1'}
  assert 'downsample_0' in params['layer2_0'] and 'downsample_0' not in params['layer2_1']
  assert params['layer2_0']['conv2']['kernel'].shape == (3, 3, 8, 8)
  assert params['layer1_0']['conv3']['kernel'].shape == (1, 1, 4, 16)


def test_angles_are_expectations_over_bins():
  net = Hopenet((1, 1, 1, 1), bins=5)
  images = np.random.default_rng(2).integers(0, 256, (2, 224, 224, 3)).astype(np.float32)
  angles, made = net.apply({'params': random_params(net, images)}, images)
  for i, name in enumerate(('yaw', 'pitch', 'roll')):
    logits = np.asarray(made[name], np.float64)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    np.testing.assert_allclose(angles[:, i], p @ np.arange(5) * 3 - 99, rtol=1e-5)

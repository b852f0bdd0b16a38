"""LPIPS v0.1, the perceptual distance of two images (Zhang et al. 2018): AlexNet's or VGG-16's features, linear heads.

Modules are named as published: the trunk as in torchvision, the heads as in the package `lpips`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

# Of images in [-1, 1], the mean and the standard deviation that the trunks were trained with.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
# Layers of a trunk: (index, channels, kernel, stride, padding) of a convolution and its ReLU, or 'pool', (window,
# stride); 'tap' where a head reads.
_VGG_STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
TRUNKS = {
  'alex': (
    *((0, 64, 11, 4, 2), 'tap', ('pool', 3), (3, 192, 5, 1, 2), 'tap', ('pool', 3)),
    *((6, 384, 3, 1, 1), 'tap', (8, 256, 3, 1, 1), 'tap', (10, 256, 3, 1, 1), 'tap'),
  ),
  'vgg': tuple(
    layer
    for stage, (indices, width) in enumerate(zip(_VGG_STAGES, (64, 128, 256, 512, 512)))
    for layer in (*([('pool', 2)] if stage else []), *((i, width, 3, 1, 1) for i in indices), 'tap')
  ),
}


class LPIPS(nn.Module):
  """The distance of two images: squared differences of normalised features, weighted by channel.

  Attributes:
    net: of TRUNKS.
  """

  net: str = 'alex'

  def setup(self):
    for layer in TRUNKS[self.net]:
      if isinstance(layer[0], int):
        i, width, kernel, stride, padding = layer
        setattr(self, f'features_{i}', nn.Conv(width, (kernel, kernel), (stride, stride), padding))
    for i in range(self._count):
      setattr(self, f'lin{i}_model_1', nn.Dense(1, use_bias=False))

  @property
  def _count(self) -> int:
    return TRUNKS[self.net].count('tap')

  def features(self, images: jax.Array) -> list[jax.Array]:
    """The trunk's features after the ReLUs that heads read: of images [b, h, w, 3] in [-1, 1], [b, h', w', c] each."""
    x, taps = (images.astype(jnp.float32) - jnp.array(SHIFT)) / jnp.array(SCALE), []
    for layer in TRUNKS[self.net]:
      if layer == 'tap':
        taps.append(x)
      elif layer[0] == 'pool':
        x = nn.max_pool(x, (layer[1], layer[1]), (2, 2))
      else:
        x = nn.relu(getattr(self, f'features_{layer[0]}')(x))
    return taps

  def distances(self, a: jax.Array, b: jax.Array) -> jax.Array:
    """The distance in each layer, [layers, b]; arguments as of `__call__`."""
    layers = []
    for i, (x, y) in enumerate(zip(self.features(a), self.features(b))):
      head = getattr(self, f'lin{i}_model_1')
      layers.append(head(jnp.square(_normalised(x) - _normalised(y))).mean((1, 2, 3)))
    return jnp.stack(layers)

  def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
    """The distances [b] of images [b, h, w, 3] in [-1, 1]."""
    return self.distances(a, b).sum(0)


def _normalised(x: jax.Array) -> jax.Array:
  """Features of unit norm over the channels. The published norm has no gradient where all channels are 0."""
  square = jnp.sum(jnp.square(x), -1, keepdims=True)
  norm = jnp.sqrt(jnp.where(square > 0, square, 1.0))
  return x / (jnp.where(square > 0, norm, 0.0) + 1e-10)

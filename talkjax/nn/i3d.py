"""Inflated 3D ConvNet (Carreira and Zisserman 2017) for Kinetics-400, whose logits define the Fréchet video distance.

Names and arithmetic are those of the PyTorch port that `i3d_pretrained_400.pt` belongs to.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.norm import BatchNorm

SIZE = 224  # pixels
# (features of b0, b1a, b1b, b2a, b2b, b3b) of the blocks, and where the resolution is halved before them.
_BLOCKS = {
  'Mixed_3b': (64, 96, 128, 16, 32, 32),
  'Mixed_3c': (128, 128, 192, 32, 96, 64),
  'MaxPool3d_4a_3x3': ((3, 3, 3), (2, 2, 2)),
  'Mixed_4b': (192, 96, 208, 16, 48, 64),
  'Mixed_4c': (160, 112, 224, 24, 64, 64),
  'Mixed_4d': (128, 128, 256, 24, 64, 64),
  'Mixed_4e': (112, 144, 288, 32, 64, 64),
  'Mixed_4f': (256, 160, 320, 32, 128, 128),
  'MaxPool3d_5a_2x2': ((2, 2, 2), (2, 2, 2)),
  'Mixed_5b': (256, 160, 320, 32, 128, 128),
  'Mixed_5c': (384, 192, 384, 48, 128, 128),
}


class I3D(nn.Module):
  """Logits of a clip.

  Attributes:
    classes: of them.
  """

  classes: int = 400

  @nn.compact
  def __call__(self, video: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(logits [b, classes], the activations by name) of clips [b, f, h, w, 3] RGB, 0 to 255, of 9 frames or more."""
    b, f = video.shape[:2]
    x = jax.image.resize(video, (b, f, SIZE, SIZE, 3), 'linear', antialias=False)
    x = 2 * x / 255 - 1
    made = {'resized': x}

    def keep(name, value):
      made[name] = value
      return value

    x = keep('Conv3d_1a_7x7', Unit(64, 7, 2, name='Conv3d_1a_7x7')(x))
    x = keep('MaxPool3d_2a_3x3', nn.max_pool(x, (1, 3, 3), (1, 2, 2), 'SAME'))
    x = keep('Conv3d_2b_1x1', Unit(64, 1, name='Conv3d_2b_1x1')(x))
    x = keep('Conv3d_2c_3x3', Unit(192, 3, name='Conv3d_2c_3x3')(x))
    x = keep('MaxPool3d_3a_3x3', nn.max_pool(x, (1, 3, 3), (1, 2, 2), 'SAME'))
    for name, sizes in _BLOCKS.items():
      x = keep(name, Mixed(sizes, name=name)(x) if name.startswith('Mixed') else nn.max_pool(x, *sizes, 'SAME'))
    x = nn.avg_pool(x, (2, 7, 7), (1, 1, 1))
    x = nn.Conv(self.classes, (1, 1, 1), name='logits_conv3d')(x)
    return jnp.mean(x, axis=(1, 2, 3)), made


class Unit(nn.Module):
  """Convolution of a cube, batch normalisation and ReLU; padded as TensorFlow does."""

  features: int
  size: int
  stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, f, h, w, i] -> [b, f', h', w', features]."""
    x = nn.Conv(self.features, (self.size,) * 3, self.stride, padding='SAME', use_bias=False, name='conv3d')(x)
    return nn.relu(BatchNorm(name='bn')(x))


class Mixed(nn.Module):
  """Four branches: 1x1x1, two of 3x3x3, and maxima."""

  sizes: tuple[int, ...]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, f, h, w, i] -> [b, f, h, w, o]."""
    b0, b1a, b1b, b2a, b2b, b3b = self.sizes
    one = Unit(b0, 1, name='b0')(x)
    first = Unit(b1b, 3, name='b1b')(Unit(b1a, 1, name='b1a')(x))
    second = Unit(b2b, 3, name='b2b')(Unit(b2a, 1, name='b2a')(x))
    pool = Unit(b3b, 1, name='b3b')(nn.max_pool(x, (3, 3, 3), (1, 1, 1), 'SAME'))
    return jnp.concatenate([one, first, second, pool], -1)

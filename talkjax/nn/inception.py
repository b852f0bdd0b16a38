"""InceptionV3 as the Fréchet inception distance defines it: pytorch-fid's port of the weights of 2015.

Names are those of torchvision, from which it differs in the pooling branches: averages leave out the padding, and the
last block takes maxima.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.norm import BatchNorm

SIZE = 299  # pixels
EPSILON = 1e-3
FEATURES = 2048


class InceptionV3(nn.Module):
  """The trunk up to the average over the pixels ("pool3").

  Attributes:
    resize: to SIZE pixels, bilinearly and without low-pass filter.
    normalize: input in [0, 1] to [-1, 1].
  """

  resize: bool = True
  normalize: bool = True

  @nn.compact
  def __call__(self, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """[b, h, w, 3] RGB in [0, 1] -> (features [b, FEATURES], the activations by name of their block)."""
    x = images
    if self.resize:
      x = jax.image.resize(x, (len(x), SIZE, SIZE, 3), 'linear', antialias=False)
    if self.normalize:
      x = 2 * x - 1
    made = {'resized': x}
    x = Unit(32, (3, 3), 2, name='Conv2d_1a_3x3')(x)
    x = Unit(32, (3, 3), name='Conv2d_2a_3x3')(x)
    x = Unit(64, (3, 3), padding=1, name='Conv2d_2b_3x3')(x)
    made['block0'] = x = _max_pool(x)
    x = Unit(80, (1, 1), name='Conv2d_3b_1x1')(x)
    x = Unit(192, (3, 3), name='Conv2d_4a_3x3')(x)
    made['block1'] = x = _max_pool(x)
    for name, pooled in (('Mixed_5b', 32), ('Mixed_5c', 64), ('Mixed_5d', 64)):
      made[name] = x = BlockA(pooled, name=name)(x)
    made['Mixed_6a'] = x = BlockB(name='Mixed_6a')(x)
    for name, width in (('Mixed_6b', 128), ('Mixed_6c', 160), ('Mixed_6d', 160), ('Mixed_6e', 192)):
      made[name] = x = BlockC(width, name=name)(x)
    made['block2'] = x
    made['Mixed_7a'] = x = BlockD(name='Mixed_7a')(x)
    made['Mixed_7b'] = x = BlockE(False, name='Mixed_7b')(x)
    made['Mixed_7c'] = x = BlockE(True, name='Mixed_7c')(x)
    return jnp.mean(x, axis=(1, 2)), made


class Unit(nn.Module):
  """Convolution, batch normalisation and ReLU."""

  features: int
  size: tuple[int, int]
  stride: int = 1
  padding: int | tuple[tuple[int, int], ...] = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, i] -> [b, h', w', features]."""
    x = nn.Conv(self.features, self.size, self.stride, padding=self.padding, use_bias=False, name='conv')(x)
    return nn.relu(BatchNorm(EPSILON, name='bn')(x))


class BlockA(nn.Module):
  """1x1, 5x5, two 3x3, and average pooling."""

  pooled: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, i] -> [b, h, w, 224 + pooled]."""
    one = Unit(64, (1, 1), name='branch1x1')(x)
    five = Unit(64, (5, 5), padding=2, name='branch5x5_2')(Unit(48, (1, 1), name='branch5x5_1')(x))
    double = Unit(64, (1, 1), name='branch3x3dbl_1')(x)
    double = Unit(96, (3, 3), padding=1, name='branch3x3dbl_2')(double)
    double = Unit(96, (3, 3), padding=1, name='branch3x3dbl_3')(double)
    pool = Unit(self.pooled, (1, 1), name='branch_pool')(_average(x))
    return jnp.concatenate([one, five, double, pool], -1)


class BlockB(nn.Module):
  """Half the resolution, by 3x3 convolutions and by maxima."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, i] -> [b, h', w', 480 + i]."""
    three = Unit(384, (3, 3), 2, name='branch3x3')(x)
    double = Unit(64, (1, 1), name='branch3x3dbl_1')(x)
    double = Unit(96, (3, 3), padding=1, name='branch3x3dbl_2')(double)
    double = Unit(96, (3, 3), 2, name='branch3x3dbl_3')(double)
    return jnp.concatenate([three, double, _max_pool(x)], -1)


class BlockC(nn.Module):
  """1x1, 7x7 in factors, twice that, and average pooling."""

  width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, i] -> [b, h, w, 768]."""
    row, column = {'size': (1, 7), 'padding': ((0, 0), (3, 3))}, {'size': (7, 1), 'padding': ((3, 3), (0, 0))}
    one = Unit(192, (1, 1), name='branch1x1')(x)
    seven = Unit(self.width, (1, 1), name='branch7x7_1')(x)
    seven = Unit(self.width, **row, name='branch7x7_2')(seven)
    seven = Unit(192, **column, name='branch7x7_3')(seven)
    double = Unit(self.width, (1, 1), name='branch7x7dbl_1')(x)
    for i, (width, shape) in enumerate([(self.width, column), (self.width, row), (self.width, column), (192, row)]):
      double = Unit(width, **shape, name=f'branch7x7dbl_{i + 2}')(double)
    pool = Unit(192, (1, 1), name='branch_pool')(_average(x))
    return jnp.concatenate([one, seven, double, pool], -1)


class BlockD(nn.Module):
  """Half the resolution, by 3x3 and 7x7 convolutions and by maxima."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, i] -> [b, h', w', 512 + i]."""
    three = Unit(320, (3, 3), 2, name='branch3x3_2')(Unit(192, (1, 1), name='branch3x3_1')(x))
    seven = Unit(192, (1, 1), name='branch7x7x3_1')(x)
    seven = Unit(192, (1, 7), padding=((0, 0), (3, 3)), name='branch7x7x3_2')(seven)
    seven = Unit(192, (7, 1), padding=((3, 3), (0, 0)), name='branch7x7x3_3')(seven)
    seven = Unit(192, (3, 3), 2, name='branch7x7x3_4')(seven)
    return jnp.concatenate([three, seven, _max_pool(x)], -1)


class BlockE(nn.Module):
  """1x1, 3x3 in two directions, two 3x3, and pooling: by maxima in the last block, by averages in the one before."""

  maxima: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, i] -> [b, h, w, FEATURES]."""

    def directions(y, name):
      row = Unit(384, (1, 3), padding=((0, 0), (1, 1)), name=f'{name}a')(y)
      return row, Unit(384, (3, 1), padding=((1, 1), (0, 0)), name=f'{name}b')(y)

    one = Unit(320, (1, 1), name='branch1x1')(x)
    three = directions(Unit(384, (1, 1), name='branch3x3_1')(x), 'branch3x3_2')
    double = Unit(384, (3, 3), padding=1, name='branch3x3dbl_2')(Unit(448, (1, 1), name='branch3x3dbl_1')(x))
    double = directions(double, 'branch3x3dbl_3')
    pooled = nn.max_pool(x, (3, 3), (1, 1), [(1, 1), (1, 1)]) if self.maxima else _average(x)
    pool = Unit(192, (1, 1), name='branch_pool')(pooled)
    return jnp.concatenate([one, *three, *double, pool], -1)


def _max_pool(x):
  return nn.max_pool(x, (3, 3), (2, 2))


def _average(x):
  return nn.avg_pool(x, (3, 3), (1, 1), [(1, 1), (1, 1)], count_include_pad=False)

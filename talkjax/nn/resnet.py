"""The trunk of ResNet-50 and its relatives (He et al. 2016, with the stride on the 3x3 convolution), for inference.

Its blocks are bottlenecks of three convolutions, or of two in ResNet-18 and -34.

Names are those of torchvision, which Hopenet has at its top level and others under a prefix: `ResNet` is the trunk as a
module, `resnet_features` the same inside the compact method of another module.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.norm import BatchNorm

EXPANSION = 4  # output channels of a bottleneck over its width


def resnet_features(
  x: jax.Array, layers: tuple[int, ...] = (3, 4, 6, 3), width: int = 64, basic: bool = False
) -> dict[str, jax.Array]:
  """The activations after each stage; to be called in the compact method of the module that has the parameters.

  Args:
    x: [b, h, w, 3], normalised images.
    layers: blocks in each stage.
    width: of the first stage's blocks; it doubles from stage to stage.
    basic: blocks of two convolutions (ResNet-18 and -34) instead of bottlenecks.

  Returns:
    `maxpool` and `layer1`, `layer2`, ...: [b, h', w', c].
  """
  x = nn.Conv(width, (7, 7), 2, padding=3, use_bias=False, name='conv1')(x)
  x = nn.relu(BatchNorm(name='bn1')(x))
  x = nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
  stages = {'maxpool': x}
  for stage, count in enumerate(layers):
    for i in range(count):
      stride = 2 if stage and not i else 1
      block = Basic if basic else Bottleneck
      changes = not i and (stage > 0 or not basic)  # of size or channels
      x = block(width * 2**stage, stride, changes, name=f'layer{stage + 1}_{i}')(x)
    stages[f'layer{stage + 1}'] = x
  return stages


class Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 convolutions with a residual connection, which is a convolution where shapes change."""

  width: int
  stride: int
  downsample: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, i] -> [b, h / stride, w / stride, EXPANSION * width]."""
    out = EXPANSION * self.width
    conv = lambda features, size, stride, name: nn.Conv(
      features, (size, size), stride, padding=size // 2, use_bias=False, name=name
    )
    y = nn.relu(BatchNorm(name='bn1')(conv(self.width, 1, 1, 'conv1')(x)))
    y = nn.relu(BatchNorm(name='bn2')(conv(self.width, 3, self.stride, 'conv2')(y)))
    y = BatchNorm(name='bn3')(conv(out, 1, 1, 'conv3')(y))
    if self.downsample:
      x = BatchNorm(name='downsample_1')(conv(out, 1, self.stride, 'downsample_0')(x))
    return nn.relu(x + y)


class Basic(nn.Module):
  """Two 3x3 convolutions with a residual connection, which is a convolution where shapes change."""

  width: int
  stride: int
  downsample: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, i] -> [b, h / stride, w / stride, width]."""
    conv = lambda size, stride, name: nn.Conv(
      self.width, (size, size), stride, padding=size // 2, use_bias=False, name=name
    )
    y = nn.relu(BatchNorm(name='bn1')(conv(3, self.stride, 'conv1')(x)))
    y = BatchNorm(name='bn2')(conv(3, 1, 'conv2')(y))
    if self.downsample:
      x = BatchNorm(name='downsample_1')(conv(1, self.stride, 'downsample_0')(x))
    return nn.relu(x + y)


class ResNet(nn.Module):
  """The trunk as a module, with a dense layer of `classes` if there are any."""

  layers: tuple[int, ...] = (3, 4, 6, 3)
  width: int = 64
  basic: bool = False
  classes: int = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
    """[b, h, w, 3] -> `resnet_features`, `pool` [b, c], the mean of the last over its pixels, and `fc` [b, classes]."""
    made = resnet_features(x, self.layers, self.width, self.basic)
    made['pool'] = jnp.mean(made[f'layer{len(self.layers)}'], axis=(1, 2))
    return made | ({'fc': nn.Dense(self.classes, name='fc')(made['pool'])} if self.classes else {})

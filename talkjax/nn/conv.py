"""3x3 convolutions and the resizing around them, NHWC."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Same-size 3x3 convolution: x [b, h, w, i], kernel [3, 3, i, o] -> [b, h, w, o]."""
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def shrink(x: jax.Array) -> jax.Array:
  """The mean of every 2x2 pixels: [b, h, w, c] -> [b, h/2, w/2, c]."""
  b, h, w, c = x.shape
  return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4)).astype(x.dtype)


def grow(x: jax.Array) -> jax.Array:
  """Every pixel as 2x2: [b, h, w, c] -> [b, 2h, 2w, c]."""
  b, h, w, c = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
  return x.reshape(b, 2 * h, 2 * w, c)


def space_to_depth(x: jax.Array, size: int) -> jax.Array:
  """Patches into channels: [b, h, w, c] -> [b, h/size, w/size, size*size*c]."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h // size, w // size, size * size * c)


def depth_to_space(x: jax.Array, size: int) -> jax.Array:
  """The inverse of `space_to_depth`: [b, h, w, size*size*c] -> [b, h*size, w*size, c]."""
  b, h, w, c = x.shape
  x = x.reshape(b, h, w, size, size, c // size**2).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h * size, w * size, c // size**2)


class Conv3x3(nn.Module):
  """3x3 convolution with bias; parameters are float32, the arithmetic is `dtype`."""

  features: int
  dtype: Any = jnp.float32
  kernel_init: Callable = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, i] -> [b, h, w, features]."""
    kernel = self.param('kernel', self.kernel_init, (3, 3, x.shape[-1], self.features), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
    return conv3x3(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)

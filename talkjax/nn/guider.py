"""The encoder of spatial conditions: face regions and keypoint images."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Guider(nn.Module):
  """A small convolutional encoder of a spatial condition (a face region, drawn keypoints).

  Its output is added to a U-Net's first features. Each further width halves the resolution; the last convolution is
  zero-initialised. V-Express's V-Kps guider has this layout, and so do the published face locators after EMO's
  section 3.2.

  Attributes:
    features: output channels.
    widths: of the convolutions.
    dtype: of the computation.
  """

  features: int
  widths: tuple[int, ...] = (16, 32, 96, 256)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [b, h / 8, w / 8, features] (with four widths)."""
    conv = lambda features, stride, name: nn.Conv(features, (3, 3), (stride, stride), 1, dtype=self.dtype, name=name)
    x = nn.silu(conv(self.widths[0], 1, 'conv_in')(x))
    for i, (narrow, wide) in enumerate(zip(self.widths, self.widths[1:])):
      x = nn.silu(conv(narrow, 1, f'blocks_{2 * i}')(x))
      x = nn.silu(conv(wide, 2, f'blocks_{2 * i + 1}')(x))
    return nn.Conv(self.features, (3, 3), 1, 1, kernel_init=nn.initializers.zeros, dtype=self.dtype, name='conv_out')(x)

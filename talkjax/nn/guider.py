"""Small networks that make conditions: pictures to features at the latents' size, sound to tokens, speed to tokens."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

_ZERO = nn.initializers.zeros  # what is added to a trained network starts as nothing


class Guider(nn.Module):
  """Light convolutions from a picture (a face region, keypoints) to what is added to a U-Net's first features.

  Each further width halves the picture; the last convolution starts at zero. The layout is that of V-Express's V-Kps
  guider and of the face locators that follow EMO's section 3.2.

  Attributes:
    features: channels out.
    widths: of the convolutions.
    dtype: of the arithmetic.
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
    return nn.Conv(self.features, (3, 3), 1, 1, kernel_init=_ZERO, dtype=self.dtype, name='conv_out')(x)


class AudioTokens(nn.Module):
  """The sound around a frame as tokens: three dense layers, the last one split into tokens and normed.

  Attributes:
    tokens: tokens a frame.
    features: channels of a token.
    hidden: channels between.
    dtype: of the arithmetic.
  """

  tokens: int = 32
  features: int = 768
  hidden: int = 512
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, d] -> [b, tokens, features]."""
    for i in range(2):
      x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name=f'dense_{i}')(x))
    x = nn.Dense(self.tokens * self.features, dtype=self.dtype, name='dense_2')(x)
    x = x.reshape(x.shape[0], self.tokens, self.features)
    return nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name='norm')(x)


def speed_buckets(speed: jax.Array, centres: tuple[float, ...], radii: tuple[float, ...]) -> jax.Array:
  """tanh(3 (speed - centre) / radius) for each bucket (EMO section 3.2): [...] in degrees/s -> [..., buckets]."""
  return jnp.tanh(3 * (speed[..., None] - np.asarray(centres, np.float32)) / np.asarray(radii, np.float32))


class SpeedTokens(nn.Module):
  """The head's speed around a frame as a token: two dense layers."""

  features: int = 256
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., d] -> [..., features]."""
    x = nn.silu(nn.Dense(self.features, dtype=self.dtype, name='dense_0')(x))
    return nn.Dense(self.features, dtype=self.dtype, name='dense_1')(x)


def windows(x: jax.Array, margin: int) -> jax.Array:
  """Every frame's features with those of `margin` frames on each side: [b, f + 2 margin, d] -> [b, f, (2m + 1) d]."""
  count = x.shape[1] - 2 * margin
  return jnp.concatenate([x[:, i : i + count] for i in range(2 * margin + 1)], axis=-1)

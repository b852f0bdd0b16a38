"""Small networks that make conditions: pictures to features at the latents' size, sound to tokens, speed to tokens."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from talkjax.nn.attention import attention

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


class Resampler(nn.Module):
  """A few learned queries that read a window of sound: V-Express's audio projection, called Q-Former there.

  A perceiver resampler (Alayrac et al. 2022, Flamingo, section 3.1): in each layer the queries attend to the window and
  to themselves, then pass a feed-forward layer. Places in the window are told by a learned table. Named as published.

  Attributes:
    features: channels inside.
    out_features: channels of a token.
    queries: tokens made.
    layers: how many.
    heads, head_features: of the attentions.
    expansion: hidden channels of the feed-forward layers, in `features`.
    length: longest window.
    dtype: of the arithmetic.
  """

  features: int = 768
  out_features: int = 768
  queries: int = 5
  layers: int = 4
  heads: int = 12
  head_features: int = 64
  expansion: int = 4
  length: int = 10
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, n, d] with n <= length -> [b, queries, out_features]."""
    b, n, d = x.shape
    dense = lambda features, name, bias=False: nn.Dense(features, bias, dtype=self.dtype, name=name)
    norm = lambda name: nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=self.dtype, name=name)
    normal = nn.initializers.normal(self.features**-0.5)
    x = x + nn.Embed(self.length, d, dtype=self.dtype, name='pos_emb')(jnp.arange(n))
    x = dense(self.features, 'proj_in', True)(x)
    latents = self.param('latents', normal, (1, self.queries, self.features), jnp.float32)
    latents = jnp.broadcast_to(latents, (b, self.queries, self.features)).astype(self.dtype)
    split = lambda a: a.reshape(b, a.shape[1], self.heads, self.head_features)
    inner = self.heads * self.head_features
    for i in range(self.layers):
      told = norm(f'layers_{i}_0_norm1')(x)
      asked = norm(f'layers_{i}_0_norm2')(latents)
      kv = dense(2 * inner, f'layers_{i}_0_to_kv')(jnp.concatenate([told, asked], axis=1))
      k, v = jnp.split(kv, 2, axis=-1)
      y = attention(split(dense(inner, f'layers_{i}_0_to_q')(asked)), split(k), split(v))
      latents = latents + dense(self.features, f'layers_{i}_0_to_out')(y.reshape(b, self.queries, inner))
      y = norm(f'layers_{i}_1_0')(latents)
      y = jax.nn.gelu(dense(self.expansion * self.features, f'layers_{i}_1_1')(y), approximate=False)
      latents = latents + dense(self.features, f'layers_{i}_1_3')(y)
    return norm('norm_out')(dense(self.out_features, 'proj_out', True)(latents))


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


def two_a_frame(features, frames: int):
  """Features of a whole sound, [n, d], as two for each frame of its video, [frames, 2 d] (V-Express section 2.2).

  Linear interpolation between the middles of what each stands for; the ends are held. Arrays of NumPy stay such.
  """
  n = features.shape[0]
  place = (np.arange(2 * frames) + 0.5) * (n / (2 * frames)) - 0.5
  place = np.clip(place, 0, n - 1)
  before = np.floor(place).astype(int)
  share = (place - before)[:, None].astype(features.dtype)
  after = features[np.minimum(before + 1, n - 1)]
  return (features[before] * (1 - share) + after * share).reshape(frames, -1)


def windows(x: jax.Array, margin: int) -> jax.Array:
  """Every frame's features with those of `margin` frames on each side: [b, f + 2 margin, d] -> [b, f, (2m + 1) d]."""
  count = x.shape[1] - 2 * margin
  return jnp.concatenate([x[:, i : i + count] for i in range(2 * margin + 1)], axis=-1)

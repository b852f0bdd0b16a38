"""Attention layers, feed-forward layers and the transformer blocks of latent U-Nets, in space and in time.

Modules are named as in diffusers (`attn1`, `to_q`, `to_out_0`, `ff/net_0/proj`), list indices joined by '_', so that
published checkpoints import by name (`talkjax.weights.fit.fit`).
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from talkjax.nn.attention import attention
from talkjax.nn.norm import GroupNorm

# What a spatial block may attend to besides its own pixels, and the names of the norm and the attention. Contexts with
# the same names take the same place in a block: a network has one of them.
CONTEXTS = {
  'reference': ('norm1_5', 'attn1_5'),  # features of another network, by layer
  'text': ('norm2', 'attn2'),
  'audio': ('norm2', 'attn2'),
  'motion': ('norm2', 'attn2'),
  'appearance': ('norm2_5', 'attn2_5'),  # an image as a sequence, see `ImageTokens`
}


class Attention(nn.Module):
  """Multi-head self-attention, or cross-attention to a context.

  Attributes:
    heads: number of heads; channels must be a multiple of it.
    bias: q, k and v have one (the output projection always does).
    zero: the output projection is zero-initialised.
    dtype: of the computation.
  """

  heads: int
  bias: bool = False
  zero: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    context: jax.Array | None = None,
    kv: tuple[jax.Array, jax.Array] | None = None,
    mask: jax.Array | np.ndarray | None = None,
  ) -> jax.Array:
    """Attends.

    Args:
      x: [b, n, c] queries.
      context: [b', m, d] for cross-attention; with b' < b each entry is shared by b / b' consecutive entries of x.
      kv: the precomputed keys and values of a context, [b', m, c] each (see `keys_and_values`).
      mask: [n, m] bool, True where a query attends to a key; only with one context for each entry of x.

    Returns:
      [b, n, c].
    """
    b, n, c = x.shape
    dense = lambda name: nn.Dense(c, self.bias, dtype=self.dtype, name=name)
    q = dense('to_q')(x)
    if kv is None:
      context = x if context is None else context
      kv = dense('to_k')(context), dense('to_v')(context)
    shared = b // kv[0].shape[0]
    q = q.reshape(b // shared, shared * n, self.heads, -1)
    k, v = (a.astype(self.dtype).reshape(*a.shape[:2], self.heads, -1) for a in kv)
    y = attention(q, k, v, mask=mask).reshape(b, n, c)
    init = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
    return nn.Dense(c, dtype=self.dtype, kernel_init=init, name='to_out_0')(y)


def keys_and_values(params: Mapping, context: jax.Array, dtype=jnp.float32) -> tuple[jax.Array, jax.Array]:
  """Keys and values [b, m, c] of a context [b, m, d] for an `Attention` without biases."""
  return tuple(context.astype(dtype) @ params[name]['kernel'].astype(dtype) for name in ('to_k', 'to_v'))


class GEGLU(nn.Module):
  """value * gelu(gate), both linear in x, with the exact GELU."""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., c] -> [..., features]."""
    value, gate = jnp.split(nn.Dense(2 * self.features, dtype=self.dtype, name='proj')(x), 2, axis=-1)
    return value * jax.nn.gelu(gate, approximate=False)


class FeedForward(nn.Module):
  """GEGLU with four times the channels, then a projection back."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., c] -> [..., c]."""
    c = x.shape[-1]
    return nn.Dense(c, dtype=self.dtype, name='net_2')(GEGLU(4 * c, self.dtype, name='net_0')(x))


def scale_batch(x: jax.Array, scale) -> jax.Array:
  """x [b, ...] times a number, or times one number per entry [b]."""
  return x * jnp.reshape(jnp.asarray(scale, x.dtype), (-1, *[1] * (x.ndim - 1)))


def layer_norm(name: str, dtype) -> nn.LayerNorm:
  return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=dtype, name=name)


class SpatialBlock(nn.Module):
  """x += self-attention; x += attention to each context; x += feed-forward; each reads the normalised x.

  Attributes:
    heads: of every attention.
    contexts: names in CONTEXTS, in the order in which they are attended to.
    zero_contexts: the output projections of context attention are zero-initialised.
    dtype: of the computation.
  """

  heads: int
  contexts: tuple[str, ...] = ('text',)
  zero_contexts: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, contexts: Mapping[str, Any], scales: Mapping[str, jax.Array]):
    """Transforms tokens.

    Args:
      x: [b, n, c].
      contexts: by name, tokens [b', m, d] or their (k, v), see `Attention`; an absent context is skipped.
      scales: by name, the factor of that attention's output (1 where absent): a number, or [b].

    Returns:
      ([b, n, c], [b, n, c]): the output, and the normalised input of the last context attention, which another
      network's 'reference' attention reads.
    """
    x = x + Attention(self.heads, dtype=self.dtype, name='attn1')(layer_norm('norm1', self.dtype)(x))
    feature = None
    for context in self.contexts:
      norm, name = CONTEXTS[context]
      feature = layer_norm(norm, self.dtype)(x)
      if context in contexts:
        value = contexts[context]
        value = {'kv': value} if isinstance(value, tuple) else {'context': value}
        y = Attention(self.heads, zero=self.zero_contexts, dtype=self.dtype, name=name)(feature, **value)
        x = x + scale_batch(y, scales.get(context, 1.0))
    x = x + FeedForward(self.dtype, name='ff')(layer_norm('norm3', self.dtype)(x))
    return x, feature


class SpatialTransformer(nn.Module):
  """GroupNorm, projection, one `SpatialBlock` over the pixels of each image, projection, residual."""

  heads: int
  contexts: tuple[str, ...] = ('text',)
  zero_contexts: bool = False
  groups: int = 32
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, contexts: Mapping[str, Any], scales: Mapping[str, jax.Array]):
    """x [b, h, w, c] -> ([b, h, w, c], features [b, h * w, c]); see `SpatialBlock`."""
    b, h, w, c = x.shape
    y = GroupNorm(self.groups, 1e-6, name='norm')(x).reshape(b, h * w, c)
    y = nn.Dense(c, dtype=self.dtype, name='proj_in')(y)
    block = SpatialBlock(self.heads, self.contexts, self.zero_contexts, self.dtype, name='transformer_blocks_0')
    y, feature = block(y, contexts, scales)
    return x + nn.Dense(c, dtype=self.dtype, name='proj_out')(y).reshape(x.shape), feature


def positions(length: int, channels: int) -> np.ndarray:
  """Sinusoidal table [length, channels]: sines in even, cosines in odd channels."""
  angles = np.arange(length)[:, None] * np.exp(np.arange(0, channels, 2) * (-math.log(10_000.0) / channels))
  return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(length, -1)[:, :channels].astype(np.float32)


class ImageTokens(nn.Module):
  """An image as a sequence: a token for each pixel, linear in its channels, plus a positional encoding.

  The first half of the encoding's channels is that of the row, the second that of the column.

  Attributes:
    features: channels of a token, even.
    dtype: of the computation.
  """

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [b, h * w, features]."""
    b, h, w, _ = x.shape
    rows, columns = positions(h, self.features // 2), positions(w, self.features // 2)
    table = np.concatenate([np.repeat(rows, w, axis=0), np.tile(columns, (h, 1))], axis=-1)
    x = nn.Dense(self.features, dtype=self.dtype, name='proj')(x.reshape(b, h * w, -1))
    return x + jnp.asarray(table, x.dtype)


class TemporalBlock(nn.Module):
  """x += attention over frames, `layers` times; x += speed attention; x += feed-forward; each of normalised x."""

  heads: int
  layers: int = 2
  speed: bool = False
  zero_speed: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, speed: jax.Array | None = None) -> jax.Array:
    """x [b, n, f, c] (f frames of n pixels), speed [b, m, d] tokens -> [b, n, f, c]."""
    b, n, f, c = x.shape
    table = jnp.asarray(positions(f, c), self.dtype)
    for i in range(self.layers):
      y = (layer_norm(f'norms_{i}', self.dtype)(x) + table).reshape(b * n, f, c)
      x = x + Attention(self.heads, dtype=self.dtype, name=f'attention_blocks_{i}')(y).reshape(x.shape)
    if self.speed and speed is not None:
      y = layer_norm('speed_norm', self.dtype)(x) + table  # positions let a frame attend to its own speed
      tokens = speed + jnp.asarray(positions(speed.shape[1], speed.shape[2]), speed.dtype)
      attend = Attention(self.heads, zero=self.zero_speed, dtype=self.dtype, name='speed_attention')
      y = attend(y.reshape(b, n * f, c), tokens)
      x = x + y.reshape(x.shape)
    return x + FeedForward(self.dtype, name='ff')(layer_norm('ff_norm', self.dtype)(x))


class TemporalTransformer(nn.Module):
  """AnimateDiff's motion module: each pixel attends over the frames of its clip.

  GroupNorm per frame, projection, blocks, zero-initialised projection, residual.

  Attributes:
    heads: of every attention.
    blocks: number of blocks.
    layers: temporal attentions in a block.
    max_frames: longest clip, motion frames included (the published v1 has 24, v2 32).
    speed: blocks attend to speed tokens too.
    zero_speed: the output projections of speed attention are zero-initialised.
    groups: of the GroupNorm.
    dtype: of the computation.
  """

  heads: int = 8
  blocks: int = 1
  layers: int = 2
  max_frames: int = 24
  speed: bool = False
  zero_speed: bool = True
  groups: int = 32
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, frames: int, motion_features: jax.Array | None = None, speed: jax.Array | None = None
  ) -> jax.Array:
    """Attends over time.

    Args:
      x: [b * frames, h, w, c].
      frames: per clip.
      motion_features: [b, k, h, w, c] of the k frames before the clip, attended to as its first frames.
      speed: [b, m, d] tokens.

    Returns:
      [b * frames, h, w, c].

    Raises:
      ValueError: more frames than `max_frames`.
    """
    _, h, w, c = x.shape
    y = x.reshape(-1, frames, h, w, c)
    b = y.shape[0]
    if motion_features is not None:
      y = jnp.concatenate([motion_features.astype(y.dtype), y], axis=1)
    f = y.shape[1]
    if f > self.max_frames:
      raise ValueError(f'{f} frames in a temporal layer made for {self.max_frames}')
    y = GroupNorm(self.groups, 1e-6, name='norm')(y.reshape(b * f, h, w, c))
    y = nn.Dense(c, dtype=self.dtype, name='proj_in')(y).reshape(b, f, h * w, c).swapaxes(1, 2)
    for i in range(self.blocks):
      block = TemporalBlock(
        self.heads, self.layers, self.speed, self.zero_speed, self.dtype, name=f'transformer_blocks_{i}'
      )
      y = block(y, speed)
    y = y[:, :, f - frames :].swapaxes(1, 2).reshape(x.shape)
    return x + nn.Dense(c, dtype=self.dtype, kernel_init=nn.initializers.zeros, name='proj_out')(y)

"""The wav2vec 2.0 encoder (Baevski et al., 2020): a waveform to features 50 times a second, from every layer."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from talkjax.nn.attention import attention


class Wav2Vec2(nn.Module):
  """Strided convolutions over the waveform, then a transformer. Defaults: the base size.

  Two published layouts: 'base' (GroupNorm after the first convolution only, layers normed after their sums) and, with
  `stable`, 'large' (LayerNorm after every convolution, layers normed before, once more at the end).

  Attributes:
    width: channels of the transformer.
    layers: transformer layers.
    heads: of every attention.
    hidden: channels inside the feed-forward layers.
    conv_widths, conv_kernels, conv_strides: of the convolutions.
    conv_bias: whether they have one.
    conv_norm: 'group' or 'layer'.
    position_kernel, position_groups: of the convolution that tells positions.
    stable: layers are normed before, not after.
    epsilon: of the LayerNorms.
    dtype: of the arithmetic.
  """

  width: int = 768
  layers: int = 12
  heads: int = 12
  hidden: int = 3072
  conv_widths: tuple[int, ...] = (512,) * 7
  conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
  conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
  conv_bias: bool = False
  conv_norm: str = 'group'
  position_kernel: int = 128
  position_groups: int = 16
  stable: bool = False
  epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, waveform: jax.Array, samples: jax.Array | None = None) -> tuple[jax.Array, ...]:
    """Hidden states of a waveform.

    Args:
      waveform: [b, s] at 16 kHz, normalised (`talkjax.media.audio.normalised`).
      samples: how many of the s count; the rest only fills a shape that is compiled already.

    Returns:
      layers + 1 arrays [b, t, width], `num_features(s)` long: what enters the first layer, and what leaves each. The
      last one is what transformers calls last_hidden_state. With `samples` the first `num_features(samples)` are what
      they are of such a shorter waveform, the others mean nothing.
    """
    x = waveform[..., None].astype(self.dtype)
    count = samples  # of what counts in x
    for i, (features, kernel, stride) in enumerate(
      zip(self.conv_widths, self.conv_kernels, self.conv_strides, strict=True)
    ):
      name = f'feature_extractor_conv_layers_{i}'
      conv = nn.Conv(features, kernel, stride, 'VALID', use_bias=self.conv_bias, dtype=self.dtype, name=f'{name}_conv')
      x = conv(x)
      count = None if count is None else (count - kernel) // stride + 1
      if self.conv_norm == 'layer':
        x = self._norm(f'{name}_layer_norm', 1e-5)(x)
      elif i == 0:
        x = ChannelNorm(name=f'{name}_layer_norm')(x, count)
      x = _gelu(x)
    x = self._norm('feature_projection_layer_norm')(x)
    x = nn.Dense(self.width, dtype=self.dtype, name='feature_projection_projection')(x)
    if count is not None:
      x = jnp.where((jnp.arange(x.shape[1]) < count)[:, None], x, 0)
    half = self.position_kernel // 2
    place = nn.Conv(
      self.width,
      (self.position_kernel,),
      padding=[(half, half - 1 + self.position_kernel % 2)],  # of an even kernel the last frame is dropped
      feature_group_count=self.position_groups,
      dtype=self.dtype,
      name='encoder_pos_conv_embed_conv',
    )
    x = x + _gelu(place(x))
    states = []
    if not self.stable:
      x = self._norm('encoder_layer_norm')(x)
    for i in range(self.layers):
      states.append(x)
      layer = Layer(self.heads, self.hidden, self.stable, self.epsilon, self.dtype, name=f'encoder_layers_{i}')
      x = layer(x, count)
    if self.stable:
      x = self._norm('encoder_layer_norm')(x)
    return (*states, x)

  def _norm(self, name, epsilon=None):
    return _layer_norm(name, epsilon or self.epsilon, self.dtype)

  def num_features(self, samples: int) -> int:
    """How many features `samples` of sound give (0 if they are too few)."""
    for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
      samples = max(0, (samples - kernel) // stride + 1)
    return samples


def in_pieces(net: Wav2Vec2, listen: Callable, sound: np.ndarray, seconds: int = 64) -> Iterator[np.ndarray]:
  """What a sound of any length makes of the encoder, of which few lengths are compiled.

  Args:
    net: the encoder.
    listen: (waveform [1, s], samples) -> [1, t, ...], see `Wav2Vec2`.
    sound: normalised, [s].
    seconds: that are heard at once; of more, pieces that 2 seconds further on both sides are heard with.

  Yields:
    [t, ...], `num_features(s)` rows in all.
  """
  rate, hop = 16_000, math.prod(net.conv_strides)
  piece, beside = seconds * rate, 2 * rate
  if len(sound) <= piece:
    ends = [(0, len(sound), 0, None)]
  else:
    body = piece - 2 * beside
    ends = [(max(0, i - beside), min(i + body + beside, len(sound)), min(i, beside), body)
            for i in range(0, len(sound) - hop, body)]  # fmt: skip
  for first, last, skipped, body in ends:
    # Lengths of 2, 4, ... seconds.
    filled = 2 ** math.ceil(math.log2(max(2, (last - first) / rate))) * rate
    states = listen(np.pad(sound[None, first:last], ((0, 0), (0, filled - last + first))), last - first)
    states = np.asarray(states)[0, skipped // hop : net.num_features(last - first)]
    yield states if body is None else states[: body // hop]


class Layer(nn.Module):
  """Self-attention and a feed-forward layer, each with its residual and LayerNorm."""

  heads: int
  hidden: int
  stable: bool
  epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, count: jax.Array | None = None) -> jax.Array:
    """[b, t, c] -> [b, t, c]; the first `count` of t are attended to."""
    b, t, c = x.shape
    dense = lambda features, name: nn.Dense(features, dtype=self.dtype, name=name)

    def attend(x):
      q, k, v = (dense(c, f'attention_{n}_proj')(x).reshape(b, t, self.heads, -1) for n in 'qkv')
      if count is not None:
        q, k, v = hide_keys(q, k, v, count)
      y = attention(q, k, v)[..., : c // self.heads]
      return dense(c, 'attention_out_proj')(y.reshape(b, t, c))

    def feed_forward(x):
      return dense(c, 'feed_forward_output_dense')(_gelu(dense(self.hidden, 'feed_forward_intermediate_dense')(x)))

    for part, name in ((attend, 'layer_norm'), (feed_forward, 'final_layer_norm')):
      norm = _layer_norm(name, self.epsilon, self.dtype)
      x = x + part(norm(x)) if self.stable else norm(x + part(x))
    return x


def hide_keys(q: jax.Array, k: jax.Array, v: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Queries, keys and values [b, t, heads, d] whose attention reads the first `count` keys alone.

  Eight channels more, so that every kind of attention can do it: of the first every query has 1, and keys behind have
  so little that their weight is 0.
  """
  d, extra = q.shape[-1], 8
  wide = [(0, 0)] * 3 + [(0, extra)]
  far = jnp.where(jnp.arange(k.shape[1]) < count, 0.0, -1e5).astype(k.dtype)
  q = jnp.pad(q * ((d + extra) / d) ** 0.5, wide).at[..., d].set(1)
  return q, jnp.pad(k, wide).at[..., d].set(far[:, None]), jnp.pad(v, wide)


class ChannelNorm(nn.Module):
  """Normalises every channel over time (a GroupNorm with one channel a group)."""

  @nn.compact
  def __call__(self, x: jax.Array, count: jax.Array | None = None) -> jax.Array:
    """[b, t, c] -> [b, t, c] of x's type, by the statistics of the first `count` of t; the arithmetic is float32."""
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],), jnp.float32)
    y = x.astype(jnp.float32)
    counts = None if count is None else (jnp.arange(x.shape[1]) < count)[:, None]
    mean, var = (f(y, axis=1, keepdims=True, where=counts) for f in (jnp.mean, jnp.var))
    y = (y - mean) * jax.lax.rsqrt(var + 1e-5)
    return (y * scale + bias).astype(x.dtype)


def _layer_norm(name, epsilon, dtype):
  return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, dtype=dtype, name=name)


def _gelu(x):
  return jax.nn.gelu(x, approximate=False)

"""The wav2vec 2.0 encoder (Baevski et al., 2020): a waveform to features 50 times a second, from every layer."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

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
  def __call__(self, waveform: jax.Array) -> tuple[jax.Array, ...]:
    """Hidden states of a waveform.

    Args:
      waveform: [b, s] at 16 kHz, normalised (`talkjax.media.audio.normalised`).

    Returns:
      layers + 1 arrays [b, t, width], `num_features(s)` long: what enters the first layer, and what leaves each. The
      last one is what transformers calls last_hidden_state.
    """
    x = waveform[..., None].astype(self.dtype)
    for i, (features, kernel, stride) in enumerate(
      zip(self.conv_widths, self.conv_kernels, self.conv_strides, strict=True)
    ):
      name = f'feature_extractor_conv_layers_{i}'
      conv = nn.Conv(features, kernel, stride, 'VALID', use_bias=self.conv_bias, dtype=self.dtype, name=f'{name}_conv')
      x = conv(x)
      if self.conv_norm == 'layer':
        x = self._norm(f'{name}_layer_norm', 1e-5)(x)
      elif i == 0:
        x = ChannelNorm(name=f'{name}_layer_norm')(x)
      x = _gelu(x)
    x = self._norm('feature_projection_layer_norm')(x)
    x = nn.Dense(self.width, dtype=self.dtype, name='feature_projection_projection')(x)
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
      x = layer(x)
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


class Layer(nn.Module):
  """Self-attention and a feed-forward layer, each with its residual and LayerNorm."""

  heads: int
  hidden: int
  stable: bool
  epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, t, c] -> [b, t, c]."""
    b, t, c = x.shape
    dense = lambda features, name: nn.Dense(features, dtype=self.dtype, name=name)

    def attend(x):
      q, k, v = (dense(c, f'attention_{n}_proj')(x).reshape(b, t, self.heads, -1) for n in 'qkv')
      return dense(c, 'attention_out_proj')(attention(q, k, v).reshape(b, t, c))

    def feed_forward(x):
      return dense(c, 'feed_forward_output_dense')(_gelu(dense(self.hidden, 'feed_forward_intermediate_dense')(x)))

    for part, name in ((attend, 'layer_norm'), (feed_forward, 'final_layer_norm')):
      norm = _layer_norm(name, self.epsilon, self.dtype)
      x = x + part(norm(x)) if self.stable else norm(x + part(x))
    return x


class ChannelNorm(nn.Module):
  """Normalises every channel over time (a GroupNorm with one channel a group)."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, t, c] -> [b, t, c] of x's type; the arithmetic is float32."""
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],), jnp.float32)
    y = x.astype(jnp.float32)
    y = (y - y.mean(1, keepdims=True)) * jax.lax.rsqrt(y.var(1, keepdims=True) + 1e-5)
    return (y * scale + bias).astype(x.dtype)


def _layer_norm(name, epsilon, dtype):
  return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, dtype=dtype, name=name)


def _gelu(x):
  return jax.nn.gelu(x, approximate=False)

"""The wav2vec 2.0 encoder (Baevski et al., 2020): waveform to features of every layer at 50 per second."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.attention import attention


class Wav2Vec2(nn.Module):
  """Strided convolutions over the waveform, then a transformer. The defaults are the base size.

  There are two published layouts: 'base' (GroupNorm after the first convolution only, post-norm layers) and, with
  `stable`, 'large' (LayerNorm after every convolution, pre-norm layers and a final LayerNorm).

  Attributes:
    width: channels of the transformer.
    layers: transformer layers.
    heads: attention heads per layer.
    hidden: channels inside the feed-forward layers.
    conv_widths, conv_kernels, conv_strides: of the convolutions.
    conv_bias: whether the convolutions have a bias.
    conv_norm: 'group' or 'layer'.
    position_kernel, position_groups: of the convolutional position embedding.
    stable: pre-norm instead of post-norm layers.
    epsilon: of the LayerNorms.
    dtype: of the computation.
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
      waveform: [b, s] at 16 kHz, normalised (`talkjax.media.mel.normalised`).
      samples: number of valid samples; the rest of s is padding (to a shape that is already compiled).

    Returns:
      layers + 1 arrays [b, t, width] with t = num_features(s): the input of the first layer and the output of every
      layer. The last is last_hidden_state of Hugging Face transformers. With `samples`, the first
      `num_features(samples)` features equal those of the unpadded waveform; the others are undefined.
    """
    x = waveform[..., None].astype(self.dtype)
    count = samples  # valid steps of x
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
    position_embedding = nn.Conv(
      self.width,
      (self.position_kernel,),
      padding=[(half, half - 1 + self.position_kernel % 2)],  # an even kernel drops the last frame
      feature_group_count=self.position_groups,
      dtype=self.dtype,
      name='encoder_pos_conv_embed_conv',
    )
    x = x + _gelu(position_embedding(x))
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
    """The number of features of a waveform of `samples` (0 if it is too short)."""
    for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
      samples = max(0, (samples - kernel) // stride + 1)
    return samples


class Layer(nn.Module):
  """A transformer layer: self-attention and a feed-forward network, each with residual connection and LayerNorm."""

  heads: int
  hidden: int
  stable: bool
  epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, count: jax.Array | None = None) -> jax.Array:
    """[b, t, c] -> [b, t, c]; only the first `count` steps of t are attended to."""
    b, t, c = x.shape
    dense = lambda features, name: nn.Dense(features, dtype=self.dtype, name=name)

    def attend(x):
      q, k, v = (dense(c, f'attention_{n}_proj')(x).reshape(b, t, self.heads, -1) for n in 'qkv')
      if count is not None:
        q, k, v = mask_keys(q, k, v, count)
      y = attention(q, k, v)[..., : c // self.heads]
      return dense(c, 'attention_out_proj')(y.reshape(b, t, c))

    def feed_forward(x):
      return dense(c, 'feed_forward_output_dense')(_gelu(dense(self.hidden, 'feed_forward_intermediate_dense')(x)))

    for branch, name in ((attend, 'layer_norm'), (feed_forward, 'final_layer_norm')):
      norm = _layer_norm(name, self.epsilon, self.dtype)
      x = x + branch(norm(x)) if self.stable else norm(x + branch(x))
    return x


def mask_keys(q: jax.Array, k: jax.Array, v: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Pads queries, keys and values [b, t, heads, d] so that their attention reads only the first `count` keys.

  Masking by eight extra channels works with every attention implementation: the first extra channel is 1 in every
  query, and in masked keys so negative that their attention weight is 0.
  """
  d, extra = q.shape[-1], 8
  padding = [(0, 0)] * 3 + [(0, extra)]
  bias = jnp.where(jnp.arange(k.shape[1]) < count, 0.0, -1e5).astype(k.dtype)
  q = jnp.pad(q * ((d + extra) / d) ** 0.5, padding).at[..., d].set(1)
  return q, jnp.pad(k, padding).at[..., d].set(bias[:, None]), jnp.pad(v, padding)


class ChannelNorm(nn.Module):
  """Normalises every channel over time (GroupNorm with one channel per group)."""

  @nn.compact
  def __call__(self, x: jax.Array, count: jax.Array | None = None) -> jax.Array:
    """[b, t, c] -> [b, t, c] of x's dtype, with statistics of the first `count` steps of t; computed in float32."""
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],), jnp.float32)
    y = x.astype(jnp.float32)
    valid = None if count is None else (jnp.arange(x.shape[1]) < count)[:, None]
    mean, var = (f(y, axis=1, keepdims=True, where=valid) for f in (jnp.mean, jnp.var))
    y = (y - mean) * jax.lax.rsqrt(var + 1e-5)
    return (y * scale + bias).astype(x.dtype)


def _layer_norm(name, epsilon, dtype):
  return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, dtype=dtype, name=name)


def _gelu(x):
  return jax.nn.gelu(x, approximate=False)

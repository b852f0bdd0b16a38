"""From audio features to tokens for cross-attention, and the windows of features around each frame."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.attention import attention


class AudioProjection(nn.Module):
  """The audio features around a frame as tokens: three dense layers, the output split into tokens and normalised.

  Attributes:
    tokens: tokens per frame.
    features: channels of a token.
    hidden: channels of the hidden layers.
    dtype: of the computation.
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
  """Learned queries that attend to a window of audio features: V-Express's audio projection, called Q-Former there.

  A perceiver resampler (Alayrac et al. 2022, Flamingo, section 3.1): in each layer the queries attend to the window and
  to themselves, followed by a feed-forward layer. Positions in the window have learned embeddings. Modules are named as
  in the published checkpoint.

  Attributes:
    features: hidden channels.
    out_features: channels of a token.
    queries: number of output tokens.
    layers: number of layers.
    heads, head_features: of the attention.
    expansion: hidden channels of the feed-forward layers, as a multiple of `features`.
    length: longest window.
    dtype: of the computation.
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
      context = norm(f'layers_{i}_0_norm1')(x)
      queries = norm(f'layers_{i}_0_norm2')(latents)
      kv = dense(2 * inner, f'layers_{i}_0_to_kv')(jnp.concatenate([context, queries], axis=1))
      k, v = jnp.split(kv, 2, axis=-1)
      y = attention(split(dense(inner, f'layers_{i}_0_to_q')(queries)), split(k), split(v))
      latents = latents + dense(self.features, f'layers_{i}_0_to_out')(y.reshape(b, self.queries, inner))
      y = norm(f'layers_{i}_1_0')(latents)
      y = jax.nn.gelu(dense(self.expansion * self.features, f'layers_{i}_1_1')(y), approximate=False)
      latents = latents + dense(self.features, f'layers_{i}_1_3')(y)
    return norm('norm_out')(dense(self.out_features, 'proj_out', True)(latents))


def frame_windows(x: jax.Array, margin: int) -> jax.Array:
  """Each frame's features concatenated with its neighbours': [b, f + 2m, d] -> [b, f, (2m + 1) d], m = margin."""
  count = x.shape[1] - 2 * margin
  return jnp.concatenate([x[:, i : i + count] for i in range(2 * margin + 1)], axis=-1)

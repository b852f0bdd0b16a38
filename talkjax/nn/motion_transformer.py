"""A diffusion transformer over a sequence of motion coefficients, conditioned on the sound of the same frames."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from talkjax.nn.embedding import sinusoid
from talkjax.nn.transformer import Attention, FeedForward, layer_norm, positions
from talkjax.nn.unet import MLP


def alignment_mask(queries: int, keys: int, radius: int) -> np.ndarray:
  """FD2Talk eq. 4, bool [queries, keys]: frame j attends to the sound of frame i if j - radius <= i <= j + radius."""
  return np.abs(np.arange(queries)[:, None] - np.arange(keys)) <= radius


class MotionBlock(nn.Module):
  """x += self-attention; x += attention to the condition; x += feed-forward; each reads the normalised x.

  Attributes:
    heads: of both attentions.
    radius: of the alignment mask in frames; None: a frame attends to the sound of all frames.
    dtype: of the computation.
  """

  heads: int
  radius: int | None = 3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
    """x [b, f, c], condition [b, f, d], one per frame -> [b, f, c]."""
    frames = x.shape[1]
    mask = None if self.radius is None else alignment_mask(frames, frames, self.radius)
    x = x + Attention(self.heads, dtype=self.dtype, name='attn1')(layer_norm('norm1', self.dtype)(x))
    attend = Attention(self.heads, dtype=self.dtype, name='attn2')
    x = x + attend(layer_norm('norm2', self.dtype)(x), condition, mask=mask)
    return x + FeedForward(self.dtype, name='ff')(layer_norm('norm3', self.dtype)(x))


class MotionTransformer(nn.Module):
  """Predicts the clean coefficients of a clip from noisy ones (FD2Talk section 3.2, Figure 2).

  The condition tau(c) of a frame is linear in the concatenation of the timestep's embedding and its audio features.
  Frames have sinusoidal positions, in the coefficients and in the condition.

  Attributes:
    width: channels.
    layers: blocks; the paper has 6.
    heads: of every attention.
    radius: k of eq. 4, see `MotionBlock`.
    dtype: of the computation.
  """

  width: int = 512
  layers: int = 6
  heads: int = 8
  radius: int | None = 3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, timestep: jax.Array, audio: jax.Array) -> jax.Array:
    """Noisy coefficients x [b, f, d], timestep [b], audio features [b, f, a] -> clean coefficients [b, f, d]."""
    b, f, d = x.shape
    dense = lambda features, name: nn.Dense(features, dtype=self.dtype, name=name)
    table = jnp.asarray(positions(f, self.width), self.dtype)
    time = MLP(self.width, self.dtype, name='time')(sinusoid(timestep, self.width))
    time = jnp.broadcast_to(time[:, None], (b, f, self.width))
    condition = dense(self.width, 'condition')(jnp.concatenate([time, audio.astype(self.dtype)], axis=-1)) + table
    x = dense(self.width, 'proj_in')(x) + table
    for i in range(self.layers):
      x = MotionBlock(self.heads, self.radius, self.dtype, name=f'blocks_{i}')(x, condition)
    return nn.Dense(d, name='proj_out')(layer_norm('norm_out', self.dtype)(x).astype(jnp.float32))

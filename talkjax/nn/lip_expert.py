"""A lip expert: embeds the motion of a mouth and the sound of the same frames, whose cosine says whether they agree.

The design of Wav2Lip's expert (arXiv 2008.10010, section 3.1), with the vertices of a mouth in place of images.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.dropout import Dropout
from talkjax.nn.transformer import layer_norm

FRAMES = 5  # that are embedded together, as in Wav2Lip


class Embedding(nn.Module):
  """Frames to a non-negative vector: a linear layer over all frames, residual layers, a linear layer, ReLU."""

  features: int
  width: int
  layers: int
  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """[b, f, d] -> [b, features]."""
    dense = lambda features, name: nn.Dense(features, dtype=self.dtype, name=name)
    x = dense(self.width, 'proj_in')(x.reshape(x.shape[0], -1))
    for i in range(self.layers):
      y = Dropout(self.dropout)(nn.gelu(layer_norm(f'norms_{i}', self.dtype)(x)), train)
      x = x + dense(self.width, f'layers_{i}')(y)
    x = nn.gelu(layer_norm('norm_out', self.dtype)(x))
    return nn.relu(dense(self.features, 'proj_out')(x).astype(jnp.float32))


class LipExpert(nn.Module):
  """The embeddings of mouths and of sounds.

  Attributes:
    features: of an embedding.
    width: channels of the hidden layers.
    layers: residual layers of each embedding.
    dropout: of the hidden layers.
    dtype: of the computation.
  """

  features: int = 512
  width: int = 512
  layers: int = 3
  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, mouth: jax.Array, audio: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
    """Mouths [b, 5, d] and audio features [b, 5, a] of the same frames -> their embeddings [b, features], >= 0."""
    embed = lambda name: Embedding(self.features, self.width, self.layers, self.dropout, self.dtype, name=name)
    return embed('mouth')(mouth, train), embed('audio')(audio, train)


def synchrony(mouth: jax.Array, audio: jax.Array, epsilon: float = 1e-8) -> jax.Array:
  """P_sync, FD2Talk eq. 10: the cosine of embeddings [..., d] -> [...], in [0, 1] where they are not negative."""
  norms = jnp.linalg.norm(mouth, axis=-1) * jnp.linalg.norm(audio, axis=-1)
  return jnp.sum(mouth * audio, axis=-1) / jnp.maximum(norms, epsilon)


def windows(x: jax.Array, size: int = FRAMES) -> jax.Array:
  """All windows of `size` consecutive frames: [b, f, d] -> [b, f - size + 1, size, d]."""
  count = x.shape[1] - size + 1
  return jnp.stack([x[:, i : i + count] for i in range(size)], axis=2)

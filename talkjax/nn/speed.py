"""The encoder of head speed."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from talkjax.nn.audio_projection import frame_windows


def speed_buckets(speed: jax.Array, centres: tuple[float, ...], radii: tuple[float, ...]) -> jax.Array:
  """tanh(3 (speed - centre) / radius) for each bucket (EMO section 3.2): [...] in degrees/s -> [..., buckets]."""
  return jnp.tanh(3 * (speed[..., None] - np.asarray(centres, np.float32)) / np.asarray(radii, np.float32))


class SpeedTokens(nn.Module):
  """The head's speed around a frame as a token: a bucketed encoding of each speed, then two dense layers.

  Attributes:
    features: channels of a token.
    centres, radii: of the buckets, degrees/s (EMO section 3.2).
    margin: neighbouring frames on each side whose speed is part of a token.
    dtype: of the computation.
  """

  features: int = 256
  centres: tuple[float, ...] = ()
  radii: tuple[float, ...] = ()
  margin: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, speed: jax.Array) -> jax.Array:
    """[b, f + 2 margin] degrees/s -> [b, f, features]."""
    x = frame_windows(speed_buckets(speed, self.centres, self.radii), self.margin)
    x = nn.silu(nn.Dense(self.features, dtype=self.dtype, name='dense_0')(x))
    return nn.Dense(self.features, dtype=self.dtype, name='dense_1')(x)

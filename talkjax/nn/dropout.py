"""Dropout that draws 8 instead of 32 random bits per activation."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Dropout(nn.Module):
  """Zeroes activations with probability `rate`, rounded to 1/256, and rescales the others by the rounded probability.

  On a CPU, drawing 32 bits per activation as nn.Dropout does takes as long as a convolution.
  """

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """x of any shape -> the same shape; needs the 'dropout' rng if `train` and the rate is not 0."""
    dropped = round(self.rate * 256)
    if not train or not dropped:
      return x
    words = -(-x.shape[-1] // 4)
    bits = jax.random.bits(self.make_rng('dropout'), (*x.shape[:-1], words), 'uint32')
    draws = jax.lax.bitcast_convert_type(bits, jnp.uint8).reshape(*x.shape[:-1], 4 * words)[..., : x.shape[-1]]
    return jnp.where(draws < dropped, 0, x * (256 / (256 - dropped))).astype(x.dtype)

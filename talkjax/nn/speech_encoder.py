"""A small speech encoder: log-mel spectrogram to features of mouth shapes, 50 per second."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class SpeechEncoder(nn.Module):
  """A residual temporal convolutional network.

  Silence is 0 in the input and gives 0: no layer has a bias, and every activation is 0 at 0. Nothing is padded: a
  feature depends on the same columns in a piece of sound as in the whole.

  Attributes:
    width: channels of the features.
    dilations: of the three-tap convolution of each residual block.
    dtype: of the computation.
  """

  width: int = 128
  dilations: tuple[int, ...] = (1, 2, 4, 8, 4)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, spectrogram: jax.Array) -> jax.Array:
    """[b, t + 2 context, bands] -> [b, t, width]; the spectrogram is 0 where there is no sound."""
    conv = lambda name, dilation=1: nn.Conv(
      self.width, (3,), 1, 'VALID', kernel_dilation=(dilation,), use_bias=False, dtype=self.dtype, name=name
    )
    x = conv('conv_in')(spectrogram.astype(self.dtype))
    for i, dilation in enumerate(self.dilations):
      y = nn.gelu(conv(f'block_{i}_conv', dilation)(_normalize(x)))
      x = x[:, dilation:-dilation] + nn.Dense(self.width, use_bias=False, dtype=self.dtype, name=f'block_{i}_dense')(y)
    return x

  @property
  def context(self) -> int:
    """Columns on each side that a feature depends on."""
    return 1 + sum(self.dilations)


def _normalize(x: jax.Array, epsilon: float = 1e-2) -> jax.Array:
  """Every feature vector at a root mean square of about one; what is nearly silent stays so."""
  return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon)

"""PatchGAN's discriminator (Isola et al. 2017), as VQGAN trains with it: real or made, for each patch of an image."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class PatchDiscriminator(nn.Module):
  """4x4 convolutions; modules are named as in taming-transformers (`main.N`).

  Attributes:
    width: channels of the first layer; they double up to eight times as many.
    layers: convolutions with stride 2.
    dtype: of the computation.
  """

  width: int = 64
  layers: int = 3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Images [b, h, w, 3] in [-1, 1] -> logits [b, h', w', 1], positive for real patches."""
    conv = lambda features, stride, index, bias=False: nn.Conv(
      features, (4, 4), (stride, stride), 1, use_bias=bias, dtype=self.dtype, name=f'main_{index}',
      kernel_init=nn.initializers.normal(0.02),
    )  # fmt: skip
    activate = lambda x: nn.leaky_relu(x, 0.2)
    x, index = activate(conv(self.width, 2, 0, bias=True)(x)), 2
    for n in range(1, self.layers + 1):
      x = conv(self.width * min(2**n, 8), 2 if n < self.layers else 1, index)(x)
      x = activate(BatchNorm(name=f'main_{index + 1}')(x))
      index += 3
    return conv(1, 1, index, bias=True)(x).astype(jnp.float32)


class BatchNorm(nn.Module):
  """Batch normalisation by the batch's own statistics: a discriminator is used in training only."""

  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [b, h, w, c]."""
    scale = self.param('scale', lambda rng, shape: 1 + 0.02 * jax.random.normal(rng, shape), (x.shape[-1],))
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],))
    y = x.astype(jnp.float32)
    mean, variance = y.mean((0, 1, 2)), y.var((0, 1, 2))
    return ((y - mean) / jnp.sqrt(variance + self.epsilon) * scale + bias).astype(x.dtype)

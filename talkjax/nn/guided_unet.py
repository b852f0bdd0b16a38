"""guided-diffusion's networks around the ADM U-Net: the noisy classifier and super-resolution (arXiv 2105.05233)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.attention import attention
from talkjax.nn.norm import GroupNorm
from talkjax.nn.unet import UNet

POOLS = ('attention', 'adaptive', 'spatial', 'spatial_v2')


class NoisyClassifier(nn.Module):
  """The encoder of a U-Net and a pool: class logits of noisy images (section 4.1, there called EncoderUNetModel).

  Attributes:
    unet: a U-Net with `decoder=False`.
    num_classes: logits.
    pool: 'attention' (one query attends to all positions of the middle's output), 'adaptive' (their mean), 'spatial'
      and 'spatial_v2' (an MLP of the means of every block's output).
    head_channels: of the attention pool.
    dtype: of the computation.
  """

  unet: UNet
  num_classes: int = 1000
  pool: str = 'attention'
  head_channels: int = 64
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, timesteps: jax.Array, train: bool = False) -> jax.Array:
    """x [b, h, w, c] in [-1, 1] noised, timesteps [b] -> logits [b, num_classes], float32.

    Raises:
      ValueError: unknown pool.
    """
    if self.pool not in POOLS:
      raise ValueError(f'pool {self.pool!r}: expected one of {", ".join(POOLS)}')
    features = self.unet(x, timesteps, train=train)
    dense = lambda width, name: nn.Dense(width, dtype=self.dtype, name=name)
    if self.pool == 'attention':
      y = GroupNorm(silu=True, name='out_0')(features[-1])
      y = AttentionPool(self.num_classes, self.head_channels, self.dtype, name='out_2')(y)
    elif self.pool == 'adaptive':
      y = GroupNorm(silu=True, name='out_0')(features[-1]).mean((1, 2))
      y = dense(self.num_classes, 'out_3')(y)
    else:
      y = jnp.concatenate([f.mean((1, 2)) for f in features], axis=-1)
      y = dense(2048, 'out_0')(y)
      v2 = self.pool == 'spatial_v2'
      y = GroupNorm(silu=True, name='out_1')(y) if v2 else nn.relu(y)
      y = dense(self.num_classes, 'out_3' if v2 else 'out_2')(y)
    return y.astype(jnp.float32)


class AttentionPool(nn.Module):
  """Attention of one query, the mean of all positions, to that mean and all positions (as in CLIP)."""

  features: int
  head_channels: int = 64
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [b, features]; the size of the images is fixed by the positional table."""
    b, h, w, c = x.shape
    x = x.reshape(b, h * w, c)
    x = jnp.concatenate([x.mean(1, keepdims=True), x], axis=1)
    table = self.param('positional_embedding', nn.initializers.normal(c**-0.5), (c, h * w + 1), jnp.float32)
    x = x + table.T.astype(x.dtype)
    qkv = nn.Dense(3 * c, dtype=self.dtype, name='qkv_proj')(x)
    q, k, v = jnp.moveaxis(qkv.reshape(b, h * w + 1, 3, -1, self.head_channels), 2, 0)  # each [b, n, heads, d]
    y = attention(q[:, :1], k, v).reshape(b, c)
    return nn.Dense(self.features, dtype=self.dtype, name='c_proj')(y)


def concatenate_low_resolution(x: jax.Array, low_resolution: jax.Array) -> jax.Array:
  """The input of a super-resolution U-Net: the noisy image and, upsampled to its size, the small one.

  Args:
    x: [b, h, w, c] noisy large images.
    low_resolution: [b, h', w', c] small images in [-1, 1] of any size, upsampled bilinearly.

  Returns:
    [b, h, w, 2c].
  """
  upsampled = jax.image.resize(low_resolution, x.shape, 'bilinear', antialias=False)
  return jnp.concatenate([x, upsampled.astype(x.dtype)], axis=-1)

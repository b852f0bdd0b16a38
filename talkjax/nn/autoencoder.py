"""Images to latents and back: latent diffusion's KL autoencoder (as in Stable Diffusion) and space-to-depth."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.conv import Conv3x3, depth_to_space, space_to_depth
from talkjax.nn.latent_unet import Downsample, ResnetBlock, Upsample
from talkjax.nn.norm import GroupNorm
from talkjax.nn.transformer import Attention


@dataclasses.dataclass(frozen=True)
class Folding:
  """Space-to-depth latents: patches of pixels folded into channels. Lossless, without weights, for small images."""

  patch: int = 4

  def encode(self, images: jax.Array) -> jax.Array:
    """[b, h, w, 3] -> [b, h / patch, w / patch, 3 patch^2]."""
    return space_to_depth(images, self.patch)

  def decode(self, latents: jax.Array) -> jax.Array:
    """The inverse of `encode`."""
    return depth_to_space(latents, self.patch)


class Autoencoder(nn.Module):
  """Encoder and decoder; each further level halves the resolution.

  Attributes:
    widths: channels of each level.
    latent_channels: channels of the latents.
    layers: residual blocks per level of the encoder (the decoder has one more).
    groups: of the GroupNorms.
    scaling: factor on the latents that makes their standard deviation about 1.
    dtype: of the computation.
  """

  widths: tuple[int, ...] = (128, 256, 512, 512)
  latent_channels: int = 4
  layers: int = 2
  groups: int = 32
  scaling: float = 0.18215
  dtype: Any = jnp.float32

  def setup(self):
    fields = {'widths': self.widths, 'layers': self.layers, 'groups': self.groups, 'dtype': self.dtype}
    self.encoder = Encoder(2 * self.latent_channels, **fields)
    self.decoder = Decoder(3, **fields)
    self.quant_conv = nn.Dense(2 * self.latent_channels, dtype=self.dtype)
    self.post_quant_conv = nn.Dense(self.latent_channels, dtype=self.dtype)

  def moments(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log variance (between -30 and 20) of the unscaled latents of images [b, h, w, 3] in [-1, 1]."""
    mean, logvar = jnp.split(self.quant_conv(self.encoder(images)), 2, axis=-1)
    return mean, jnp.clip(logvar, -30, 20)

  def encode(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    """Latents of images: [b, h, w, 3] in [-1, 1] -> [b, h / 8, w / 8, latent_channels] (with four levels).

    Args:
      images: height and width are multiples of 2 ** (levels - 1).
      rng: samples from the posterior; None returns its mean.
    """
    return self.draw(*self.moments(images), rng)

  def draw(self, mean: jax.Array, logvar: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    """Scaled latents from the moments of the posterior; `rng` as in `encode`."""
    if rng is not None:
      mean += jnp.exp(0.5 * logvar) * jax.random.normal(rng, mean.shape, mean.dtype)
    return mean * self.scaling

  def decode(self, latents: jax.Array) -> jax.Array:
    """Latents to images: float32, about [-1, 1], not clipped."""
    return self.decoder(self.post_quant_conv(latents / self.scaling)).astype(jnp.float32)

  def __call__(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    """Reconstructed images: encode, then decode."""
    return self.decode(self.encode(images, rng))


class Encoder(nn.Module):
  """Images to moments of the latents."""

  out_channels: int
  widths: tuple[int, ...]
  layers: int
  groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, 3] -> [b, h', w', out_channels]."""
    x = Conv3x3(self.widths[0], self.dtype, name='conv_in')(x)
    for level, width in enumerate(self.widths):
      for i in range(self.layers):
        name = f'down_blocks_{level}_resnets_{i}'
        x = ResnetBlock(width, self.groups, 1e-6, self.dtype, name=name)(x)
      if level < len(self.widths) - 1:
        # As published, only the end of each axis is padded.
        x = Downsample((0, 1), self.dtype, name=f'down_blocks_{level}_downsamplers_0')(x)
    x = Middle(self.groups, self.dtype, name='mid_block')(x)
    x = GroupNorm(self.groups, 1e-6, silu=True, name='conv_norm_out')(x)
    return Conv3x3(self.out_channels, self.dtype, name='conv_out')(x)


class Decoder(nn.Module):
  """Latents to images."""

  out_channels: int
  widths: tuple[int, ...]
  layers: int
  groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h', w', c] -> [b, h, w, out_channels]."""
    x = Conv3x3(self.widths[-1], self.dtype, name='conv_in')(x)
    x = Middle(self.groups, self.dtype, name='mid_block')(x)
    for level, width in enumerate(reversed(self.widths)):
      for i in range(self.layers + 1):
        x = ResnetBlock(width, self.groups, 1e-6, self.dtype, name=f'up_blocks_{level}_resnets_{i}')(x)
      if level < len(self.widths) - 1:
        x = Upsample(self.dtype, name=f'up_blocks_{level}_upsamplers_0')(x)
    x = GroupNorm(self.groups, 1e-6, silu=True, name='conv_norm_out')(x)
    return Conv3x3(self.out_channels, self.dtype, name='conv_out')(x)


class Middle(nn.Module):
  """Residual block, single-head attention over all pixels, residual block."""

  groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [b, h, w, c]."""
    c = x.shape[-1]
    x = ResnetBlock(c, self.groups, 1e-6, self.dtype, name='resnets_0')(x)
    y = GroupNorm(self.groups, 1e-6, name='attentions_0_group_norm')(x).reshape(x.shape[0], -1, c)
    x = x + Attention(1, bias=True, dtype=self.dtype, name='attentions_0')(y).reshape(x.shape)
    return ResnetBlock(c, self.groups, 1e-6, self.dtype, name='resnets_1')(x)

"""Images to latents and back: latent diffusion's autoencoders, of Gaussian latents (KL) or of a codebook (VQ).

Modules are named as diffusers' AutoencoderKL; `talkjax.weights.pretrained` renames those of taming-transformers.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.conv import Conv3x3, depth_to_space, space_to_depth
from talkjax.nn.latent_unet import Downsample, ResnetBlock, Upsample
from talkjax.nn.norm import GroupNorm
from talkjax.nn.transformer import Attention


class Autoencoder(nn.Module):
  """Encoder and decoder; each further level halves the resolution.

  Attributes:
    widths: channels of each level.
    latent_channels: channels of the latents.
    layers: residual blocks per level of the encoder (the decoder has one more).
    groups: of the GroupNorms.
    scaling: factor on the latents that makes their standard deviation about 1.
    attention: for each level, whether its residual blocks are followed by attention over all pixels; () for none.
    middle_attention: the middle block has such attention.
    folding: side of the patches of pixels that are folded into channels before the first level (ours).
    shortcut: a linear path from folded pixels to latents, and from latents to folded pixels, bypasses the blocks (ours;
      Chen et al. 2024, "Deep Compression Autoencoder", have it without weights): a small one learns much faster.
    inner_channels: channels between encoder and `quant_conv`, and of the decoder's input; 0: the latents'.
    codebook: number of codes of a VQ autoencoder; 0: a KL autoencoder.
    decoded: latents that the decoder takes at once, concatenated along the channels: 1, or 2, where those of a
      reference image come first (FD2Talk, eq. 13). The part of the first convolution that reads these is a module of
      its own, `conv_in_reference`, and initialised with zeros: a pretrained decoder begins as what it was.
    dtype: of the computation.
  """

  widths: tuple[int, ...] = (128, 256, 512, 512)
  latent_channels: int = 4
  layers: int = 2
  groups: int = 32
  scaling: float = 0.18215
  attention: tuple[bool, ...] = ()
  middle_attention: bool = True
  folding: int = 1
  shortcut: bool = False
  inner_channels: int = 0
  codebook: int = 0
  decoded: int = 1
  dtype: Any = jnp.float32

  def setup(self):
    names = ('widths', 'layers', 'groups', 'attention', 'middle_attention', 'folding', 'shortcut', 'dtype')
    fields = {name: getattr(self, name) for name in names}
    inner, moments = self.inner_channels or self.latent_channels, 1 if self.codebook else 2
    self.encoder = Encoder(moments * inner, **fields)
    self.decoder = Decoder(3, **fields)
    self.quant_conv = nn.Dense(moments * self.latent_channels, dtype=self.dtype, bias_init=self._moments_init)
    self.post_quant_conv = nn.Dense(inner, dtype=self.dtype)
    if self.codebook:
      bound = 1 / self.codebook
      init = lambda rng, shape, dtype: jax.random.uniform(rng, shape, dtype, -bound, bound)
      self.quantize_embedding = nn.Embed(self.codebook, self.latent_channels, embedding_init=init)

  def _moments_init(self, rng, shape, dtype):
    """Zero means; log variances that are low, so that a fresh network does not drown in its posterior's noise."""
    is_logvar = (jnp.arange(shape[0]) >= self.latent_channels) & (self.codebook == 0)
    return jnp.where(is_logvar, -5.0, 0.0).astype(dtype)

  @property
  def factor(self) -> int:
    """Pixels per latent, along each axis."""
    return self.folding * 2 ** (len(self.widths) - 1)

  def moments(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log variance (between -30 and 20) of the unscaled latents of images [b, h, w, 3] in [-1, 1].

    Those of a VQ autoencoder are not random: its log variance is -30.
    """
    moments = self.quant_conv(self.encoder(images))
    if self.codebook:
      return moments, jnp.full_like(moments, -30)
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(logvar, -30, 20)

  def encode(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    """Latents of images: [b, h, w, 3] in [-1, 1] -> [b, h / factor, w / factor, latent_channels].

    Args:
      images: height and width are multiples of `factor`.
      rng: samples from the posterior; None returns its mean. Latents of a VQ autoencoder are those before quantisation.
    """
    return self.draw(*self.moments(images), rng)

  def draw(self, mean: jax.Array, logvar: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    """Scaled latents from the moments of the posterior; `rng` as in `encode`."""
    if rng is not None:
      mean += jnp.exp(0.5 * logvar) * jax.random.normal(rng, mean.shape, mean.dtype)
    return mean * self.scaling

  def quantise(self, latents: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The nearest codes of unscaled latents [b, h, w, c]: (their vectors [b, h, w, c], indices [b, h, w] int32).

    The vectors have no gradient with respect to the latents, see `straight_through`.
    """
    codes = self.quantize_embedding.embedding
    latents = latents.astype(jnp.float32)
    # |z - e|^2 up to |z|^2, which is the same for every code.
    distances = jnp.sum(jnp.square(codes), -1) - 2 * latents @ codes.T
    indices = jnp.argmin(distances, -1).astype(jnp.int32)
    return self.look_up(indices), indices

  def look_up(self, indices: jax.Array) -> jax.Array:
    """The vectors [..., c] of codes [...]."""
    return jnp.take(self.quantize_embedding.embedding, indices, axis=0)

  def decode(self, latents: jax.Array, quantise: bool = True) -> jax.Array:
    """Latents to images: float32, about [-1, 1], not clipped.

    Args:
      latents: [b, h, w, decoded * latent_channels].
      quantise: of a VQ autoencoder: replace latents by their nearest codes, with straight-through gradients.
    """
    parts = jnp.split(latents / self.scaling, self.decoded, axis=-1)
    if self.codebook and quantise:
      parts = [straight_through(part, self.quantise(part)[0]) for part in parts]
    *reference, x = map(self.post_quant_conv, parts)
    return self.decoder(x, *reference).astype(jnp.float32)

  def __call__(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    """Reconstructed images: encode, then decode (with `decoded` > 1 from so many copies of the latents)."""
    return self.decode(jnp.concatenate([self.encode(images, rng)] * self.decoded, axis=-1))


def straight_through(latents: jax.Array, codes: jax.Array) -> jax.Array:
  """The codes, with the gradient passed to the latents (van den Oord et al. 2017, section 3.2)."""
  return latents + jax.lax.stop_gradient(codes - latents)


class Encoder(nn.Module):
  """Images to moments of the latents; fields as of `Autoencoder`."""

  out_channels: int
  widths: tuple[int, ...]
  layers: int
  groups: int
  attention: tuple[bool, ...] = ()
  middle_attention: bool = True
  folding: int = 1
  shortcut: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, 3] -> [b, h', w', out_channels]."""
    folded = space_to_depth(x, self.folding * 2 ** (len(self.widths) - 1)) if self.shortcut else None
    x = space_to_depth(x, self.folding)
    x = Conv3x3(self.widths[0], self.dtype, name='conv_in')(x)
    for level, width in enumerate(self.widths):
      for i in range(self.layers):
        x = ResnetBlock(width, self.groups, 1e-6, self.dtype, name=f'down_blocks_{level}_resnets_{i}')(x)
        if self.attention and self.attention[level]:
          x = pixel_attention(x, self.groups, self.dtype, f'down_blocks_{level}_attentions_{i}')
      if level < len(self.widths) - 1:
        # As published, only the end of each axis is padded.
        x = Downsample((0, 1), self.dtype, name=f'down_blocks_{level}_downsamplers_0')(x)
    x = Middle(self.groups, self.middle_attention, self.dtype, name='mid_block')(x)
    x = GroupNorm(self.groups, 1e-6, silu=True, name='conv_norm_out')(x)
    x = Conv3x3(self.out_channels, self.dtype, name='conv_out')(x)
    return x + nn.Dense(self.out_channels, dtype=self.dtype, name='shortcut')(folded) if self.shortcut else x


class Decoder(nn.Module):
  """Latents to images; fields as of `Autoencoder`."""

  out_channels: int
  widths: tuple[int, ...]
  layers: int
  groups: int
  attention: tuple[bool, ...] = ()
  middle_attention: bool = True
  folding: int = 1
  shortcut: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, reference: jax.Array | None = None) -> jax.Array:
    """[b, h', w', c], and as many of a reference image -> [b, h, w, out_channels]."""
    latents, factor = x, self.folding * 2 ** (len(self.widths) - 1)
    x = Conv3x3(self.widths[-1], self.dtype, name='conv_in')(x)
    if reference is not None:  # together with the line above one convolution of both, concatenated
      x = x + Conv3x3(self.widths[-1], self.dtype, kernel_init=nn.initializers.zeros, name='conv_in_reference')(
        reference
      )
    x = Middle(self.groups, self.middle_attention, self.dtype, name='mid_block')(x)
    for block, width in enumerate(reversed(self.widths)):
      level = len(self.widths) - 1 - block
      for i in range(self.layers + 1):
        x = ResnetBlock(width, self.groups, 1e-6, self.dtype, name=f'up_blocks_{block}_resnets_{i}')(x)
        if self.attention and self.attention[level]:
          x = pixel_attention(x, self.groups, self.dtype, f'up_blocks_{block}_attentions_{i}')
      if level:
        x = Upsample(self.dtype, name=f'up_blocks_{block}_upsamplers_0')(x)
    x = GroupNorm(self.groups, 1e-6, silu=True, name='conv_norm_out')(x)
    x = depth_to_space(Conv3x3(self.out_channels * self.folding**2, self.dtype, name='conv_out')(x), self.folding)
    if self.shortcut:
      linear = nn.Dense(self.out_channels * factor**2, dtype=self.dtype, name='shortcut')(latents)
      x = x + depth_to_space(linear, factor)
    return x


class Middle(nn.Module):
  """Residual block, attention over all pixels (if `attention`), residual block."""

  groups: int
  attention: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [b, h, w, c]."""
    x = ResnetBlock(x.shape[-1], self.groups, 1e-6, self.dtype, name='resnets_0')(x)
    if self.attention:
      x = pixel_attention(x, self.groups, self.dtype, 'attentions_0')
    return ResnetBlock(x.shape[-1], self.groups, 1e-6, self.dtype, name='resnets_1')(x)


def pixel_attention(x: jax.Array, groups: int, dtype, name: str) -> jax.Array:
  """x + single-head attention over all pixels of the normalised x [b, h, w, c]; layers of the calling module."""
  b, _, _, c = x.shape
  y = GroupNorm(groups, 1e-6, name=f'{name}_group_norm')(x).reshape(b, -1, c)
  return x + Attention(1, bias=True, dtype=dtype, name=name)(y).reshape(x.shape)

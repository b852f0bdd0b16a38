"""The ADM pixel U-Net, conditioned on the noise level and optionally on audio or a class in every residual block."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.attention import attention
from talkjax.nn.conv import Conv3x3, depth_to_space, downsample, space_to_depth, upsample
from talkjax.nn.dropout import Dropout
from talkjax.nn.embedding import sinusoid
from talkjax.nn.latent_unet import Downsample, Upsample
from talkjax.nn.norm import GroupNorm

_ZERO = nn.initializers.zeros  # final projections are zero-initialised, so every block starts as the identity


class MLP(nn.Module):
  """Dense, SiLU, Dense."""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, d] -> [b, features]."""
    x = nn.silu(nn.Dense(self.features, dtype=self.dtype, name='in')(x))
    return nn.Dense(self.features, dtype=self.dtype, name='out')(x)


class ResBlock(nn.Module):
  """Residual block: h = conv(SiLU(GN(x))), then eq. 7 with the noise level t and the audio z:

    h <- z_s * (t_s * GN(h) + t_b) + z_b        (each scale is 1 + its projection's output)
    x + conv(dropout(SiLU(h)))

  With `resize` 'downsample' or 'upsample' both branches are resized before the first convolution. Without `scale_shift`
  the conditions' projections are added to h before its second norm instead.
  """

  features: int
  resize: str | None = None
  dropout: float = 0.0
  dtype: Any = jnp.float32
  scale_shift: bool = True

  @nn.compact
  def __call__(self, x: jax.Array, conditions: tuple[jax.Array, ...], train: bool) -> jax.Array:
    """x [b, h, w, c], conditions (noise [b, d], audio [b, d]), each after its SiLU -> [b, h', w', features]."""
    upsampled = self.resize == 'upsample'
    width = self.features * (2 if self.scale_shift else 1)
    films = [nn.Dense(width, dtype=self.dtype, name=f'film_{i}')(c) for i, c in enumerate(conditions)]
    h = GroupNorm(silu=True, name='norm_0')(x)
    if self.resize == 'downsample':
      h, x = downsample(h), downsample(x)
    h = Conv3x3(self.features, self.dtype, upsampled, name='conv_0')(h)
    if not self.scale_shift:
      h, films = h + sum(films)[:, None, None], ()
    h = GroupNorm(silu=True, name='norm_1')(h, tuple(films))
    h = Dropout(self.dropout)(h, train)
    h = Conv3x3(self.features, self.dtype, kernel_init=_ZERO, name='conv_1')(h)
    if upsampled:
      x = upsample(x)
    if x.shape[-1] != self.features:
      x = nn.Dense(self.features, dtype=self.dtype, name='skip')(x)
    return x + h


class SelfAttention(nn.Module):
  """x + project(attention(GN(x))) over all pixels of an image."""

  head_channels: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [b, h, w, c]."""
    b, h, w, c = x.shape
    y = GroupNorm(name='norm')(x).reshape(b, h * w, c)
    qkv = nn.Dense(3 * c, dtype=self.dtype, name='qkv')(y)
    q, k, v = jnp.moveaxis(qkv.reshape(b, h * w, 3, -1, self.head_channels), 2, 0)  # each [b, n, heads, d]
    y = attention(q, k, v).reshape(b, h, w, c)
    return x + nn.Dense(c, dtype=self.dtype, kernel_init=_ZERO, name='project')(y)


class UNet(nn.Module):
  """The ADM-style U-Net: resizing residual blocks, FiLM, attention at selected levels and in the middle.

  Attributes:
    out_channels: channels of the prediction; twice those of the picture if the variance is learned.
    width: channels of the first level.
    multipliers: channels of each level as multiples of `width`; each further level halves the resolution.
    attention_downsamples: levels with attention, given by their downsampling factor relative to the first level.
    num_res_blocks: residual blocks per level of the encoder (the decoder has one more).
    head_channels: channels per attention head.
    dropout: rate inside the residual blocks while training.
    patch_size: side in pixels of the patches folded into channels at the input and unfolded at the output.
    noise_embedding: 'gamma' embeds gamma itself (as published), 'log_snr' embeds log(gamma / (1 - gamma)), which
      resolves small noise levels better, 'timestep' embeds the timestep that is given in gamma's place.
    dtype: of the computation; parameters and normalisation statistics are float32.
    remat: recompute the blocks in the backward pass instead of saving their activations.
    heads: heads per attention of the encoder and the middle, and of the decoder, in place of `head_channels`.
    num_classes: classes whose embedding is added to the noise level's, or None.
    scale_shift: conditions scale and shift (ADM); False adds them.
    resize_blocks: resize in residual blocks (ADM); False has a convolution at each change of resolution (DDPM).
    decoder: False leaves the decoder out and returns the encoder's features.
  """

  out_channels: int = 3
  width: int = 64
  multipliers: tuple[float, ...] = (1, 2, 3)
  attention_downsamples: tuple[int, ...] = (4,)
  num_res_blocks: int = 2
  head_channels: int = 64
  dropout: float = 0.1
  patch_size: int = 1
  noise_embedding: str = 'gamma'
  dtype: Any = jnp.float32
  remat: bool = False
  heads: tuple[int, int] | None = None
  num_classes: int | None = None
  scale_shift: bool = True
  resize_blocks: bool = True
  decoder: bool = True

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    gamma: jax.Array | None,
    audio: jax.Array | None = None,
    train: bool = False,
    labels: jax.Array | None = None,
  ) -> jax.Array | list[jax.Array]:
    """Predicts from a noisy image.

    Args:
      x: [b, h, w, c] the noisy image, concatenated with any image conditioning.
      gamma: [b] the noise level, the product of alphas, in (0, 1); or the timestep, see `noise_embedding`. None for
        a U-Net that denoises nothing.
      audio: [b, d] audio features, or None for a U-Net without audio conditioning.
      train: dropout on (needs the 'dropout' rng).
      labels: int [b], below `num_classes`; None for a U-Net without classes.

    Returns:
      [b, h, w, out_channels] float32. Without decoder the output of every encoder block, then that of the middle.

    Raises:
      ValueError: height or width cannot be halved once per further level, or labels are missing or unexpected.
    """
    last = len(self.multipliers) - 1
    factor = self.patch_size * 2**last
    if x.shape[1] % factor or x.shape[2] % factor:
      raise ValueError(f'image size {x.shape[1]}x{x.shape[2]}: both sides must be multiples of {factor}')
    conditions = self._embed(gamma, audio, labels)

    # Encoder: every block's output is a skip connection to the decoder.
    x = space_to_depth(x.astype(self.dtype), self.patch_size)
    x = Conv3x3(self._features(0), self.dtype, name='conv_in')(x)
    skips = [x]
    for level in range(last + 1):
      for i in range(self.num_res_blocks):
        x = self._block(x, conditions, train, level, f'down_{level}_block_{i}')
        x = self._attend(x, level, f'down_{level}_attention_{i}')
        skips.append(x)
      if level != last:
        x = self._resize(x, conditions, train, level, f'down_{level}_shrink', 'downsample')  # [b, h/2, w/2, c]
        skips.append(x)

    x = self._block(x, conditions, train, last, 'middle_block_0')
    x = self._attend(x, None, 'middle_attention')
    x = self._block(x, conditions, train, last, 'middle_block_1')
    if not self.decoder:
      return [*skips, x]

    # Decoder: one block more per level than in the encoder, because the downsampled features are skips too.
    for level in reversed(range(last + 1)):
      for i in range(self.num_res_blocks + 1):
        x = jnp.concatenate([x, skips.pop()], axis=-1)
        x = self._block(x, conditions, train, level, f'up_{level}_block_{i}')
        x = self._attend(x, level, f'up_{level}_attention_{i}')
      if level:
        x = self._resize(x, conditions, train, level, f'up_{level}_grow', 'upsample')  # [b, 2h, 2w, c]

    x = GroupNorm(silu=True, name='norm_out')(x)
    x = Conv3x3(self.patch_size**2 * self.out_channels, self.dtype, kernel_init=_ZERO, name='conv_out')(x)
    return depth_to_space(x, self.patch_size).astype(jnp.float32)

  def _embed(self, gamma, audio, labels):
    """What every block is conditioned on, [b, 4 width] each, after the SiLU."""
    if (labels is None) != (self.num_classes is None):
      raise ValueError(f'labels are {"missing" if labels is None else "given"}, but num_classes is {self.num_classes}')
    d = 4 * self.width
    conditions = []
    if gamma is not None:
      conditions.append(MLP(d, self.dtype, name='embed_noise')(sinusoid(self._level(gamma), self.width)))
    if labels is not None:
      conditions[-1] += nn.Embed(self.num_classes, d, dtype=self.dtype, name='embed_label')(labels)
    if audio is not None:
      conditions.append(MLP(d, self.dtype, name='embed_audio')(audio.astype(self.dtype)))
    return tuple(nn.silu(c) for c in conditions)

  def _level(self, gamma):
    if self.noise_embedding in ('gamma', 'timestep'):
      return gamma
    if self.noise_embedding == 'log_snr':
      gamma = jnp.clip(gamma.astype(jnp.float32), 1e-6, 1 - 1e-6)
      return jnp.log(gamma) - jnp.log1p(-gamma)
    raise ValueError(f"noise_embedding {self.noise_embedding!r}: expected 'gamma', 'log_snr' or 'timestep'")

  def _features(self, level):
    return int(self.multipliers[level] * self.width)

  def _block(self, x, conditions, train, level, name, resize=None):
    res_block = nn.remat(ResBlock, static_argnums=(3,)) if self.remat else ResBlock
    block = res_block(self._features(level), resize, self.dropout, self.dtype, self.scale_shift, name=name)
    return block(x, conditions, train)

  def _resize(self, x, conditions, train, level, name, resize):
    if self.resize_blocks:
      return self._block(x, conditions, train, level, name, resize)
    layer = Downsample if resize == 'downsample' else Upsample
    return layer(dtype=self.dtype, name=name)(x)

  def _attend(self, x, level, name):
    """Self-attention where this level has it; level None is the middle."""
    if level is not None and 2**level not in self.attention_downsamples:
      return x
    self_attention = nn.remat(SelfAttention) if self.remat else SelfAttention
    head_channels = self.head_channels
    if self.heads is not None:
      head_channels = x.shape[-1] // self.heads[name.startswith('up_')]
    return self_attention(head_channels, self.dtype, name=name)(x)

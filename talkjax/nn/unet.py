"""A pixel U-Net conditioned on a noise level and, where given, on sound, by scale and shift in every residual block."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.attention import attention
from talkjax.nn.conv import Conv3x3, depth_to_space, grow, shrink, space_to_depth
from talkjax.nn.dropout import Dropout
from talkjax.nn.norm import GroupNorm

_ZERO = nn.initializers.zeros  # last projections start at zero, so that every block starts as the identity


def sinusoid(x: jax.Array, features: int) -> jax.Array:
  """Cosines, then sines, of x at frequencies 10000^(-i / half), i < half = features / 2: [b] -> [b, features]."""
  half = features // 2
  angles = x.astype(jnp.float32)[:, None] * jnp.exp(-jnp.log(10_000.0) * jnp.arange(half) / half)
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


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
  """h = conv(SiLU(GN(x))), then, eq. 7 with the noise level t and the sound z:

    h <- z_s * (t_s * GN(h) + t_b) + z_b        (each scale as 1 + what its projection says)
    x + conv(dropout(SiLU(h)))

  With `resize` 'shrink' or 'grow' both branches are resized before the first convolution.
  """

  features: int
  resize: str | None = None
  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, conditions: tuple[jax.Array, ...], train: bool) -> jax.Array:
    """x [b, h, w, c], conditions (noise [b, d], sound [b, d]), each after its SiLU -> [b, h', w', features]."""
    grown = self.resize == 'grow'
    films = [nn.Dense(2 * self.features, dtype=self.dtype, name=f'film_{i}')(c) for i, c in enumerate(conditions)]
    h = GroupNorm(silu=True, name='norm_0')(x)
    if self.resize == 'shrink':
      h, x = shrink(h), shrink(x)
    h = Conv3x3(self.features, self.dtype, grown, name='conv_0')(h)
    h = GroupNorm(silu=True, name='norm_1')(h, tuple(films))
    h = Dropout(self.dropout)(h, train)
    h = Conv3x3(self.features, self.dtype, kernel_init=_ZERO, name='conv_1')(h)
    if grown:
      x = grow(x)
    if x.shape[-1] != self.features:
      x = nn.Dense(self.features, dtype=self.dtype, name='skip')(x)
    return x + h


class SelfAttention(nn.Module):
  """x + project(attention(GN(x))) over all pixels of a picture."""

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
  """The ADM-style U-Net: residual blocks that resize, FiLM, attention at chosen levels and in the middle.

  Attributes:
    out_channels: channels of the prediction.
    width: channels of the first level.
    multipliers: channels of each level as multiples of `width`; each further level halves the picture.
    attention_downsamples: levels with attention, named by how many times smaller they are than the first level.
    num_res_blocks: residual blocks per level on the way down (one more on the way up).
    head_channels: channels of one attention head.
    dropout: rate inside the residual blocks while training.
    patch_size: pixels of a side that are folded into channels on the way in and unfolded on the way out.
    noise_embedding: 'gamma' feeds the published sinusoid of gamma as it is; 'log_snr' that of log(gamma / (1 - gamma)),
      which tells small noise levels apart.
    dtype: of the arithmetic; parameters and normalisation statistics are float32.
    remat: recompute the blocks in the backward pass instead of keeping what is inside them.
  """

  out_channels: int = 3
  width: int = 64
  multipliers: tuple[int, ...] = (1, 2, 3)
  attention_downsamples: tuple[int, ...] = (4,)
  num_res_blocks: int = 2
  head_channels: int = 64
  dropout: float = 0.1
  patch_size: int = 1
  noise_embedding: str = 'gamma'
  dtype: Any = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, gamma: jax.Array, audio: jax.Array | None = None, train: bool = False) -> jax.Array:
    """Predicts from a noisy picture.

    Args:
      x: [b, h, w, c] the noisy picture and whatever is concatenated to it.
      gamma: [b] the noise level, the product of alphas, in (0, 1).
      audio: [b, d] sound features, or None for a U-Net without sound.
      train: dropout on (needs the 'dropout' rng).

    Returns:
      [b, h, w, out_channels] float32.

    Raises:
      ValueError: the picture cannot be halved as often as there are levels.
    """
    factor = self.patch_size * 2 ** (len(self.multipliers) - 1)
    if x.shape[1] % factor or x.shape[2] % factor:
      raise ValueError(f'a picture of {x.shape[1]}x{x.shape[2]} pixels: both sides must be multiples of {factor}')
    res_block = nn.remat(ResBlock, static_argnums=(3,)) if self.remat else ResBlock
    self_attention = nn.remat(SelfAttention) if self.remat else SelfAttention

    # What every block is told: [b, 4 width] each.
    d = 4 * self.width
    conditions = [MLP(d, self.dtype, name='embed_noise')(sinusoid(self._level(gamma), self.width))]
    if audio is not None:
      conditions.append(MLP(d, self.dtype, name='embed_audio')(audio.astype(self.dtype)))
    conditions = tuple(nn.silu(c) for c in conditions)

    def block(x, level, name, resize=None):
      features = self.multipliers[level] * self.width
      return res_block(features, resize, self.dropout, self.dtype, name=name)(x, conditions, train)

    def attend(x, level, name):
      if 2**level not in self.attention_downsamples:
        return x
      return self_attention(self.head_channels, self.dtype, name=name)(x)

    # Down: every block's output waits for its counterpart on the way up.
    x = space_to_depth(x.astype(self.dtype), self.patch_size)
    x = Conv3x3(self.width, self.dtype, name='conv_in')(x)
    waiting = [x]
    last = len(self.multipliers) - 1
    for level in range(last + 1):
      for i in range(self.num_res_blocks):
        x = attend(block(x, level, f'down_{level}_block_{i}'), level, f'down_{level}_attention_{i}')
        waiting.append(x)
      if level != last:
        x = block(x, level, f'down_{level}_shrink', 'shrink')  # [b, h/2, w/2, c]
        waiting.append(x)

    x = block(x, last, 'middle_block_0')
    x = self_attention(self.head_channels, self.dtype, name='middle_attention')(x)
    x = block(x, last, 'middle_block_1')

    # Up: one block more per level than on the way down, since the shrunk picture waits too.
    for level in reversed(range(last + 1)):
      for i in range(self.num_res_blocks + 1):
        x = jnp.concatenate([x, waiting.pop()], axis=-1)
        x = attend(block(x, level, f'up_{level}_block_{i}'), level, f'up_{level}_attention_{i}')
      if level:
        x = block(x, level, f'up_{level}_grow', 'grow')  # [b, 2h, 2w, c]

    x = GroupNorm(silu=True, name='norm_out')(x)
    x = Conv3x3(self.patch_size**2 * self.out_channels, self.dtype, kernel_init=_ZERO, name='conv_out')(x)
    return depth_to_space(x, self.patch_size).astype(jnp.float32)

  def _level(self, gamma):
    if self.noise_embedding == 'gamma':
      return gamma
    if self.noise_embedding == 'log_snr':
      gamma = jnp.clip(gamma.astype(jnp.float32), 1e-6, 1 - 1e-6)
      return jnp.log(gamma) - jnp.log1p(-gamma)
    raise ValueError(f"noise_embedding {self.noise_embedding!r}: expected 'gamma' or 'log_snr'")

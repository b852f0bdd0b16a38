"""The U-Net of latent diffusion (Stable Diffusion 1.5's shape), plain or with reference, audio and temporal layers.

One class serves as backbone and as ReferenceNet: called, it also returns the features that another network's reference
attention and temporal layers read, as arrays keyed by block path.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.conv import Conv3x3
from talkjax.nn.norm import GroupNorm
from talkjax.nn.transformer import CONTEXTS, SpatialTransformer, TemporalTransformer, keys_and_values, scaled
from talkjax.nn.unet import sinusoid


class ResnetBlock(nn.Module):
  """x + conv(SiLU(GN(conv(SiLU(GN(x))) + time))); x through a 1x1 convolution where the channels differ.

  A modulation scales and shifts the second norm's features (FiLM, Perez et al. 2018, as ADM has it for classes).

  Attributes:
    features: channels out.
    groups, epsilon: of the GroupNorms.
    dtype: of the arithmetic.
  """

  features: int
  groups: int = 32
  epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, time: jax.Array | None = None, modulation: jax.Array | None = None) -> jax.Array:
    """x [b, h, w, c], time and modulation [b', d], each for b / b' pictures in a row -> [b, h, w, features]."""
    spread = lambda y: jnp.repeat(y, x.shape[0] // y.shape[0], axis=0)[:, None, None]
    h = GroupNorm(self.groups, self.epsilon, silu=True, name='norm1')(x)
    h = Conv3x3(self.features, self.dtype, name='conv1')(h)
    if time is not None:
      time = nn.Dense(self.features, dtype=self.dtype, name='time_emb_proj')(time)
      h = h + spread(time)
    h = GroupNorm(self.groups, self.epsilon, silu=modulation is None, name='norm2')(h)
    if modulation is not None:
      scale_shift = nn.Dense(2 * self.features, dtype=self.dtype, name='modulation')(modulation)
      scale, shift = jnp.split(spread(scale_shift), 2, axis=-1)
      h = nn.silu(h * (1 + scale) + shift)
    h = Conv3x3(self.features, self.dtype, name='conv2')(h)
    if x.shape[-1] != self.features:
      x = nn.Dense(self.features, dtype=self.dtype, name='conv_shortcut')(x)
    return x + h


class Downsample(nn.Module):
  """A 3x3 convolution with stride 2; `padding` zeros before and behind each axis."""

  padding: tuple[int, int] = (1, 1)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [b, h / 2, w / 2, c]."""
    c = x.shape[-1]
    return nn.Conv(c, (3, 3), (2, 2), [self.padding] * 2, dtype=self.dtype, name='conv')(x)


class Upsample(nn.Module):
  """Every pixel as 2x2, then a 3x3 convolution."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [b, 2h, 2w, c]."""
    return Conv3x3(x.shape[-1], self.dtype, grown=True, name='conv')(x)


@dataclasses.dataclass(frozen=True)
class Temporal:
  """Where temporal layers stand in a `LatentUNet`, and their fields (see `TemporalTransformer`)."""

  middle: bool = False  # one in the middle block too (AnimateDiff v2, V-Express)
  heads: int = 8
  blocks: int = 1
  layers: int = 2
  max_frames: int = 24
  speed: bool = False
  zero_speed: bool = True
  groups: int | None = None  # None: as many as the U-Net's


class LatentUNet(nn.Module):
  """Residual blocks with time, spatial transformers at chosen levels, temporal layers where asked for.

  Attributes:
    out_channels: of the prediction.
    widths: channels of each level; each further level halves the picture.
    attention: for each level, whether it has spatial transformers (the middle always does).
    layers: residual blocks per level on the way down (one more on the way up).
    heads: of every attention.
    contexts: what spatial transformers read beside their pixels, see `transformer.CONTEXTS`.
    zero_contexts: those layers start as nothing.
    groups: of the GroupNorms.
    temporal: temporal layers after every spatial transformer or residual block of every level, or None.
    head: whether the prediction is made; a network that only gives features may do without (None is returned).
    dtype: of the arithmetic; parameters and normalisation statistics are float32.
    remat: recompute the blocks in the backward pass instead of keeping what is inside them.
  """

  out_channels: int = 4
  widths: tuple[int, ...] = (320, 640, 1280, 1280)
  attention: tuple[bool, ...] = (True, True, True, False)
  layers: int = 2
  heads: int = 8
  contexts: tuple[str, ...] = ('text',)
  zero_contexts: bool = False
  groups: int = 32
  temporal: Temporal | None = None
  head: bool = True
  dtype: Any = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    time: jax.Array,
    contexts: Mapping[str, Any],
    *,
    frames: int = 1,
    before: Mapping[str, jax.Array] | None = None,
    speed: jax.Array | None = None,
    added: jax.Array | None = None,
    modulation: jax.Array | None = None,
    silence: jax.Array | None = None,
    weights: Mapping[str, jax.Array] | None = None,
  ) -> tuple[jax.Array | None, dict[str, jax.Array]]:
    """Predicts from noisy latents.

    Args:
      x: [b * frames, h, w, c] noisy latents; both sides halve as often as there are levels, less one.
      time: [b] timesteps.
      contexts: by name, what spatial transformers read: 'text' and 'audio' tokens [b', m, d], 'reference' a dict of
        features by block path, as another LatentUNet returns them, [b', n, c] each; each of the b' is for the
        b * frames / b' pictures in a row. Instead of an array its (k, v), see `hoist`.
      frames: of a clip.
      before: features of frames before the clip by layer path, [b, k, h, w, c] each, for the temporal layers.
      speed: [b, m, d] tokens for the temporal layers.
      added: [b * frames or b', h, w, widths[0]] added to the first convolution (face regions, keypoints).
      modulation: [b * frames or b', d] scales and shifts the features of every residual block.
      silence: like the modulation, what it would be of no sound; how far it goes from there counts as often as
        weights['modulation'] says.
      weights: by context, what its attention's output is multiplied with; 'modulation', see `silence`. A number each,
        or one for each picture [b * frames].

    Returns:
      The prediction [b * frames, h, w, out_channels], float32, and features by path: 'PATH_attentions_I' [b * frames,
      h * w, c] for reference attention, 'PATH_layers_I' [b * frames, h, w, c] for temporal layers.

    Raises:
      ValueError: the picture cannot be halved as often as there are levels.
    """
    levels = len(self.widths)
    if x.shape[1] % 2 ** (levels - 1) or x.shape[2] % 2 ** (levels - 1):
      raise ValueError(f'latents of {x.shape[1]}x{x.shape[2]}: both sides must be multiples of {2 ** (levels - 1)}')
    wrap = nn.remat if self.remat else lambda module, **_: module
    resnet_block = wrap(ResnetBlock)
    transformer = wrap(SpatialTransformer)
    temporal = wrap(TemporalTransformer, static_argnums=(2,))
    features, weights, before = {}, weights or {}, before or {}

    # The time: [b, 4 widths[0]].
    t = sinusoid(time, self.widths[0]).astype(self.dtype)
    t = nn.Dense(4 * self.widths[0], dtype=self.dtype, name='time_embedding_linear_1')(t)
    t = nn.Dense(4 * self.widths[0], dtype=self.dtype, name='time_embedding_linear_2')(nn.silu(t))
    t = nn.silu(t)

    if modulation is not None:
      embedding = nn.Dense(4 * self.widths[0], dtype=self.dtype, name='modulation_embedding')
      modulation = nn.silu(embedding(modulation))
      if silence is not None:
        silence = nn.silu(embedding(silence))
        modulation = silence + scaled(modulation - silence, weights.get('modulation', 1.0))

    def resnet(x, width, name):
      return resnet_block(width, self.groups, dtype=self.dtype, name=name)(x, t, modulation)

    def attend(x, path, i):
      name = f'{path}_attentions_{i}'
      told = {k: v[name] if isinstance(v, Mapping) else v for k, v in contexts.items()}
      module = transformer(self.heads, self.contexts, self.zero_contexts, self.groups, self.dtype, name=name)
      x, features[name] = module(x, told, weights)
      return x

    def move(x, path, i):
      name = f'{path}_layers_{i}'
      features[name] = x
      if self.temporal is None or (path == 'mid_block' and not self.temporal.middle):
        return x
      fields = {k: v for k, v in dataclasses.asdict(self.temporal).items() if k != 'middle'}
      fields['groups'] = fields['groups'] or self.groups
      # The published files have one module around the transformer; so does the name.
      name_in_files = f'{path}_motion_modules_{i}_temporal_transformer'
      module = temporal(**fields, dtype=self.dtype, name=name_in_files)
      return module(x, frames, before.get(name), speed)

    # Down: every layer's output waits for its counterpart on the way up.
    x = Conv3x3(self.widths[0], self.dtype, name='conv_in')(x)
    if added is not None:
      x = x + jnp.repeat(added, x.shape[0] // added.shape[0], axis=0).astype(x.dtype)
    waiting = [x]
    for level, width in enumerate(self.widths):
      path = f'down_blocks_{level}'
      for i in range(self.layers):
        x = resnet(x, width, f'{path}_resnets_{i}')
        x = attend(x, path, i) if self.attention[level] else x
        x = move(x, path, i)
        waiting.append(x)
      if level < levels - 1:
        x = Downsample(dtype=self.dtype, name=f'{path}_downsamplers_0')(x)
        waiting.append(x)

    # Middle.
    x = resnet(x, self.widths[-1], 'mid_block_resnets_0')
    x = move(attend(x, 'mid_block', 0), 'mid_block', 0)
    x = resnet(x, self.widths[-1], 'mid_block_resnets_1')

    # Up: one layer more per level than on the way down, since the smaller picture waits too.
    for level in reversed(range(levels)):
      path = f'up_blocks_{levels - 1 - level}'
      for i in range(self.layers + 1):
        x = jnp.concatenate([x, waiting.pop()], axis=-1)
        x = resnet(x, self.widths[level], f'{path}_resnets_{i}')
        x = attend(x, path, i) if self.attention[level] else x
        x = move(x, path, i)
      if level:
        x = Upsample(dtype=self.dtype, name=f'{path}_upsamplers_0')(x)
    if not self.head:
      return None, features
    x = GroupNorm(self.groups, 1e-5, silu=True, name='conv_norm_out')(x)
    return Conv3x3(self.out_channels, self.dtype, name='conv_out')(x).astype(jnp.float32), features


def hoist(params: Mapping, contexts: Mapping[str, Any], dtype=jnp.float32) -> dict[str, dict[str, tuple]]:
  """Keys and values of contexts that stay the same over many calls, to be made once, outside the loop.

  Args:
    params: of a LatentUNet.
    contexts: as LatentUNet takes them; features of layers that it has not are left out.
    dtype: of the arithmetic.

  Returns:
    by context and block path (k, v): what LatentUNet takes in their place.
  """
  hoisted = {}
  for context, value in contexts.items():
    name = CONTEXTS[context][1]
    hoisted[context] = {
      path: keys_and_values(tree['transformer_blocks_0'][name], value[path] if context == 'reference' else value, dtype)
      for path, tree in params.items()
      if '_attentions_' in path and name in tree['transformer_blocks_0']
    }
  return hoisted

"""The U-Net of latent diffusion (Stable Diffusion 1.5's layout), plain or with reference, audio and temporal layers.

One class serves as backbone and as ReferenceNet: a call also returns the features that another network's reference
attention and temporal layers read, as arrays keyed by block path.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.conv import Conv3x3
from talkjax.nn.embedding import sinusoid
from talkjax.nn.norm import GroupNorm
from talkjax.nn.transformer import CONTEXTS, SpatialTransformer, TemporalTransformer, keys_and_values, scale_batch


class ResnetBlock(nn.Module):
  """x + conv(SiLU(GN(conv(SiLU(GN(x))) + time))), with a 1x1 convolution on x where the channel count changes.

  A modulation scales and shifts the output of the second norm (FiLM, Perez et al. 2018; ADM does so for classes).

  Attributes:
    features: output channels.
    groups, epsilon: of the GroupNorms.
    dtype: of the computation.
  """

  features: int
  groups: int = 32
  epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, time: jax.Array | None = None, modulation: jax.Array | None = None) -> jax.Array:
    """x [b, h, w, c], time and modulation [b', d], each shared by b / b' consecutive images -> [b, h, w, features]."""
    per_image = lambda y: jnp.repeat(y, x.shape[0] // y.shape[0], axis=0)[:, None, None]
    h = GroupNorm(self.groups, self.epsilon, silu=True, name='norm1')(x)
    h = Conv3x3(self.features, self.dtype, name='conv1')(h)
    if time is not None:
      time = nn.Dense(self.features, dtype=self.dtype, name='time_emb_proj')(time)
      h = h + per_image(time)
    h = GroupNorm(self.groups, self.epsilon, silu=modulation is None, name='norm2')(h)
    if modulation is not None:
      scale_shift = nn.Dense(2 * self.features, dtype=self.dtype, name='modulation')(modulation)
      scale, shift = jnp.split(per_image(scale_shift), 2, axis=-1)
      h = nn.silu(h * (1 + scale) + shift)
    h = Conv3x3(self.features, self.dtype, name='conv2')(h)
    if x.shape[-1] != self.features:
      x = nn.Dense(self.features, dtype=self.dtype, name='conv_shortcut')(x)
    return x + h


class Downsample(nn.Module):
  """A 3x3 convolution with stride 2; `padding` zeros before and after each spatial axis."""

  padding: tuple[int, int] = (1, 1)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [b, h / 2, w / 2, c]."""
    c = x.shape[-1]
    return nn.Conv(c, (3, 3), (2, 2), [self.padding] * 2, dtype=self.dtype, name='conv')(x)


class Upsample(nn.Module):
  """Nearest-neighbour upsampling by 2, then a 3x3 convolution."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [b, 2h, 2w, c]."""
    return Conv3x3(x.shape[-1], self.dtype, upsample=True, name='conv')(x)


@dataclasses.dataclass(frozen=True)
class Temporal:
  """The temporal layers of a `LatentUNet`, and their fields (see `TemporalTransformer`)."""

  middle: bool = False  # the middle block has one too (AnimateDiff v2, V-Express)
  heads: int = 8
  blocks: int = 1
  layers: int = 2
  max_frames: int = 24
  speed: bool = False
  zero_speed: bool = True
  groups: int | None = None  # None: the U-Net's


@dataclasses.dataclass(frozen=True)
class Conditioning:
  """What a `LatentUNet` is conditioned on besides the timestep. Every field may be absent.

  b' stands for a batch of which each entry is shared by b * frames / b' consecutive images.

  Attributes:
    contexts: by name (see `transformer.CONTEXTS`), what spatial transformers attend to: tokens [b', m, d], or tokens
      of each of them by block path, as another LatentUNet returns its features for 'reference'. In place of an array
      its keys and values, see `precompute_kv`.
    context_scales: by context, the factor of that attention's output: a number, or one for each image [b * frames].
      'modulation' is the factor of the difference from `silent_modulation`.
    motion_features: by layer path, features [b, k, h, w, c] of the k frames before the clip, for the temporal layers.
    speed: [b, m, d] tokens for the temporal layers.
    guide_features: [b', h, w, widths[0]], added to the output of the first convolution (face regions, keypoints).
    modulation: [b', d], scales and shifts the features of every residual block.
    silent_modulation: the modulation of silence, from which context_scales['modulation'] scales; None: no scaling.
  """

  contexts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  context_scales: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  motion_features: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)
  speed: jax.Array | None = None
  guide_features: jax.Array | None = None
  modulation: jax.Array | None = None
  silent_modulation: jax.Array | None = None


jax.tree_util.register_dataclass(Conditioning, [f.name for f in dataclasses.fields(Conditioning)], [])


class LatentUNet(nn.Module):
  """Residual blocks conditioned on time, spatial transformers at chosen levels, optional temporal layers.

  Attributes:
    out_channels: channels of the prediction.
    widths: channels of each level; each further level halves the resolution.
    attention: for each level, whether it has spatial transformers (the middle block always does).
    layers: residual blocks per level of the down path (the up path has one more).
    heads: of every attention, or of those at each level (the middle block has the last level's).
    contexts: what spatial transformers attend to besides their own pixels, see `transformer.CONTEXTS`.
    zero_contexts: the output projections of context attention are zero-initialised.
    groups: of the GroupNorms.
    temporal: temporal layers after every spatial transformer or residual block of every level, or None.
    head: whether the prediction is computed; a network that only provides features can do without (None is returned).
    dtype: of the computation; parameters and normalisation statistics are float32.
    remat: recompute the blocks' activations in the backward pass instead of storing them.
  """

  out_channels: int = 4
  widths: tuple[int, ...] = (320, 640, 1280, 1280)
  attention: tuple[bool, ...] = (True, True, True, False)
  layers: int = 2
  heads: int | tuple[int, ...] = 8
  contexts: tuple[str, ...] = ('text',)
  zero_contexts: bool = False
  groups: int = 32
  temporal: Temporal | None = None
  head: bool = True
  dtype: Any = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(
    self, x: jax.Array, timesteps: jax.Array, conditioning: Conditioning, frames: int = 1
  ) -> tuple[jax.Array | None, dict[str, jax.Array]]:
    """Predicts from noisy latents.

    Args:
      x: [b * frames, h, w, c] noisy latents; h and w are multiples of 2 ** (levels - 1).
      timesteps: [b].
      conditioning: everything else that the prediction depends on.
      frames: per clip.

    Returns:
      The prediction [b * frames, h, w, out_channels], float32, and features by path: 'PATH_attentions_I' [b * frames,
      h * w, c] for reference attention, 'PATH_layers_I' [b * frames, h, w, c] for temporal layers.

    Raises:
      ValueError: h or w is not such a multiple.
    """
    levels = len(self.widths)
    if x.shape[1] % 2 ** (levels - 1) or x.shape[2] % 2 ** (levels - 1):
      raise ValueError(f'latents of {x.shape[1]}x{x.shape[2]}: both sides must be multiples of {2 ** (levels - 1)}')
    time, modulation = self._embed_time(timesteps), self._embed_modulation(conditioning)
    features = {}

    def resnet(x, width, name):
      module = self._wrap(ResnetBlock)(width, self.groups, dtype=self.dtype, name=name)
      return module(x, time, modulation)

    def layer(x, level, path, i, attends):
      """Residual block, spatial transformer, temporal layer."""
      x = resnet(x, self.widths[level], f'{path}_resnets_{i}')
      if attends:
        x, features[f'{path}_attentions_{i}'] = self._attend(x, level, f'{path}_attentions_{i}', conditioning)
      features[f'{path}_layers_{i}'] = x
      return self._temporal_layer(x, path, i, conditioning, frames)

    # Down. The up path concatenates each layer's output again.
    x = Conv3x3(self.widths[0], self.dtype, name='conv_in')(x)
    if (guide := conditioning.guide_features) is not None:
      x = x + jnp.repeat(guide, x.shape[0] // guide.shape[0], axis=0).astype(x.dtype)
    skips = [x]
    for level in range(levels):
      for i in range(self.layers):
        x = layer(x, level, f'down_blocks_{level}', i, self.attention[level])
        skips.append(x)
      if level < levels - 1:
        x = Downsample(dtype=self.dtype, name=f'down_blocks_{level}_downsamplers_0')(x)
        skips.append(x)

    # Middle.
    x = layer(x, levels - 1, 'mid_block', 0, True)
    x = resnet(x, self.widths[-1], 'mid_block_resnets_1')

    # Up. One layer more per level than down, for the skip connection of the downsampled features.
    for level in reversed(range(levels)):
      path = f'up_blocks_{levels - 1 - level}'
      for i in range(self.layers + 1):
        x = layer(jnp.concatenate([x, skips.pop()], axis=-1), level, path, i, self.attention[level])
      if level:
        x = Upsample(dtype=self.dtype, name=f'{path}_upsamplers_0')(x)
    if not self.head:
      return None, features
    x = GroupNorm(self.groups, 1e-5, silu=True, name='conv_norm_out')(x)
    return Conv3x3(self.out_channels, self.dtype, name='conv_out')(x).astype(jnp.float32), features

  def _wrap(self, module, **how):
    return nn.remat(module, **how) if self.remat else module

  def _embed_time(self, timesteps: jax.Array) -> jax.Array:
    """[b] -> [b, 4 widths[0]]."""
    dense = lambda name: nn.Dense(4 * self.widths[0], dtype=self.dtype, name=name)
    x = dense('time_embedding_linear_1')(sinusoid(timesteps, self.widths[0]).astype(self.dtype))
    return nn.silu(dense('time_embedding_linear_2')(nn.silu(x)))

  def _embed_modulation(self, conditioning: Conditioning) -> jax.Array | None:
    """[b', 4 widths[0]], its difference from silence scaled."""
    if conditioning.modulation is None:
      return None
    embedding = nn.Dense(4 * self.widths[0], dtype=self.dtype, name='modulation_embedding')
    modulation = nn.silu(embedding(conditioning.modulation))
    if conditioning.silent_modulation is None:
      return modulation
    silence = nn.silu(embedding(conditioning.silent_modulation))
    return silence + scale_batch(modulation - silence, conditioning.context_scales.get('modulation', 1.0))

  def _attend(self, x: jax.Array, level: int, name: str, conditioning: Conditioning) -> tuple[jax.Array, jax.Array]:
    heads = self.heads if isinstance(self.heads, int) else self.heads[level]
    contexts = {k: v[name] if isinstance(v, Mapping) else v for k, v in conditioning.contexts.items()}
    fields = (heads, self.contexts, self.zero_contexts, self.groups, self.dtype)
    return self._wrap(SpatialTransformer)(*fields, name=name)(x, contexts, conditioning.context_scales)

  def _temporal_layer(self, x: jax.Array, path: str, i: int, conditioning: Conditioning, frames: int) -> jax.Array:
    if self.temporal is None or (path == 'mid_block' and not self.temporal.middle):
      return x
    fields = {k: v for k, v in dataclasses.asdict(self.temporal).items() if k != 'middle'}
    fields['groups'] = fields['groups'] or self.groups
    # Published checkpoints have one module around the transformer, and so does the name.
    name = f'{path}_motion_modules_{i}_temporal_transformer'
    module = self._wrap(TemporalTransformer, static_argnums=(2,))(**fields, dtype=self.dtype, name=name)
    return module(x, frames, conditioning.motion_features.get(f'{path}_layers_{i}'), conditioning.speed)


def precompute_kv(params: Mapping, contexts: Mapping[str, Any], dtype=jnp.float32) -> dict[str, dict[str, tuple]]:
  """Keys and values of contexts that stay the same over many calls, computed once, outside the sampling loop.

  Args:
    params: of a LatentUNet.
    contexts: see `Conditioning`; features of layers that it does not have are ignored.
    dtype: of the computation.

  Returns:
    (k, v) by context and block path, which `Conditioning.contexts` accepts in place of the contexts.
  """
  computed = {}
  for context, value in contexts.items():
    name = CONTEXTS[context][1]
    computed[context] = {
      path: keys_and_values(
        tree['transformer_blocks_0'][name], value[path] if isinstance(value, Mapping) else value, dtype
      )
      for path, tree in params.items()
      if '_attentions_' in path and name in tree['transformer_blocks_0']
    }
  return computed

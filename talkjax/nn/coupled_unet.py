"""MM-Diffusion's coupled U-Net: two U-Nets, of video and of audio, that attend to each other (arXiv 2212.09478).

Shapes: video [b, f, h, w, c], audio [b, s, c]. Each level halves height and width and quarters the audio's length;
the number of frames stays. Modules have the published names, '_' in place of '.'.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.coupled_blocks import AUDIO_FACTOR, ConvAlong, CrossAttention, FrameConv, Pair, ResBlock, VideoConv
from talkjax.nn.embedding import sinusoid
from talkjax.nn.norm import GroupNorm

_ZERO = nn.initializers.zeros


class CoupledUNet(nn.Module):
  """The coupled U-Net: epsilon of video and audio from both, noised alike.

  Attributes:
    video_channels, audio_channels: of the predictions.
    width: channels of the first level, and of the timestep's embedding.
    multipliers: channels of each level as multiples of `width`.
    num_res_blocks: residual blocks per level of the encoder (the decoder has one more).
    video_attention, audio_attention: levels with attention within a modality, by their downsampling factor.
    cross_attention: levels with attention between modalities, by their downsampling factor.
    windows: in frames, for each of `cross_attention`.
    shift: windows are shifted.
    middle_window: window in frames of the middle's attention between modalities, not shifted; None for none.
    heads: of attention within a modality.
    head_channels: per head of attention between modalities; None: `heads` heads.
    dropout: rate inside the residual blocks while training.
    scale_shift: see `ResBlock`.
    num_captions: known captions (section IV.C of the joint paper); label `num_captions` is no caption. 0: no captions.
    decoder: False leaves the decoder out and returns the middle's features.
    dtype: of the computation; parameters and normalisation statistics are float32.
    remat: recompute the blocks in the backward pass instead of saving their activations.
  """

  video_channels: int = 3
  audio_channels: int = 1
  width: int = 128
  multipliers: tuple[float, ...] = (1, 2, 3, 4)
  num_res_blocks: int = 2
  video_attention: tuple[int, ...] = (2, 4, 8)
  audio_attention: tuple[int, ...] = ()
  cross_attention: tuple[int, ...] = (2, 4, 8)
  windows: tuple[int, ...] = (1, 4, 8)
  shift: bool = True
  middle_window: int | None = 16
  heads: int = 4
  head_channels: int | None = 64
  dropout: float = 0.1
  scale_shift: bool = True
  num_captions: int = 0
  decoder: bool = True
  dtype: Any = jnp.float32
  remat: bool = False

  def draw_shifts(self, key: jax.Array, frames: int) -> jax.Array:
    """Shifts for one call, drawn in training and in sampling: int32 [k], the encoder's blocks first.

    Each is uniform between 0 and frames - window, both included; without `shift` all are 0.
    """
    limits = jnp.asarray([max(frames - w, 0) + 1 if self.shift else 1 for w in self._block_windows()], jnp.int32)
    return jax.random.randint(key, limits.shape, 0, limits, jnp.int32)

  def _block_windows(self) -> list[int]:
    """The window of each shifted attention between modalities, in the order of their calls."""
    by_factor = dict(zip(self.cross_attention, self.windows, strict=True))
    levels = [by_factor[2**n] for n in range(len(self.multipliers)) if 2**n in by_factor]
    down = [w for w in levels for _ in range(self.num_res_blocks)]
    return down + [w for w in reversed(levels) for _ in range(self.num_res_blocks + 1)]

  @nn.compact
  def __call__(
    self,
    video: jax.Array,
    audio: jax.Array,
    timesteps: jax.Array,
    shifts: jax.Array,
    captions: jax.Array | None = None,
    train: bool = False,
  ) -> Pair:
    """Predicts from noisy video and audio.

    Args:
      video: [b, f, h, w, c]; height and width are multiples of 2 ** (levels - 1).
      audio: [b, s, c], a multiple of 4 ** (levels - 1) long.
      timesteps: [b], shared by both.
      shifts: of the windows, from `draw_shifts`.
      captions: int [b], at most `num_captions`; None for a network without captions.
      train: dropout on (needs the 'dropout' rng).

    Returns:
      ([b, f, h, w, video_channels], [b, s, audio_channels]), float32. Without decoder the features of both modalities
      after the middle.

    Raises:
      ValueError: sizes are no such multiples, or captions are missing or unexpected.
    """
    self._check(video, audio, captions)
    last = len(self.multipliers) - 1
    embeddings = self._embed(timesteps, captions)
    shifts = iter(shifts)

    def layer(pair, level, depth, name):
      """Residual block, then attention between the modalities where this level has it."""
      pair = self._block(level, depth, f'{name}_0')(*pair, *embeddings, train)
      if 2**level not in self.cross_attention:
        return pair
      window = self.windows[self.cross_attention.index(2**level)]
      return self._cross(level, window, f'{name}_1')(*pair, next(shifts) if self.shift else None)

    # Encoder: every block's output is a skip connection to the decoder.
    audio = ConvAlong(self._features(0), dtype=self.dtype, name='input_blocks_0_0_audio_conv_audio_conv')(audio)
    pair = VideoConv(self._features(0), self.dtype, name='input_blocks_0_0_video_conv')(video), audio
    skips = [pair]  # the dilation of the audio's convolutions grows with their number
    for level in range(last + 1):
      for _ in range(self.num_res_blocks):
        pair = layer(pair, level, len(skips), f'input_blocks_{len(skips)}')
        skips.append(pair)
      if level != last:
        pair = self._block(level, len(skips), f'input_blocks_{len(skips)}_0', 'downsample')(*pair, *embeddings, train)
        skips.append(pair)

    pair = self._block(last, len(skips), 'middle_blocks_0')(*pair, *embeddings, train)
    if self.middle_window is not None:
      pair = self._cross(last, self.middle_window, 'middle_blocks_1')(*pair)
    name = f'middle_blocks_{1 if self.middle_window is None else 2}'
    pair = self._block(last, len(skips), name)(*pair, *embeddings, train)

    if not self.decoder:
      return pair

    # Decoder: one block more per level than in the encoder, because the downsampled features are skips too.
    for index in range(len(skips)):
      level = last - index // (self.num_res_blocks + 1)
      pair = tuple(jnp.concatenate(both, axis=-1) for both in zip(pair, skips.pop()))
      pair = layer(pair, level, len(skips), f'output_blocks_{index}')
      if level and index % (self.num_res_blocks + 1) == self.num_res_blocks:
        name = f'output_blocks_{index}_{2 if 2**level in self.cross_attention else 1}'
        pair = self._block(level, len(skips) - 1, name, 'upsample')(*pair, *embeddings, train)
    return self._predict(*pair)

  def _check(self, video, audio, captions):
    levels = len(self.multipliers)
    if any(side % 2 ** (levels - 1) for side in video.shape[2:4]):
      raise ValueError(f'frames of {video.shape[2]}x{video.shape[3]}: sides must be multiples of {2 ** (levels - 1)}')
    if audio.shape[1] % AUDIO_FACTOR ** (levels - 1):
      raise ValueError(f'audio of {audio.shape[1]} samples: expected a multiple of {AUDIO_FACTOR ** (levels - 1)}')
    if (captions is None) != (not self.num_captions):
      how = 'missing' if captions is None else 'given'
      raise ValueError(f'captions are {how}, but num_captions is {self.num_captions}')

  def _embed(self, timesteps, captions):
    """What every block is conditioned on, [b, width] each, after the SiLU: the timestep, and the caption or None."""
    dense = lambda name: nn.Dense(self.width, dtype=self.dtype, name=name)
    time = dense('time_embed_2')(nn.silu(dense('time_embed_0')(sinusoid(timesteps, self.width).astype(self.dtype))))
    if captions is None:
      return nn.silu(time), None
    table = nn.Embed(self.num_captions + 1, self.width, dtype=self.dtype, name='caption_embed')
    return nn.silu(time), nn.silu(table(captions))

  def _block(self, level, depth, name, resize=None):
    middle = name.startswith('middle')
    heads = lambda levels: self.heads if resize is None and (middle or 2**level in levels) else 0
    module = nn.remat(ResBlock, static_argnums=(5,)) if self.remat else ResBlock
    return module(
      self._features(level),
      2 ** (depth % 10),
      resize,
      heads(self.video_attention),
      heads(self.audio_attention),
      self.scale_shift,
      self.dropout,
      self.dtype,
      name=name,
    )

  def _cross(self, level, window, name):
    module = nn.remat(CrossAttention) if self.remat else CrossAttention
    return module(window, self.head_channels or self._features(level) // self.heads, self.dtype, name=name)

  def _features(self, level):
    return int(self.multipliers[level] * self.width)

  def _predict(self, video, audio):
    video = GroupNorm(silu=True, name='video_out_0_GroupNorm')(video)
    video = FrameConv(self.video_channels, self.dtype, name='video_out_2_video_conv')(video)
    audio = GroupNorm(silu=True, name='audio_out_0_GroupNorm')(audio)
    audio = ConvAlong(self.audio_channels, 1, self.dtype, kernel_init=_ZERO, name='audio_out_2_audio_conv')(audio)
    return video.astype(jnp.float32), audio.astype(jnp.float32)


class JointClassifier(nn.Module):
  """Class logits of noisy video and audio together: the encoder of a coupled U-Net, a pool, a dense layer.

  Section IV.C of the joint audio-video paper: a classifier of the video alone made video and audio disagree.

  Attributes:
    unet: with `decoder=False`.
    num_classes: logits.
  """

  unet: CoupledUNet
  num_classes: int

  @nn.compact
  def __call__(
    self, video: jax.Array, audio: jax.Array, timesteps: jax.Array, shifts: jax.Array, train: bool = False
  ) -> jax.Array:
    """Arguments as of `CoupledUNet` -> logits [b, num_classes], float32."""
    pair = self.unet(video, audio, timesteps, shifts, train=train)
    pooled = [
      GroupNorm(silu=True, name=f'norm_{kind}')(x).mean(tuple(range(1, x.ndim - 1)))
      for kind, x in zip(('video', 'audio'), pair, strict=True)
    ]
    return nn.Dense(self.num_classes, name='logits')(jnp.concatenate(pooled, axis=-1).astype(jnp.float32))

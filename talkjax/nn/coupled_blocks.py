"""Blocks of networks with two branches, of video and of audio: MM-Diffusion's (arXiv 2212.09478).

Shapes: video [b, f, h, w, c], audio [b, s, c]. Modules have the published names, '_' in place of '.'.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.attention import attention
from talkjax.nn.conv import Conv3x3, conv3x3, conv_along, downsample, upsample
from talkjax.nn.dropout import Dropout
from talkjax.nn.norm import GroupNorm

AUDIO_FACTOR = 4  # by which each level shortens the audio
_ZERO = nn.initializers.zeros  # final projections are zero-initialised, so every block starts as the identity

Pair = tuple[jax.Array, jax.Array]  # video, audio


class ConvAlong(nn.Module):
  """A convolution along axis 1, 3 taps `dilation` apart, zeros outside: [b, n, ..., i] -> [b, n, ..., features]."""

  features: int
  dilation: int = 1
  dtype: Any = jnp.float32
  kernel_init: Callable = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param('kernel', self.kernel_init, (3, x.shape[-1], self.features), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
    y = conv_along(x.astype(self.dtype), kernel.astype(self.dtype), self.dilation)
    return y + bias.astype(self.dtype)


class VideoConv(nn.Module):
  """A 3x3 convolution of every frame, then a convolution with 3 taps over time ("2d+1d")."""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, f, h, w, c] -> [b, f, h, w, features]."""
    b, f, h, w, c = x.shape
    x = Conv3x3(self.features, self.dtype, name='video_conv_spatial')(x.reshape(b * f, h, w, c))
    return ConvAlong(self.features, dtype=self.dtype, name='video_conv_temporal')(x.reshape(b, f, h, w, -1))


class FrameConv(nn.Module):
  """A 3x3x3 convolution over time and space, zero-initialised: [b, f, h, w, c] -> [b, f, h, w, features].

  It is computed as one convolution of the frames with 3 * features channels, whose thirds are added one frame apart.
  """

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    b, f, h, w, c = x.shape
    kernel = self.param('kernel', _ZERO, (3, 3, 3, c, self.features), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
    kernel = jnp.moveaxis(kernel.astype(self.dtype), 0, -2).reshape(3, 3, c, 3 * self.features)
    y = conv3x3(x.astype(self.dtype).reshape(b * f, h, w, c), kernel).reshape(b, f, h, w, 3, self.features)
    pad = lambda a: jnp.pad(a, [(0, 0), (1, 1), (0, 0), (0, 0), (0, 0)])
    return pad(y[..., 0, :])[:, :-2] + y[..., 1, :] + pad(y[..., 2, :])[:, 2:] + bias.astype(self.dtype)


class SelfAttention(nn.Module):
  """x + project(attention(GN(x))) among the tokens of each sequence, which is normalised by itself.

  Attributes:
    heads: of the attention.
    over_time: sequences are the frames at each pixel; otherwise the pixels of each frame, or the positions of audio.
    dtype: of the computation.
  """

  heads: int
  over_time: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Video [b, f, h, w, c] or audio [b, s, c] -> the same shape."""
    shape, c = x.shape, x.shape[-1]
    if self.over_time:
      x = jnp.moveaxis(x, 1, 3)  # [b, h, w, f, c]
      sequences = x.shape
    else:
      sequences = (*shape[:2], -1, c) if x.ndim == 5 else shape
    n = math.prod(shape[2:4]) if x.ndim == 5 and not self.over_time else x.shape[-2]
    x = x.reshape(-1, n, c)
    qkv = nn.Dense(3 * c, dtype=self.dtype, name='qkv')(GroupNorm(name='norm_GroupNorm')(x))
    q, k, v = (a.reshape(-1, n, self.heads, c // self.heads) for a in jnp.split(qkv, 3, axis=-1))
    y = attention(q, k, v).reshape(x.shape)
    x = x + nn.Dense(c, dtype=self.dtype, kernel_init=_ZERO, name='proj_out')(y)
    return jnp.moveaxis(x.reshape(sequences), 3, 1) if self.over_time else x.reshape(shape)


class CrossAttention(nn.Module):
  """Random-shift multi-modal attention (section 3.2): the frames attend to sounds, and sounds to frames, in windows.

  Each frame has s // f audio positions. With a shift, frame i attends to the audio of the frames i + shift to i + shift
  + window - 1, and its own audio to their pixels; both wrap around at the end. What is left of the audio after the last
  frame attends as the last frame's does.

  Attributes:
    window: in frames.
    head_channels: per attention head.
  """

  window: int
  head_channels: int = 64
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, video: jax.Array, audio: jax.Array, shift: jax.Array | None = None) -> Pair:
    """video [b, f, h, w, c], audio [b, s, c], shift in frames (an integer; None: none) -> the same shapes.

    Raises:
      ValueError: there are fewer audio positions than frames.
    """
    c = video.shape[-1]
    (b, f), n, s = video.shape[:2], video.shape[2] * video.shape[3], audio.shape[1]
    per = s // f
    if not per:
      raise ValueError(f'{s} positions of audio for {f} frames: expected at least one for each frame')
    dense = lambda width, name, **how: nn.Dense(width, dtype=self.dtype, name=name, **how)
    of_video = dense(3 * c, 'v_qkv')(GroupNorm(name='v_norm_GroupNorm')(video)).reshape(b, f, n, 3 * c)
    of_audio = dense(3 * c, 'a_qkv')(GroupNorm(name='a_norm_GroupNorm')(audio))

    heads = lambda x: x.reshape(-1, x.shape[-2], c // self.head_channels, self.head_channels)
    video_q, *video_kv = jnp.split(of_video, 3, axis=-1)
    audio_q, *audio_kv = jnp.split(of_audio, 3, axis=-1)
    everything = self.window == f and s == per * f and shift is None
    if everything:  # one window holds all
      video_out = attention(heads(video_q.reshape(b, f * n, c)), *map(heads, audio_kv))
      audio_out = attention(heads(audio_q), *(heads(x.reshape(b, f * n, c)) for x in video_kv))
    else:
      audio_kv = [_windows(x, f, per, self.window, shift) for x in audio_kv]  # [b, f, window * per, c]
      video_kv = [_windows(x.reshape(b, f * n, c), f, n, self.window, shift) for x in video_kv]
      video_out = attention(heads(video_q), *map(heads, audio_kv))
      own = audio_q[:, : f * per].reshape(b, f, per, c)
      audio_out = attention(heads(own), *map(heads, video_kv)).reshape(b, f * per, c)
      if s > f * per:
        rest = attention(heads(audio_q[:, f * per :]), *(heads(x[:, -1]) for x in video_kv)).reshape(b, -1, c)
        audio_out = jnp.concatenate([audio_out, rest], axis=1)
    video = video + dense(c, 'video_proj_out_video_conv', kernel_init=_ZERO)(video_out.reshape(video.shape))
    return video, audio + dense(c, 'audio_proj_out_audio_conv', kernel_init=_ZERO)(audio_out.reshape(audio.shape))


def _windows(x: jax.Array, frames: int, per: int, window: int, shift: jax.Array | None) -> jax.Array:
  """x [b, n, c] in rows of `per` for each frame -> [b, frames, window * per, c]: the window of each, wrapping at n."""
  n = x.shape[1]
  if shift is not None:
    x = jnp.roll(x, -per * shift, axis=1)
  needed = (frames + window - 1) * per
  x = jnp.concatenate([x] * -(-needed // n), axis=1)[:, :needed]
  rows = x.reshape(x.shape[0], frames + window - 1, per, -1)
  return jnp.concatenate([rows[:, i : i + frames] for i in range(window)], axis=2)


class ResBlock(nn.Module):
  """A residual block of both modalities, and attention within each (section 3.2).

  Both branches: h = out(SiLU(AdaGN(conv(SiLU(GN(x)))))), x + h, with one projection of the embedding for both. In eq. 9
  of the joint paper, AdaGN(h, y) = y_t GN(h) + y_c: y_t, the scale, and a shift are projections of the timestep's
  embedding as published, and the caption's projection, zero-initialised, is added to the shift. Unlike in ADM,
  resizing comes after the first convolution. GroupNorm runs over time and space together.

  Attributes:
    features: output channels.
    dilation: of the audio convolution.
    resize: None, 'downsample' or 'upsample'.
    video_attention: heads of the attention over space, then time; 0 for none.
    audio_attention: heads of the audio's attention; 0 for none.
    scale_shift: the embedding scales and shifts; False adds it before the norm.
  """

  features: int
  dilation: int = 1
  resize: str | None = None
  video_attention: int = 0
  audio_attention: int = 0
  scale_shift: bool = True
  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, video: jax.Array, audio: jax.Array, embedding: jax.Array, caption: jax.Array | None, train: bool
  ) -> Pair:
    """video [b, f, h, w, c], audio [b, s, c], embedding and caption [b, d] after their SiLU -> both, resized."""
    film = nn.Dense(self.features * (2 if self.scale_shift else 1), dtype=self.dtype, name='emb_layers_1')(embedding)
    if caption is not None:
      shift = nn.Dense(self.features, dtype=self.dtype, kernel_init=_ZERO, name='caption_layers_1')(caption)
      film = film + jnp.pad(shift, [(0, 0), (film.shape[-1] - self.features, 0)])

    v = GroupNorm(silu=True, name='video_in_layers_0_GroupNorm')(video)
    v = VideoConv(self.features, self.dtype, name='video_in_layers_2')(v)
    a = GroupNorm(silu=True, name='audio_in_layers_0_GroupNorm')(audio)
    a = ConvAlong(self.features, self.dilation, self.dtype, name='audio_in_layers_2_audio_conv')(a)
    v, video = (resize_video(x, self.resize) for x in (v, video))
    a, audio = (resize_audio(x, self.resize) for x in (a, audio))
    video = self._add(video, v, film, 'video', train)
    audio = self._add(audio, a, film, 'audio', train)
    if self.video_attention:
      video = SelfAttention(self.video_attention, False, self.dtype, name='spatial_attention_block')(video)
      video = SelfAttention(self.video_attention, True, self.dtype, name='temporal_attention_block')(video)
    if self.audio_attention:
      audio = SelfAttention(self.audio_attention, False, self.dtype, name='audio_attention_block')(audio)
    return video, audio

  def _add(self, x, h, film, kind, train):
    """x + out(h), where x has a 1x1 convolution if the number of channels changes."""
    if not self.scale_shift:
      h = h + film.reshape(film.shape[0], *(1,) * (h.ndim - 2), -1)
    norm = GroupNorm(silu=True, name=f'{kind}_out_layers_0_GroupNorm')
    h = Dropout(self.dropout)(norm(h, (film,) if self.scale_shift else ()), train)
    dense = lambda name, **how: nn.Dense(self.features, dtype=self.dtype, name=f'{kind}_{name}_{kind}_conv', **how)
    h = dense('out_layers_3', kernel_init=_ZERO)(h)
    return h + (dense('skip_connection')(x) if x.shape[-1] != self.features else x)


def resize_video(x: jax.Array, how: str | None) -> jax.Array:
  """Every frame 'downsample'd or 'upsample'd by 2: [b, f, h, w, c] -> [b, f, h', w', c]."""
  if how is None:
    return x
  y = (downsample if how == 'downsample' else upsample)(x.reshape(-1, *x.shape[2:]))
  return y.reshape(*x.shape[:2], *y.shape[1:])


def resize_audio(x: jax.Array, how: str | None) -> jax.Array:
  """Audio averaged or repeated by AUDIO_FACTOR: [b, s, c] -> [b, s', c]."""
  b, s, c = x.shape
  if how == 'downsample':
    return x.reshape(b, s // AUDIO_FACTOR, AUDIO_FACTOR, c).mean(2).astype(x.dtype)
  return jnp.repeat(x, AUDIO_FACTOR, axis=1) if how == 'upsample' else x

"""Two streams over the same frames, of motion and of sound, that see each other: the small counterpart of MM-Diffusion.

Where `coupled_unet` has images and waveforms, both modalities are sequences here, with one row of numbers per frame.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.coupled_blocks import ConvAlong, CrossAttention
from talkjax.nn.dropout import Dropout
from talkjax.nn.embedding import sinusoid
from talkjax.nn.transformer import Attention, positions

_ZERO = nn.initializers.zeros
COUPLINGS = ('time', 'windows', 'attention')
REACH = (2.0, 8.0, 32.0)  # frames within which the ends of a video are noticed
Pair = tuple[jax.Array, jax.Array]  # motion, sound


def _normalise(x: jax.Array) -> jax.Array:
  """Layer normalisation without parameters."""
  return nn.LayerNorm(use_bias=False, use_scale=False, use_fast_variance=False, dtype=x.dtype)(x)


class StreamBlock(nn.Module):
  """x += convolutions over time; x += attention over the stream's own frames.

  The first normalisation is adaptive (eq. 9 of the joint audio-video paper): the embedding of timestep and caption
  scales and shifts it.

  Attributes:
    heads: of the attention.
    dilation: of the first convolution, in frames.
    dropout: rate while training.
    dtype: of the computation.
  """

  heads: int
  dilation: int = 1
  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, embedding: jax.Array, train: bool) -> jax.Array:
    """x [b, f, c], embedding [b, d] -> [b, f, c]."""
    c = x.shape[-1]
    film = nn.Dense(2 * c, dtype=self.dtype, kernel_init=_ZERO, name='adaptive')(embedding)[:, None]
    scale, shift = jnp.split(film, 2, axis=-1)
    h = _normalise(x) * (1 + scale) + shift
    value, gate = jnp.split(ConvAlong(2 * c, self.dilation, self.dtype, name='conv_in')(h), 2, axis=-1)
    h = Dropout(self.dropout)(value * nn.silu(gate), train)
    x = x + ConvAlong(c, dtype=self.dtype, kernel_init=_ZERO, name='conv_out')(h)
    return x + Attention(self.heads, zero=True, dtype=self.dtype, name='attn')(_normalise(x))


class CoupledStreams(nn.Module):
  """Predicts both modalities from both, noised alike.

  Attributes:
    motion_channels, sound_channels: of the predictions.
    width: channels of each stream.
    blocks: per stream.
    heads: of every attention.
    coupling: what a frame sees of the other stream before each block: 'time', its frames from one before to one after
      (a zero-initialised convolution); 'windows', random-shift windows as MM-Diffusion has them; 'attention', all.
    windows: in frames, of 'windows', for each block.
    num_captions: known captions; label `num_captions` is no caption. 0: no captions.
    ends: frames are conditioned on how far the video's first and last frame are.
    predict: False returns both streams' features [b, f, width] instead.
    dropout: rate while training.
    dtype: of the computation.
  """

  motion_channels: int
  sound_channels: int
  width: int = 192
  blocks: int = 4
  heads: int = 4
  coupling: str = 'time'
  windows: tuple[int, ...] = (1, 4, 8, 8)
  num_captions: int = 0
  ends: bool = False
  predict: bool = True
  dropout: float = 0.0
  dtype: Any = jnp.float32

  def draw_shifts(self, key: jax.Array, frames: int) -> jax.Array:
    """Shifts of the windows for one call, as of `CoupledUNet.draw_shifts`: int32 [blocks]."""
    limits = [max(frames - w, 0) + 1 for w in self.windows[: self.blocks]] if self.coupling == 'windows' else []
    limits = jnp.asarray(limits or [1] * self.blocks, jnp.int32)
    return jax.random.randint(key, limits.shape, 0, limits, jnp.int32)

  @nn.compact
  def __call__(
    self,
    motion: jax.Array,
    sound: jax.Array,
    timesteps: jax.Array,
    shifts: jax.Array,
    captions: jax.Array | None = None,
    ends: jax.Array | None = None,
    train: bool = False,
  ) -> Pair:
    """Predicts from noisy motion and sound.

    Args:
      motion: [b, f, motion_channels].
      sound: [b, f, sound_channels].
      timesteps: [b], shared by both.
      shifts: of the windows, from `draw_shifts`.
      captions: int [b], at most `num_captions`; None for a network without captions.
      ends: [b, f, 2] frames since the video's first frame and until its last one; None for a network without `ends`.
      train: dropout on (needs the 'dropout' rng).

    Returns:
      both [b, f, channels], float32.

    Raises:
      ValueError: an unknown coupling, or captions or ends are missing or unexpected.
    """
    if self.coupling not in COUPLINGS:
      raise ValueError(f'coupling {self.coupling!r} is not one of {", ".join(COUPLINGS)}')
    for name, given, wanted in (('captions', captions, self.num_captions), ('ends', ends, self.ends)):
      if (given is None) == bool(wanted):
        raise ValueError(f'{name} are missing' if wanted else f'{name} are given, and the network takes none')
    dense = lambda features, name: nn.Dense(features, dtype=self.dtype, name=name)
    time = dense(self.width, 'time_embed_0')(sinusoid(timesteps, self.width).astype(self.dtype))
    embedding = dense(self.width, 'time_embed_2')(nn.silu(time))
    if captions is not None:
      table = nn.Embed(self.num_captions + 1, self.width, dtype=self.dtype, name='caption_embed')
      embedding = embedding + table(captions)
    embedding = nn.silu(embedding)
    table = jnp.asarray(positions(motion.shape[1], self.width), self.dtype)
    pair = [
      ConvAlong(self.width, dtype=self.dtype, name=f'{name}_in')(x.astype(self.dtype)) + table
      for name, x in (('motion', motion), ('sound', sound))
    ]
    if ends is not None:
      near = jnp.concatenate([jnp.exp(-ends / reach) for reach in REACH], axis=-1).astype(self.dtype)
      pair = [x + dense(self.width, f'{name}_ends')(near) for x, name in zip(pair, ('motion', 'sound'))]
    for i in range(self.blocks):
      pair = self._couple(i, *pair, shifts[i])
      for k, name in enumerate(('motion', 'sound')):
        block = StreamBlock(self.heads, 2 ** (i % 3), self.dropout, self.dtype, name=f'{name}_blocks_{i}')
        pair[k] = block(pair[k], embedding, train)
    if not self.predict:
      return tuple(pair)
    heads = (('motion', self.motion_channels), ('sound', self.sound_channels))
    return tuple(
      nn.Dense(channels, kernel_init=_ZERO, name=f'{name}_out')(_normalise(x).astype(jnp.float32))
      for (name, channels), x in zip(heads, pair)
    )

  def _couple(self, index: int, motion: jax.Array, sound: jax.Array, shift: jax.Array) -> list[jax.Array]:
    """Both streams after what they see of each other."""
    if self.coupling == 'time':
      look = lambda x, name: ConvAlong(self.width, dtype=self.dtype, kernel_init=_ZERO, name=name)(_normalise(x))
      return [motion + look(sound, f'sound_to_motion_{index}'), sound + look(motion, f'motion_to_sound_{index}')]
    frames = motion.shape[1]
    window = frames if self.coupling == 'attention' else min(self.windows[index], frames)
    attend = CrossAttention(window, self.width // self.heads, self.dtype, name=f'cross_{index}')
    shift = shift if self.coupling == 'windows' else None
    video, sound = attend(motion[:, :, None, None], sound, shift)
    return [video[:, :, 0, 0], sound]


class StreamClassifier(nn.Module):
  """Class logits of noisy motion and sound together: the streams, a mean over the frames, a dense layer.

  Attributes:
    streams: with `predict=False`.
    num_classes: logits.
  """

  streams: CoupledStreams
  num_classes: int

  @nn.compact
  def __call__(
    self, motion: jax.Array, sound: jax.Array, timesteps: jax.Array, shifts: jax.Array, train: bool = False
  ) -> jax.Array:
    """Arguments as of `CoupledStreams` -> logits [b, num_classes], float32."""
    pair = self.streams(motion, sound, timesteps, shifts, train=train)
    pooled = jnp.concatenate([_normalise(x).mean(1) for x in pair], axis=-1)
    return nn.Dense(self.num_classes, name='logits')(nn.silu(pooled).astype(jnp.float32))

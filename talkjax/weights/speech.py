"""Frozen speech encoders: wav2vec 2.0, and our own small one, the embedded stand-in for it.

Both turn sound into states, 50 per second: state k belongs to the middle of the samples [320 k, 320 k + 320).
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from talkjax.errors import UserError
from talkjax.media import mel
from talkjax.media.segments import AUDIO_RATE
from talkjax.training import checkpoint
from talkjax.training.workdir import RANDOM, is_workdir

PACKAGED = 'speech_encoder_tiny'  # of talkjax.weights.packaged
KINDS = ('speech_encoder', 'wav2vec2')  # names of the encoders, and of their branches in a system's parameters
RATE = 50  # states per second
HOP = AUDIO_RATE // RATE
_CONTEXT = 2  # seconds of sound on each side of a chunk


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
  """A frozen speech encoder.

  Attributes:
    kind: one of KINDS.
    net: SpeechEncoder or Wav2Vec2.
    layers: 'all' for the outputs of all layers, 'last' for that of the last one.
  """

  kind: str
  net: nn.Module
  layers: str = 'last'

  @property
  def shape(self) -> tuple[int, int]:
    """(layers, channels) of a state."""
    return (self.net.layers if self.kind == 'wav2vec2' and self.layers == 'all' else 1, self.net.width)

  def init(self, rng: jax.Array) -> Any:
    """Fresh parameters, which training replaces by those that `load` finds."""
    own = self.kind == 'speech_encoder'
    shape = (1, 1 + 2 * self.net.context, mel.SPEECH_BANDS) if own else (1, 2 * HOP)
    return self.net.init(rng, jnp.zeros(shape))['params']

  def encode(self, params, waveform: np.ndarray, seconds: int = 64) -> Iterator[np.ndarray]:
    """The states of a waveform of any length, in pieces, at bounded memory.

    Args:
      params: of the network.
      waveform: [s] at 16 kHz; nothing for no sound.
      seconds: of sound that are encoded at once. A longer waveform is split into chunks with 2 seconds of context on
        each side, which is more than our own encoder sees: its states do not depend on the chunks.

    Yields:
      [n, layers, d] float32, ceil(s / 320) rows in total; of wav2vec 2.0 one less, as its last window is incomplete.
    """
    total = -(-len(waveform) // HOP)
    if self.kind == 'wav2vec2' and total:
      waveform = mel.normalised(np.pad(waveform, (0, max(0, AUDIO_RATE // 10 - len(waveform)))))
    chunk, context = seconds * AUDIO_RATE, _CONTEXT * AUDIO_RATE
    body = chunk if len(waveform) <= chunk else chunk - 2 * context
    for start in range(0, total * HOP, body):
      first, last = max(0, start - context), min(start + body + context, len(waveform))
      # Padded to 2, 4, 8, ... seconds, so that only a few lengths are compiled.
      padded = 2 ** math.ceil(math.log2(max(2, (last - first) / AUDIO_RATE))) * AUDIO_RATE
      states = self._encode(params, np.pad(waveform[first:last], (0, padded - last + first)), last - first)
      yield states[(start - first) // HOP :][: min(total - start // HOP, body // HOP)]

  def _encode(self, params, waveform: np.ndarray, samples: int) -> np.ndarray:
    if self.kind == 'wav2vec2':
      return np.asarray(self._compiled(params, waveform[None], samples))[0, : self.net.num_features(samples)]
    context = self.net.context
    columns = np.pad(mel.speech_spectrogram(waveform), ((context, context), (0, 0)))
    return np.asarray(self._compiled(params, columns[None]))[0, : -(-samples // HOP)]

  def __getstate__(self):
    """Without the compiled function: reading processes get encoders, and do not run them."""
    return {name: value for name, value in self.__dict__.items() if name != '_compiled'}

  @functools.cached_property
  def _compiled(self):
    @jax.jit
    def apply(params, *inputs):
      states = self.net.apply({'params': params}, *inputs)
      if self.kind == 'wav2vec2':
        states = jnp.stack(states[1 if self.layers == 'all' else -1 :], axis=2)
      return states.reshape(*states.shape[:2], *self.shape).astype(jnp.float32)

    return apply


def make(settings, layers: str = 'last') -> Encoder | None:
  """The encoder of `config.audio`, or None for a kind that needs none."""
  if settings.kind not in KINDS:
    return None
  if settings.kind == 'wav2vec2':
    from talkjax.nn.wav2vec2 import Wav2Vec2

    return Encoder('wav2vec2', Wav2Vec2(**settings.wav2vec2), layers)
  from talkjax.nn.speech_encoder import SpeechEncoder

  return Encoder('speech_encoder', SpeechEncoder(**settings.speech_encoder))


def load(encoder: Encoder, workdir: str = '', earlier: str = '') -> dict[str, np.ndarray]:
  """The parameters of an encoder by path, without the name of their branch.

  Args:
    encoder: from `make`.
    workdir: of the encoder's training or conversion, or of a system that has it; 'random' for random parameters; ''
      for the default.
    earlier: the workdir that a run starts from, whose encoder is the default if it has one. Otherwise our own encoder
      has the weights that come with the package; wav2vec 2.0 has none.

  Raises:
    UserError: the workdir has no such encoder, it does not fit, or there is no default.
  """
  if not workdir and is_workdir(earlier):
    workdir = earlier if any(p.startswith(f'{encoder.kind}/') for p in checkpoint.saved_paths(earlier)) else ''
  if workdir == RANDOM:
    params = jax.jit(encoder.init)(jax.random.key(0))
    return {path: np.asarray(value) for path, value in flatten_dict(params, sep='/').items()}
  if workdir:
    config, params, _ = checkpoint.load_params(workdir)
    if config.get('pretrained_network') != encoder.kind:
      if encoder.kind not in params:
        remedy = (
          'talkjax.convert --source=wav2vec2'
          if encoder.kind == 'wav2vec2'
          else 'talkjax.train --config=configs/speech_encoder.py'
        )
        raise UserError(
          f'config.audio.weights={workdir} has no {encoder.kind}: expected a workdir made by `python -m {remedy}`, or '
          'the workdir of a system that has one'
        )
      params = params[encoder.kind]
    loaded = {path: np.asarray(value) for path, value in flatten_dict(params, sep='/').items()}
  elif encoder.kind == 'speech_encoder':
    from talkjax.weights import packaged

    workdir, loaded = str(packaged.file(PACKAGED)), packaged.load(PACKAGED)
  else:
    raise UserError(
      'config.audio.kind=wav2vec2 needs weights: set --config.audio.weights to a workdir made by '
      '`python -m talkjax.convert --source=wav2vec2`'
    )
  checkpoint.check_fit(loaded, flatten_dict(jax.eval_shape(encoder.init, jax.random.key(0)), sep='/'), workdir)
  return loaded


def fit_duration(waveform: np.ndarray, seconds: float) -> np.ndarray:
  """A 16 kHz waveform [s], cut or padded with silence to that duration, which an encoder is given."""
  samples = round(seconds * AUDIO_RATE)
  return np.pad(waveform[:samples], (0, max(0, samples - len(waveform))))


def states_at(states: np.ndarray, times: np.ndarray) -> np.ndarray:
  """States [n, ...] interpolated linearly at `times` [k] in seconds: [k, ...]; the ends are held, none are zeros."""
  if not len(states):
    return np.zeros((len(times), *states.shape[1:]), np.float32)
  position = np.clip(np.asarray(times, np.float64) * RATE - 0.5, 0, len(states) - 1)
  left = np.floor(position).astype(int)
  fraction = (position - left).astype(np.float32).reshape(-1, *[1] * (states.ndim - 1))
  right = np.minimum(left + 1, len(states) - 1)
  return states[left].astype(np.float32) * (1 - fraction) + states[right].astype(np.float32) * fraction

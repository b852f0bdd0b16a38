"""Audio features of video frames, as systems are conditioned on them.

`config.audio.kind` is 'none'; 'mel', a spectrogram as the system has it; or the frozen encoder whose states are used:
'speech_encoder', our own, or 'wav2vec2'. States are computed from the whole sound, once: for training by the feature
cache of the corpus, for generation before the first frame. Frames are assigned to them by time, at any frame rate.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.weights import speech


@dataclasses.dataclass(frozen=True)
class Sound:
  """The sound of a video: a 16 kHz waveform [s] float32 in [-1, 1], and the video's frames."""

  waveform: np.ndarray
  num_frames: int
  fps: float

  @classmethod
  def of_record(cls, record: Record, num_frames: int | None = None, fps: float | None = None) -> 'Sound':
    """A record's sound, for its own frames unless others are given."""
    return cls(record.audio.astype(np.float32) / 32768, num_frames or len(record.frames), fps or record.fps)

  @classmethod
  def of_file(cls, path: str, fps: float) -> 'Sound':
    """The sound of a file, for as many frames as it lasts.

    Raises:
      UserError: it cannot be read.
    """
    from talkjax.media import audio

    samples, rate = audio.read_audio_native(path)
    # Rounded up, so that no sound is lost; the tolerance absorbs rounding errors of the division.
    return cls(audio.read_audio(path), max(1, math.ceil(len(samples) / rate * fps - 1e-3)), fps)


class AudioFeatures:
  """The audio features of each frame."""

  def __init__(
    self,
    settings,
    spectrogram: Callable[[Sound], np.ndarray],
    *,
    silence: float = 0.0,
    per_frame: int = 1,
    layers: str = 'last',
    stretched: bool = False,
  ):
    """Features of a kind.

    Args:
      settings: `config.audio`.
      spectrogram: the features [f, d] of a sound for the kind 'mel'.
      silence: the value of a spectrogram that has no power at all; the states of encoders are 0 there.
      per_frame: of an encoder's states, evenly spaced in the duration of a frame and concatenated.
      layers: of wav2vec 2.0, 'all' (concatenated) or 'last'.
      stretched: states are spread over the frames instead of being assigned by time, as V-Express's code does.

    Raises:
      UserError: an unknown kind.
    """
    if settings.kind not in ('none', 'mel', *speech.KINDS):
      raise UserError(f'config.audio.kind={settings.kind!r} is not one of none, mel, {", ".join(speech.KINDS)}')
    self.kind = settings.kind
    self.silence = silence if self.kind == 'mel' else 0.0
    # Encoders compute in float32 whatever `config.dtype`, so that cached states are those of every run.
    self.encoder = speech.make(settings, layers)
    self._spectrogram, self._per_frame, self._stretched = spectrogram, per_frame, stretched

  @property
  def channels(self) -> int:
    """Features of a frame."""
    if self.encoder is None:
      return self._without_encoder(Sound(np.zeros(0, np.float32), 1, 25.0)).shape[1]
    layers, width = self.encoder.shape
    return self._per_frame * layers * width

  def of_record(self, record: Record) -> np.ndarray:
    """The features [f, d] of the record's frames, from its cached states where an encoder is needed.

    Raises:
      UserError: the record has no sound, or its cached states are of other layers.
    """
    sound = Sound.of_record(record)
    if not record.audio.size and self.kind != 'none':
      raise UserError(
        f'clip {record.id} has no sound, which this stage learns from: name only corpora with speech in '
        'config.data.corpus'
      )
    if self.encoder is None:
      return self._without_encoder(sound)
    states = record.features['speech']
    if self.encoder.layers == 'last':
      states = states[:, -1:]
    if states.shape[1:] != self.encoder.shape:
      raise UserError(
        f'config.data.feature_cache has {states.shape[1]} layers of {states.shape[2]} channels of {self.kind}, but '
        f'this system needs {self.encoder.shape[0]} of {self.encoder.shape[1]}: encode the corpus again with '
        f'--speech_layers={self.encoder.layers} --feature_cache=ANOTHER_NAME'
      )
    return self.of_states(states, sound).astype(np.float16)

  def of_sound(self, params, sound: Sound) -> np.ndarray:
    """The features [f, d] float32 of a sound; `params` are those of the system.

    An encoder is given the sound as long as the frames, cut or padded with silence.
    """
    if self.encoder is None:
      return self._without_encoder(sound)
    waveform = speech.fit_duration(sound.waveform, sound.num_frames / sound.fps)
    states = np.concatenate(list(self.encoder.encode(params[self.kind], waveform)))
    return self.of_states(states, sound)

  def pad_index(self, features: np.ndarray, index: np.ndarray) -> np.ndarray:
    """features[index] of [f, d], silent where the index is outside: the smallest value of a spectrogram, else 0."""
    inside = (index >= 0) & (index < len(features))
    values = features[np.clip(index, 0, len(features) - 1)]
    silence = features.min(initial=0) if self.kind == 'mel' else 0
    return np.where(inside[:, None], values, np.asarray(silence, values.dtype))

  def _without_encoder(self, sound: Sound) -> np.ndarray:
    return self._spectrogram(sound) if self.kind == 'mel' else np.zeros((sound.num_frames, 1), np.float32)

  def of_states(self, states: np.ndarray, sound: Sound) -> np.ndarray:
    """The features [f, d] float32 of a sound whose states [n, layers, d] are known."""
    # Stretched: the frames are taken to last exactly as long as the states.
    fps = sound.num_frames * speech.RATE / max(1, len(states)) if self._stretched else sound.fps
    return frame_states(states, sound.num_frames, fps, self._per_frame)


def frame_states(states: np.ndarray, num_frames: int, fps: float, per_frame: int = 1) -> np.ndarray:
  """States [n, ...] of an encoder at evenly spaced times in each frame, concatenated: float32 [num_frames, d].

  One is that of the middle of the frame, two are those of the middles of its halves.
  """
  times = (np.arange(num_frames * per_frame) + 0.5) / (per_frame * fps)
  return speech.states_at(states, times).reshape(num_frames, -1)

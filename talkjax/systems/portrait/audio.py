"""Audio features of every frame, as portrait systems are conditioned on them."""

import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.media import mel
from talkjax.media.segments import AUDIO_RATE

SAMPLES_PER_FRAME = AUDIO_RATE // 25


def record_features(record: Record, config) -> np.ndarray:
  """The features of each frame of a record's sound, [f, d], see `features`.

  Raises:
    UserError: the record has no sound and the config needs it.
  """
  if not record.audio.size and config.audio.kind != 'none':
    raise UserError(
      f'clip {record.id} has no sound, which this stage learns from: name a corpus with speech in config.data.corpus'
    )
  return features(record.audio.astype(np.float32) / 32768, len(record.frames), record.fps, config.audio)


def features(waveform: np.ndarray, count: int, fps: float, settings) -> np.ndarray:
  """The features of each of `count` frames of a 16 kHz waveform: float32 [count, d].

  `settings.kind` is 'mel' (the embedded default): `settings.columns` columns of a log-mel spectrogram of
  `settings.bands` bands over the frame's duration; 'wav2vec2': the frame's 640 samples of the waveform, normalised as
  that encoder expects (the network runs it); or 'none' for stages without sound: one zero.

  Raises:
    UserError: an unknown kind, or a number of columns that does not divide a frame.
  """
  if settings.kind == 'wav2vec2':
    start = np.round(np.arange(count) * (AUDIO_RATE / fps)).astype(int)
    waveform = mel.normalised(waveform) if len(waveform) else waveform
    index = np.minimum(start[:, None], len(waveform)) + np.arange(SAMPLES_PER_FRAME)
    return np.pad(waveform, (0, SAMPLES_PER_FRAME))[index]
  if settings.kind not in ('mel', 'none'):
    raise UserError(f'config.audio.kind={settings.kind!r} is not one of mel, wav2vec2, none')
  if settings.kind == 'none':
    return np.zeros((count, 1), np.float32)
  columns = settings.columns
  hop = AUDIO_RATE / (25 * columns)
  if hop != int(hop):
    raise UserError(f'config.audio.columns={columns} does not divide the {SAMPLES_PER_FRAME} samples of a frame')
  power = mel.mel_power(waveform, n_fft=1024, window=512, hop=int(hop), bands=settings.bands)
  centres = (np.arange(count)[:, None] * (25 / fps) * columns + np.arange(columns)).round().astype(int)
  spectrogram = _log_power(power).T
  return spectrogram[np.clip(centres, 0, len(spectrogram) - 1)].reshape(count, -1).astype(np.float32)


def batch_key(settings) -> str:
  """The key of these features in a batch: what needs an encoder is called `waveform`, the others `audio`."""
  return 'waveform' if settings.kind == 'wav2vec2' else 'audio'


def silence_level(settings) -> float:
  """The value of all features where there is no sound at all."""
  return _log_power(0.0) if settings.kind == 'mel' else 0.0


def _log_power(power: np.ndarray) -> np.ndarray:
  """Logarithm of mel power, scaled to about [-1.5, 1.5] for speech."""
  return (np.log10(np.maximum(power, 1e-6)) + 3) / 2


def pad_index(features: np.ndarray, index: np.ndarray, settings) -> np.ndarray:
  """features[index] of [f, d], silent where the index is outside: the smallest value of a spectrogram, else 0."""
  inside = (index >= 0) & (index < len(features))
  values = features[np.clip(index, 0, len(features) - 1)]
  silence = features.min(initial=0) if settings.kind == 'mel' else 0
  return np.where(inside[:, None], values, silence).astype(np.float32)

"""The log-mel spectrogram that portrait systems are conditioned on where no encoder is used."""

import numpy as np

from talkjax.errors import UserError
from talkjax.media import mel
from talkjax.media.segments import AUDIO_RATE
from talkjax.systems.audio import Sound


def spectrogram(sound: Sound, settings) -> np.ndarray:
  """`settings.columns` columns of `settings.bands` bands over the duration of each frame: float32 [f, d].

  Raises:
    UserError: the number of columns does not divide a frame at 25 frames/s.
  """
  columns = settings.columns
  hop = AUDIO_RATE / (25 * columns)
  if hop != int(hop):
    raise UserError(f'config.audio.columns={columns} does not divide the {AUDIO_RATE // 25} samples of a frame')
  power = mel.mel_power(sound.waveform, n_fft=1024, window=512, hop=int(hop), bands=settings.bands)
  starts = np.arange(sound.num_frames)[:, None] * (25 / sound.fps) * columns
  centres = (starts + np.arange(columns)).round().astype(int)
  values = _log_power(power).T
  return values[np.clip(centres, 0, len(values) - 1)].reshape(sound.num_frames, -1).astype(np.float32)


def _log_power(power: np.ndarray) -> np.ndarray:
  """Logarithm of mel power, scaled to about [-1.5, 1.5] for speech."""
  return (np.log10(np.maximum(power, 1e-6)) + 3) / 2


SILENCE = float(_log_power(np.zeros(())))  # of all features where there is no power at all

"""A log-mel spectrogram from which a waveform can be made again, by the Griffin-Lim algorithm."""

import functools

import numpy as np

from talkjax.media.mel import RATE, mel_filters, mel_power

N_FFT, HOP, BANDS = 1024, 320, 80
ITERATIONS = 60
FLOOR = 1e-5  # power below which a band is silent


def columns_per_frame(fps: float) -> int:
  """Columns of the spectrogram in a frame of video.

  Raises:
    ValueError: the frame has not a whole number of them.
  """
  columns = RATE / HOP / fps
  if columns != round(columns):
    raise ValueError(f'{fps:g} frames/s: expected a divisor of {RATE // HOP}, the columns of a second')
  return round(columns)


def spectrogram(waveform: np.ndarray, columns: int) -> np.ndarray:
  """The log-mel spectrogram of a waveform [s] at 16 kHz, 50 columns per second: float32 [columns, BANDS].

  Column k is the 64 ms around the middle of the samples [320 k, 320 k + 320). Values are decimal logarithms of the
  power, 0 for FLOOR or less.
  """
  length = columns * HOP
  waveform = np.asarray(waveform, np.float32)[:length]
  padded = np.pad(waveform, (HOP // 2, length - len(waveform)))
  power = mel_power(padded, n_fft=N_FFT, window=N_FFT, hop=HOP, bands=BANDS)[:, 1 : columns + 1]
  return np.log10(np.maximum(power / FLOOR, 1)).T.astype(np.float32)


def spectrogram_of_frames(waveform: np.ndarray, frames: int, fps: float) -> np.ndarray:
  """The columns of each frame of a video, in one row: float32 [frames, columns * BANDS]."""
  columns = columns_per_frame(fps)
  return spectrogram(waveform, frames * columns).reshape(frames, columns * BANDS)


def waveform(columns: np.ndarray, seed: int = 0) -> np.ndarray:
  """A waveform whose spectrogram is [n, BANDS], see `spectrogram`: float32 [n * HOP] in [-1, 1].

  Griffin and Lim's algorithm with momentum, as of librosa, from phases that depend on the seed.
  """
  import librosa

  power = np.where(columns > 0, FLOOR * 10.0 ** np.clip(columns, 0, 9), 0).T
  magnitude = np.sqrt(np.maximum(_inverse_filters() @ power, 0))
  silent = np.zeros((len(magnitude), 1))
  # `spectrogram` centres columns half a hop after the multiples of HOP that librosa centres them on.
  magnitude = np.concatenate([silent, magnitude, silent], axis=1)
  made = librosa.griffinlim(
    magnitude.astype(np.float32), n_iter=ITERATIONS, hop_length=HOP, n_fft=N_FFT, random_state=seed
  )
  start = HOP // 2
  return np.clip(np.pad(made, (0, HOP))[start : start + len(columns) * HOP], -1, 1).astype(np.float32)


@functools.cache
def _inverse_filters() -> np.ndarray:
  """From the power of the bands to that of the frequencies: each is a mean of its bands, by their filters' weights."""
  filters = mel_filters(RATE, N_FFT, BANDS, 0.0, RATE / 2).astype(np.float64)
  shares = filters / np.maximum(filters.sum(0, keepdims=True), 1e-12)
  return (shares / filters.sum(1, keepdims=True)[:, :]).T

"""Mel-frequency cepstral coefficients as SyncNet needs them: those of python_speech_features with its defaults.

Golden case syncnet_mfcc.
"""

import numpy as np
import scipy.fft

COEFFICIENTS = 13
COLUMNS_PER_FRAME = 4  # of 10 ms, at 25 frames/s
WINDOW_COLUMNS = 20
FILTERS, LIFTER, EMPHASIS = 26, 22, 0.97
_TINY = np.finfo(np.float64).eps  # replaces zero energies


def mfcc(samples: np.ndarray, rate: int = 16_000) -> np.ndarray:
  """Cepstra of 25 ms every 10 ms: int16 [s] -> float64 [13, n]; the first is the logarithm of the energy.

  Args:
    samples: int16 as it is, without scaling.
    rate: Hz.
  """
  bands, energy = filter_banks(samples, rate)
  cepstra = scipy.fft.dct(np.log(bands), type=2, axis=1, norm='ortho')[:, :COEFFICIENTS]
  cepstra *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / LIFTER)
  cepstra[:, 0] = np.log(energy)
  return cepstra.T


def filter_banks(samples: np.ndarray, rate: int = 16_000) -> tuple[np.ndarray, np.ndarray]:
  """(energies in mel bands [n, FILTERS], energies of the frames [n]); never zero."""
  signal = np.asarray(samples, np.float64)
  signal = np.append(signal[:1], signal[1:] - EMPHASIS * signal[:-1])
  window, hop = (int(np.floor(seconds * rate + 0.5)) for seconds in (0.025, 0.01))
  count = 1 + max(0, -(-(len(signal) - window) // hop))
  signal = np.pad(signal, (0, max(0, (count - 1) * hop + window - len(signal))))
  frames = np.lib.stride_tricks.sliding_window_view(signal, window)[::hop][:count]
  size = 1 << (window - 1).bit_length()
  power = np.abs(scipy.fft.rfft(frames, size)) ** 2 / size
  energy, bands = power.sum(1), power @ _filters(rate, size).T
  return np.where(bands == 0, _TINY, bands), np.where(energy == 0, _TINY, energy)


def windows(cepstra: np.ndarray) -> np.ndarray:
  """The 0.2 s from each frame on, all that fit: [13, n] -> float32 [k, 13, 20]; frame i begins at column 4 i."""
  count = max(0, (cepstra.shape[1] - WINDOW_COLUMNS) // COLUMNS_PER_FRAME + 1)
  starts = COLUMNS_PER_FRAME * np.arange(count)
  index = starts[:, None] + np.arange(WINDOW_COLUMNS)
  return cepstra[:, index].swapaxes(0, 1).astype(np.float32)


def _filters(rate: int, size: int) -> np.ndarray:
  """Triangles on the HTK mel scale from 0 to half the rate, with edges at bins: [FILTERS, size // 2 + 1]."""
  top = 2595 * np.log10(1 + rate / 2 / 700)
  hertz = 700 * (10 ** (np.linspace(0, top, FILTERS + 2) / 2595) - 1)
  edges = np.floor((size + 1) * hertz / rate)
  low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
  bins = np.arange(size // 2 + 1)
  rising, falling = (bins - low) / np.maximum(centre - low, 1), (high - bins) / np.maximum(high - centre, 1)
  return np.where((low <= bins) & (bins < centre), rising, np.where((centre <= bins) & (bins < high), falling, 0))

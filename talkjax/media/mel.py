"""Inputs of audio encoders: mel spectrograms and normalised waveforms."""

import functools

import numpy as np
import scipy.fft
import scipy.sparse

RATE = 16_000  # Hz
N_FFT, WINDOW, HOP, BANDS, F_MAX = 2048, 640, 320, 256, 8000.0
SILENCE_DB = -80.0
SPEECH_BANDS = 80  # of the input of our own speech encoder
ROWS_PER_FRAME = 2  # mel columns per video frame: 20 ms each at 25 frames/s
SAMPLES_PER_FRAME = ROWS_PER_FRAME * HOP


@functools.cache
def mel_filters(
  rate: int = RATE, n_fft: int = N_FFT, bands: int = BANDS, f_min: float = 0.0, f_max: float = F_MAX
) -> np.ndarray:
  """Triangular filters on Slaney's mel scale, each of unit area: float32 [bands, n_fft // 2 + 1].

  The scale is linear (3 mel per 200 Hz) to 1 kHz and logarithmic (27 mel per factor 6.4) above.
  """
  knee, per_hz, per_log = 1000.0, 3 / 200, 27 / np.log(6.4)

  def to_mel(hz):
    return hz * per_hz if hz < knee else knee * per_hz + np.log(hz / knee) * per_log

  mels = np.linspace(to_mel(f_min), to_mel(f_max), bands + 2)
  edges = np.where(mels < knee * per_hz, mels / per_hz, knee * np.exp((mels - knee * per_hz) / per_log))
  bins = np.arange(n_fft // 2 + 1) * rate / n_fft
  low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
  triangles = np.maximum(0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
  return (triangles * 2 / (high - low)).astype(np.float32)


def mel_power(
  waveform: np.ndarray,
  rate: int = RATE,
  n_fft: int = N_FFT,
  window: int = WINDOW,
  hop: int = HOP,
  bands: int = BANDS,
  f_max: float = F_MAX,
) -> np.ndarray:
  """Mel power spectrogram of a waveform [s]: float32 [bands, 1 + s // hop]; column t is centred on sample t * hop.

  Windows are periodic Hann windows of `window` samples, centred in n_fft. Both ends are padded with zeros.
  """
  # The FFT pads the window at its end instead of on both sides, which changes the phase but not the power.
  padded = np.pad(np.asarray(waveform, np.float32), window // 2)
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
  frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
  spectrum = scipy.fft.rfft(frames * hann.astype(np.float32), n_fft, axis=1)
  return _sparse_filters(rate, n_fft, bands, f_max) @ (spectrum.real**2 + spectrum.imag**2).T


@functools.cache
def _sparse_filters(rate, n_fft, bands, f_max):
  # Each column has at most two non-zero values.
  return scipy.sparse.csr_array(mel_filters(rate, n_fft, bands, 0.0, f_max))


def log_mel(waveform: np.ndarray, num_frames: int) -> np.ndarray:
  """Log-mel spectrogram of a clip of `num_frames` frames at 25 frames/s: float32 [256, 2 * num_frames] in dB, -80 to 0.

  Matches the published code of Speech Driven Video Editing (section 3.3.2 of the paper; golden case dve_mel): 16 kHz,
  n_fft 2048, window 640, hop 320, 256 mel bands to 8 kHz, dB relative to the maximum of the whole clip. The audio is
  trimmed or padded with silence to the duration of the clip. Pure silence gives 0 dB throughout, as in the published
  code.

  Args:
    waveform: [s] float32 at 16 kHz in [-1, 1]; sample 0 coincides with the start of frame 0.
    num_frames: frames of the clip, at 25 frames/s.

  Raises:
    ValueError: `num_frames` is less than 1.
  """
  if num_frames < 1:
    raise ValueError(f'num_frames is {num_frames}, expected 1 or more')
  length = num_frames * SAMPLES_PER_FRAME - 1  # one sample less, to get exactly two columns per frame
  waveform = np.asarray(waveform, np.float32)[:length]
  power = mel_power(np.pad(waveform, (0, length - len(waveform))))
  decibel = 10 * np.log10(np.maximum(power, 1e-10))
  decibel -= decibel.max()
  return np.maximum(decibel, SILENCE_DB).astype(np.float32)


def frame_windows(mel_db: np.ndarray, frames) -> np.ndarray:
  """Spectrogram windows around frames: [256, T] dB and frame numbers at 25 frames/s [k] -> float32 [k, 1024].

  Frame f gets columns [2f - 2, 2f + 2), which are 40 ms windows every 20 ms (section 3.3.4 of the paper), flattened
  column by column. Columns outside the clip are silence (-80 dB). Frame numbers may be fractional, for other rates.
  """
  centre = np.round(ROWS_PER_FRAME * np.asarray(frames)).astype(np.int64)
  columns = centre[:, None] + np.arange(-ROWS_PER_FRAME, ROWS_PER_FRAME)
  inside = (columns >= 0) & (columns < mel_db.shape[1])
  rows = mel_db.T[np.clip(columns, 0, mel_db.shape[1] - 1)]  # [k, 4, 256]
  rows = np.where(inside[..., None], rows, np.float32(SILENCE_DB))
  return rows.reshape(len(rows), -1).astype(np.float32)


def speech_spectrogram(waveform: np.ndarray, bands: int = SPEECH_BANDS) -> np.ndarray:
  """Log-mel spectrogram of a waveform, 50 columns per second: float32 [n, bands], the input of `nn.SpeechEncoder`.

  Column k has the 32 ms around the middle of the samples [320 k, 320 k + 320); n covers the whole waveform. The values
  are half the decimal logarithm of the power above -60 dB: 0 is silence, speech reaches about 3.
  """
  waveform = np.asarray(waveform, np.float32)
  columns = -(-len(waveform) // HOP)
  # `mel_power` centres column t on sample t * HOP: half a hop is added in front and column 0 dropped.
  padded = np.pad(waveform, (HOP // 2, columns * HOP - len(waveform)))
  power = mel_power(padded, n_fft=1024, window=512, hop=HOP, bands=bands)[:, 1:]
  return (np.log10(np.maximum(power * 1e6, 1)) / 2).T.astype(np.float32)


def normalised(waveform: np.ndarray) -> np.ndarray:
  """Normalises a waveform [s] to mean 0 and variance 1, the input of wav2vec 2.0: float32 [s]."""
  waveform = np.asarray(waveform, np.float64)
  return ((waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)).astype(np.float32)


def wav2lip_mel(waveform: np.ndarray, padding: str = 'reflect') -> np.ndarray:
  """Log-mel spectrogram of Wav2Lip and of its lip-sync expert: [s] at 16 kHz in [-1, 1] -> float32 [80, 1 + s // 200].

  Amplitudes of 80 bands from 55 to 7600 Hz after pre-emphasis, 80 columns per second; -100 to 0 dB (of a reference of
  20 dB) become -4 to 4. `padding` of the ends is that of the published librosa; newer ones have 'constant'. Golden case
  wav2lip_mel.
  """
  emphasised = np.append(waveform[:1], waveform[1:] - 0.97 * np.asarray(waveform[:-1], np.float64))
  window, hop = 800, 200
  frames = np.lib.stride_tricks.sliding_window_view(np.pad(emphasised, window // 2, mode=padding), window)[::hop]
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
  amplitude = mel_filters(RATE, window, 80, 55.0, 7600.0) @ np.abs(scipy.fft.rfft(frames * hann, axis=1)).T
  decibel = 20 * np.log10(np.maximum(1e-5, amplitude)) - 20
  return np.clip(8 * (decibel + 100) / 100 - 4, -4, 4).astype(np.float32)


def wav2lip_windows(mel: np.ndarray, fps: float = 25.0) -> tuple[np.ndarray, np.ndarray]:
  """The 16 columns from each frame on: [80, n] -> (float32 [k, 80, 16], first columns [k]).

  The last window is that of the last 16 columns, and there is none after it.

  Raises:
    ValueError: there are fewer than 16 columns.
  """
  columns = mel.shape[1]
  if columns < 16:
    raise ValueError(f'{columns} columns are fewer than the 16 of a window')
  starts = (np.arange(columns) * 80 / fps).astype(int)
  starts = starts[starts + 16 <= columns]
  starts = np.append(starts, columns - 16)
  return np.stack([mel[:, s : s + 16] for s in starts]), starts

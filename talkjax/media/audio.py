"""Sound in from any file, and the mel spectrogram that the systems hear.

Sample 0 of what is read sounds as frame 0 of the file's video begins; a sound track that starts later is preceded by
silence, one that starts earlier is cut.
"""

import functools

import av
import numpy as np
import scipy.fft
import scipy.sparse
import soxr

from talkjax.errors import UserError
from talkjax.media import video

RATE = 16_000  # Hz
N_FFT, WINDOW, HOP, BANDS, F_MAX = 2048, 640, 320, 256, 8000.0
SILENCE_DB = -80.0
ROWS_PER_FRAME = 2  # mel columns per video frame: 20 ms each at 25 frames/s
SAMPLES_PER_FRAME = ROWS_PER_FRAME * HOP
LONGEST_LEAD = 600.0  # seconds between the beginnings of sound and pictures that are believed
GAP = 0.05  # seconds missing between packets of sound before it counts as a hole to fill


def read_audio(path, rate: int = RATE) -> np.ndarray:
  """The sound of any audio or video file as float32 [s] mono in [-1, 1] at `rate` Hz.

  Raises:
    UserError: the file is absent, empty, unreadable, or has no sound.
  """
  audio, native = read_audio_native(path)
  mono = audio.mean(1, dtype=np.float32)
  if native != rate:
    mono = soxr.resample(mono, native, rate)
  return np.clip(mono, -1.0, 1.0).astype(np.float32)


def read_audio_native(path) -> tuple[np.ndarray, int]:
  """The sound of any file as it is stored: (float32 [s, channels], rate in Hz). Errors as `read_audio`."""
  with video.open_media(path) as container:
    stream = next(iter(container.streams.audio), None)
    if stream is None:
      raise UserError(f'{path} has no sound track: give a file with sound')
    start = video.start_time(container)
  with video.open_media(path) as container:  # again: not every container can be wound back
    audio, rate, first = _decode(container, container.streams.audio[0], path)
  late = 0.0 if start is None else first - start
  lead = round(late * rate) if abs(late) < LONGEST_LEAD else 0
  if lead > 0:
    audio = np.concatenate([np.zeros((lead, audio.shape[1]), np.float32), audio])
  audio = audio[max(0, -lead) :]
  if not len(audio):
    raise UserError(f'the sound track of {path} is empty: give a file with sound')
  return audio, rate


def _decode(container, stream, path) -> tuple[np.ndarray, int, float]:
  """All samples of a stream: (float32 [s, channels], rate, time of the first sample in seconds)."""
  rate, layout = stream.rate, stream.layout.name
  channels = stream.layout.nb_channels
  resampler, kind = None, None

  def samples(frame):
    made = [f.to_ndarray().reshape(-1, channels) for f in resampler.resample(frame)] if resampler else []
    return np.concatenate(made) if made else np.zeros((0, channels), np.float32)

  blocks, count, first, failed = [], 0, None, None
  packets = container.demux(stream)
  while True:
    try:
      packet = next(packets, None)
      if packet is None:
        break
      decoded = packet.decode()
    except av.error.InvalidDataError as error:
      failed = error
      continue
    except av.error.FFmpegError as error:
      failed = error
      break
    for frame in decoded:
      time = None if frame.pts is None else float(frame.pts * frame.time_base)
      first = time if first is None else first
      hole = 0 if time is None else round((time - first) * rate) - count
      frame.pts = None
      if kind != (frame.format.name, frame.layout.name, frame.sample_rate):  # at the start, or it changes midway
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        blocks.append(samples(None))
        resampler = av.AudioResampler(format='flt', layout=layout, rate=rate)
      block = samples(frame)
      if GAP * rate < hole < video.LONGEST_JUMP * rate and count:  # lost packets: keep what follows in time
        blocks.append(np.zeros((hole, channels), np.float32))
        count += hole
      blocks.append(block)
      count += len(block)
  blocks.append(samples(None))
  audio = np.concatenate(blocks)
  if not len(audio):
    why = f' ({failed})' if failed else ''
    raise UserError(f'the sound track of {path} is empty or unreadable{why}: give a file with sound')
  if stream.duration and container.format.name.startswith('mov') and len(audio) > 0:
    # AAC fills its last block; the track's stated length is the true one.
    end = round(float(stream.duration * stream.time_base + (stream.start_time or 0) * stream.time_base) * rate)
    audio = audio[: max(1, end - round((first or 0.0) * rate))] if end > 0 else audio
  return audio, rate, first or 0.0


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
  """Power in mel bands of a waveform [s]: float32 [bands, 1 + s // hop]; column t is centred on sample t * hop.

  A periodic Hann window of `window` samples stands in the middle of n_fft; the ends are padded with zeros.
  """
  # The FFT pads the window with zeros at its end, not around it: the phase differs, the power does not.
  padded = np.pad(np.asarray(waveform, np.float32), window // 2)
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
  frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
  spectrum = scipy.fft.rfft(frames * hann.astype(np.float32), n_fft, axis=1)
  return _sparse_filters(rate, n_fft, bands, f_max) @ (spectrum.real**2 + spectrum.imag**2).T


@functools.cache
def _sparse_filters(rate, n_fft, bands, f_max):
  return scipy.sparse.csr_array(mel_filters(rate, n_fft, bands, 0.0, f_max))  # two of a column are not zero


def log_mel(waveform: np.ndarray, num_frames: int) -> np.ndarray:
  """What a clip of `num_frames` frames at 25 frames/s sounds like: float32 [256, 2 * num_frames] in dB, -80 to 0.

  As the published code of Speech Driven Video Editing (section 3.3.2 of the paper; golden case dve_mel): 16 kHz, n_fft
  2048, window 640, hop 320, 256 mel bands to 8 kHz, dB under the loudest value of the whole clip. The sound is cut or
  padded with silence to the clip's length. Pure silence has no loudest value and comes out as 0 dB throughout, as
  published.

  Args:
    waveform: [s] float32 at 16 kHz in [-1, 1]; sample 0 sounds as frame 0 begins.
    num_frames: frames of the clip, at 25 frames/s.
  """
  if num_frames < 1:
    raise ValueError(f'num_frames is {num_frames}, expected 1 or more')
  length = num_frames * SAMPLES_PER_FRAME - 1  # one short, so that the columns are exactly two a frame
  waveform = np.asarray(waveform, np.float32)[:length]
  power = mel_power(np.pad(waveform, (0, length - len(waveform))))
  decibel = 10 * np.log10(np.maximum(power, 1e-10))
  decibel -= decibel.max()
  return np.maximum(decibel, SILENCE_DB).astype(np.float32)


def frame_windows(mel_db: np.ndarray, frames) -> np.ndarray:
  """The sound around each frame: [256, T] dB and frame numbers at 25 frames/s [k] -> float32 [k, 1024].

  Frame f hears columns [2f - 2, 2f + 2), 40 ms windows every 20 ms (section 3.3.4 of the paper), laid out column after
  column; beyond either end of the clip there is silence (-80 dB). Frames of another rate are asked for by fractions.
  """
  centre = np.round(ROWS_PER_FRAME * np.asarray(frames)).astype(np.int64)
  columns = centre[:, None] + np.arange(-ROWS_PER_FRAME, ROWS_PER_FRAME)
  inside = (columns >= 0) & (columns < mel_db.shape[1])
  rows = mel_db.T[np.clip(columns, 0, mel_db.shape[1] - 1)]  # [k, 4, 256]
  rows = np.where(inside[..., None], rows, np.float32(SILENCE_DB))
  return rows.reshape(len(rows), -1).astype(np.float32)


def normalised(waveform: np.ndarray) -> np.ndarray:
  """A waveform [s] with mean 0 and variance 1, as wav2vec 2.0 takes it: float32 [s]."""
  waveform = np.asarray(waveform, np.float64)
  return ((waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)).astype(np.float32)

"""Reads audio from audio and video files.

Sample 0 coincides with the start of frame 0 of the file's video: an audio track that starts later is padded with
silence, one that starts earlier is trimmed.
"""

import av
import numpy as np
import soxr

from talkjax.errors import UserError
from talkjax.media import containers, video

RATE = 16_000  # Hz
MAX_OFFSET = 600.0  # seconds; a larger offset between the starts of audio and video is ignored
MIN_GAP = 0.05  # seconds; longer gaps between audio packets are filled with silence
RATES = (1_000, 768_000)  # Hz, of the files that are read
MAX_CHANNELS = 64
MAX_SAMPLES = 2**30  # of all channels, 4 GiB: six hours of a file with 48 kHz; small files can hold far more silence


def read_audio(path, rate: int = RATE) -> np.ndarray:
  """Reads the audio of any audio or video file: float32 [s], mono, in [-1, 1], at `rate` Hz.

  Raises:
    UserError: the file is missing, empty or unreadable, has no audio, or audio of a rate, a number of channels or with
      samples that make no sense.
  """
  audio, native = read_audio_native(path)
  mono = audio.mean(1, dtype=np.float32)
  if native != rate:
    mono = soxr.resample(mono, native, rate)
  return np.clip(mono, -1.0, 1.0).astype(np.float32)


def read_audio_native(path) -> tuple[np.ndarray, int]:
  """Reads audio in its stored format: (float32 [s, channels], rate in Hz). Errors as `read_audio`."""
  with containers.open_media(path) as container:
    stream = next(iter(container.streams.audio), None)
    if stream is None:
      raise UserError(f'{path} has no sound track: give a file with sound')
    containers.require_decoder(stream, path)
    start = containers.start_time(container)
  with containers.open_media(path) as container:  # opened again because not every container can seek to its start
    audio, rate, first = _decode(container, container.streams.audio[0], path)
  delay = 0.0 if start is None else first - start
  padding = round(delay * rate) if abs(delay) < MAX_OFFSET else 0
  if padding > 0:
    audio = np.concatenate([np.zeros((padding, audio.shape[1]), np.float32), audio])
  audio = audio[max(0, -padding) :]
  if not len(audio):
    raise UserError(f'the sound track of {path} is empty: give a file with sound')
  return audio, rate


def _decode(container, stream, path) -> tuple[np.ndarray, int, float]:
  """Decodes all samples of a stream: (float32 [s, channels], rate in Hz, time of the first sample in seconds)."""
  rate, layout = stream.rate, stream.layout.name
  channels = stream.layout.nb_channels
  if not (RATES[0] <= rate <= RATES[1] and 1 <= channels <= MAX_CHANNELS):
    raise UserError(
      f'the sound of {path} has {channels} channels at {rate} Hz: expected 1 to {MAX_CHANNELS} channels at '
      f'{RATES[0]} to {RATES[1]} Hz; convert it with ffmpeg'
    )
  resampler, sample_format = None, None

  def samples(frame):
    arrays = [f.to_ndarray().reshape(-1, channels) for f in resampler.resample(frame)] if resampler else []
    return np.concatenate(arrays) if arrays else np.zeros((0, channels), np.float32)

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
      gap = 0 if time is None else round((time - first) * rate) - count
      frame.pts = None
      if sample_format != (frame.format.name, frame.layout.name, frame.sample_rate):  # first frame, or a format change
        sample_format = (frame.format.name, frame.layout.name, frame.sample_rate)
        blocks.append(samples(None))
        resampler = av.AudioResampler(format='flt', layout=layout, rate=rate)
      block = samples(frame)
      gap = gap if count and MIN_GAP * rate < gap < video.MAX_JUMP * rate else 0
      if (count + gap + len(block)) * channels > MAX_SAMPLES:
        raise UserError(f'the sound of {path} is longer than {MAX_SAMPLES // channels / rate:,.0f} s: cut it')
      if gap:  # lost packets: keep the rest in sync
        blocks.append(np.zeros((gap, channels), np.float32))
        count += gap
      blocks.append(block)
      count += len(block)
  blocks.append(samples(None))
  audio = np.concatenate(blocks)
  if not len(audio):
    why = f' ({failed})' if failed else ''
    raise UserError(f'the sound track of {path} is empty or unreadable{why}: give a file with sound')
  if not np.isfinite(audio).all():
    raise UserError(f'the sound of {path} has samples that are not finite numbers: export it again')
  if stream.duration and container.format.name.startswith('mov') and len(audio) > 0:
    # AAC pads its last block; the duration stated in the track is exact.
    end = round(float(stream.duration * stream.time_base + (stream.start_time or 0) * stream.time_base) * rate)
    audio = audio[: max(1, end - round((first or 0.0) * rate))] if end > 0 else audio
  return audio, rate, first or 0.0

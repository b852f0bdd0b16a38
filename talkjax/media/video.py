"""Reads and writes video files: metadata, frames at a constant rate, and a streaming H.264 + AAC writer.

Formats are detected by content, not by file name, and opening a file never opens other files or connections. Frame
times are relative to the first frame.
"""

import contextlib
import dataclasses
import fractions
import os
import pathlib
from collections.abc import Iterator

import av
import numpy as np
import soxr
from absl import logging

from talkjax.errors import UserError
from talkjax.media import outputs
from talkjax.media.containers import open_media, reason, require_video

# Rates in Hz that the AAC encoder supports; audio of other rates is resampled to 48 kHz.
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
# BT.601 matrix, BT.709 primaries and transfer, studio range. Readers that ignore the tag assume this matrix, so all
# readers decode the same frame.
MATRIX_BT601, PRIMARIES_BT709, TRANSFER_BT709, STUDIO_RANGE = 6, 1, 1, 1
MAX_JUMP = 30.0  # seconds; a larger jump between the timestamps of two frames or audio blocks is ignored
RATES = (1 / MAX_JUMP, 1000.0)  # frames per second of the videos that are read
# Flags of swscale: bicubic, accurate rounding, full chroma. The fast default darkens every decoded frame by 1 of 255.
SCALER = 0x4 | 0x40000 | 0x2000 | 0x4000
ENCODER_THREADS = 4  # what x264 writes depends on their number, by default on that of the cores


@dataclasses.dataclass(frozen=True)
class VideoInfo:
  """Properties of a video file; width and height are those after rotation."""

  width: int
  height: int
  fps: float  # frames / duration
  num_frames: int | None
  duration: float  # seconds, from the first frame to the end of the last
  has_audio: bool
  variable: bool  # whether the frame rate is variable
  pixel_aspect: fractions.Fraction = fractions.Fraction(1)  # displayed width of a pixel / its height


def probe(path) -> VideoInfo:
  """Reads the properties of a video from its packet timestamps; only the first frame is decoded.

  Raises:
    UserError: the file is missing or unreadable, has no video, or a frame rate outside `RATES`.
  """
  info = _probe(path)
  if not RATES[0] <= info.fps <= RATES[1]:
    raise UserError(
      f'{path} has {info.fps:g} frames per second by its timestamps: expected {RATES[0]:.2g} to {RATES[1]:g}; convert '
      'it with ffmpeg -r'
    )
  return info


def _probe(path) -> VideoInfo:
  with open_media(path) as container:
    stream = require_video(container, path)
    has_audio = bool(container.streams.audio)
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    aspect = fractions.Fraction(stream.sample_aspect_ratio or 1) or fractions.Fraction(1)
    stored = (stream.height, stream.width)
    times, ends = [], []
    try:
      for packet in container.demux(stream):
        if packet.pts is not None and not packet.is_discard:
          times.append(packet.pts)
          ends.append(packet.pts + (packet.duration or 0))
    except av.error.FFmpegError as error:
      logging.warning('%s is damaged after %d frames (%s)', path, len(times), reason(error))
    base = float(stream.time_base)
  first = next(read_frames(path))
  height, width = first.shape[:2]
  aspect = aspect if (height, width) == stored else 1 / aspect  # rotated by 90 degrees
  times = np.unique(np.asarray(times, np.int64))  # from decoding order to presentation order
  if len(times) < 2:
    return VideoInfo(width, height, rate, len(times) or None, len(times) / rate, has_audio, False, aspect)
  steps = np.diff(times) * base
  step = float(np.median(steps))
  last = (max(ends) - times[-1]) * base or step
  duration = float((times[-1] - times[0]) * base + last)
  variable = bool(np.abs(steps - step).max() > max(0.25 * step, 2 * base))
  fps = len(times) / duration if variable or steps.mean() > MAX_JUMP else float(exact_rate(1 / steps.mean()))
  return VideoInfo(width, height, fps, len(times), duration, has_audio, variable, aspect)


def read_frames(path, fps: float | None = None) -> Iterator[np.ndarray]:
  """Yields frames as uint8 [h, w, 3] RGB, rotated upright according to the metadata, in constant memory.

  Args:
    path: any video file.
    fps: None yields the stored frames. Otherwise the video is resampled to this constant rate: frame k is the source
      frame nearest in time to k / fps, and there are round(duration * fps) frames.

  Raises:
    UserError: the file is missing or unreadable, has no video, or none of its frames can be decoded.
  """
  frames = _timed_frames(path)
  if fps is None:
    for rgb, _, _ in frames:
      yield rgb
    return
  index, previous, end = 0, None, 0.0
  for rgb, time, duration in frames:
    if previous is not None:
      while index / fps < (previous[1] + time) / 2:
        yield previous[0]
        index += 1
    previous, end = (rgb, time), time + duration
  while index < max(1, round(end * fps)):
    yield previous[0]
    index += 1


def _timed_frames(path) -> Iterator[tuple[np.ndarray, float, float]]:
  """Yields (uint8 rgb, seconds since the first frame, duration in seconds); times increase strictly."""
  with open_media(path) as container:
    stream = require_video(container, path)
    nominal = 1 / float(stream.average_rate or stream.guessed_rate or 25)
    start, time, size, damaged = None, -nominal, None, 0
    packets = container.demux(stream)
    while True:
      try:
        packet = next(packets, None)
        if packet is None:
          break
        decoded = packet.decode()
      except av.error.InvalidDataError:
        damaged += 1
        continue
      except av.error.FFmpegError as error:
        if size is None:
          raise UserError(f'no frame of {path} can be decoded ({reason(error)}): convert it with ffmpeg') from error
        logging.warning('%s ends early: it is damaged (%s)', path, reason(error))
        break
      for frame in decoded:
        timestamp = None if frame.pts is None else float(frame.pts * frame.time_base)
        start = timestamp if start is None else start
        if timestamp is not None and abs(timestamp - start - time) > MAX_JUMP:
          start = timestamp - time - nominal  # concatenated streams or a wrong timestamp, not a frame of that duration
        now = time + nominal if timestamp is None else timestamp - start
        time = max(now, time + 1e-4)  # a timestamp that does not increase is wrong
        frame_duration = float(frame.duration * frame.time_base) if frame.duration else nominal
        rgb = _upright(frame)
        size = size or rgb.shape
        if rgb.shape != size:
          raise UserError(
            f'{path} changes its frame size from {size[1]}x{size[0]} to {rgb.shape[1]}x{rgb.shape[0]}: '
            'convert it to a single size with ffmpeg'
          )
        yield rgb, time, frame_duration
    if size is None:
      raise UserError(f'no frame of {path} can be decoded: convert it with ffmpeg')
    if damaged:
      logging.warning('%s is damaged: %d packets were skipped', path, damaged)


def _upright(frame) -> np.ndarray:
  rgb = frame.to_ndarray(format='rgb24', interpolation=SCALER)
  turns = round(frame.rotation / 90) % 4  # counter-clockwise quarter turns that make the frame upright
  return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


def read_metadata(path) -> dict[str, str]:
  """Metadata tags of a media file."""
  with open_media(path) as container:
    return dict(container.metadata)


class VideoWriter:
  """Context manager that writes frames one by one to an MP4 file (H.264, with AAC audio if given).

  A temporary file in the same folder is renamed when the block exits normally, and removed after an error. Frames of
  even size are encoded as yuv420p, which every player supports. Odd sizes need yuv444p, which browsers, VLC and ffmpeg
  support; the size is never changed.

  Args:
    path: the .mp4 file; its folder is created.
    fps: frames per second (29.97 becomes 30000/1001).
    size: (h, w) of every frame.
    audio: [s] or [s, channels] float32 in [-1, 1], muxed with its exact duration, or None.
    audio_rate: Hz.
    metadata: tags, which `read_metadata` reads.
    crf: x264 quality, lower is better; 18 is visually lossless.
    pixel_aspect: width of a pixel / its height, see `probe`.

  Raises:
    UserError: the file cannot be written.
  """

  def __init__(
    self,
    path,
    fps: float,
    size: tuple[int, int],
    audio: np.ndarray | None = None,
    audio_rate: int = 16_000,
    metadata: dict[str, str] | None = None,
    crf: int = 18,
    pixel_aspect: fractions.Fraction = fractions.Fraction(1),
  ):
    self.path = pathlib.Path(path)
    self._temporary = outputs.partial(self.path)
    self._size = tuple(size)
    self._rate = exact_rate(fps)
    self._count = 0
    self._samples, rate = aac_input(np.zeros(0) if audio is None else audio, audio_rate)
    # The default timescale of 1 ms would round the duration of the audio.
    options = {'movflags': '+faststart+use_metadata_tags', 'movie_timescale': str(rate)}
    try:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      outputs.remove_partial(self.path)
      path = os.path.abspath(self._temporary)  # ffmpeg takes what is before a colon in a relative name for a protocol
      self._container = av.open(path, 'w', format='mp4', options=options)
    except (OSError, av.error.FFmpegError) as error:
      raise UserError(f'cannot write {self.path} ({reason(error)}): choose a writable folder') from error
    self._container.metadata.update(metadata or {})
    self._video = self._add_video(crf, pixel_aspect)
    self._audio, self._sent = None, 0
    if self._samples.shape[1]:
      self._add_audio(rate)

  def _add_audio(self, rate: int) -> None:
    self._audio = self._container.add_stream('aac', rate=rate)
    self._audio.layout = 'mono' if self._samples.shape[0] == 1 else 'stereo'
    self._audio.bit_rate = 96_000 * self._samples.shape[0]

  def _add_video(self, crf: int, pixel_aspect: fractions.Fraction):
    height, width = self._size
    stream = self._container.add_stream('libx264', rate=self._rate, options={'crf': str(crf), 'preset': 'medium'})
    stream.width, stream.height = width, height
    stream.pix_fmt = 'yuv420p' if height % 2 == 0 and width % 2 == 0 else 'yuv444p'
    context = stream.codec_context
    context.thread_count = ENCODER_THREADS
    context.time_base = 1 / self._rate
    context.sample_aspect_ratio = pixel_aspect
    context.colorspace, context.color_range = MATRIX_BT601, STUDIO_RANGE
    context.color_primaries, context.color_trc = PRIMARIES_BT709, TRANSFER_BT709
    return stream

  def write(self, rgb: np.ndarray) -> None:
    """Adds one frame, uint8 [h, w, 3] RGB."""
    if rgb.shape != (*self._size, 3) or rgb.dtype != np.uint8:
      raise ValueError(f'a frame is {rgb.dtype} {rgb.shape}, expected uint8 {(*self._size, 3)}')
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format='rgb24')
    frame = frame.reformat(format=self._video.pix_fmt, dst_colorspace='ITU601', interpolation=SCALER)
    frame.colorspace, frame.color_range = MATRIX_BT601, STUDIO_RANGE
    frame.pts, frame.time_base = self._count, 1 / self._rate
    self._count += 1
    try:
      self._container.mux(self._video.encode(frame))
      self._write_audio(until=self._count / self._rate)
    except (OSError, av.error.FFmpegError) as error:
      raise self._failed(error) from error

  def append_audio(self, samples: np.ndarray, rate: int) -> None:
    """Appends mono audio, to a file without audio or whose audio was started with this method.

    Args:
      samples: float32 [s] in [-1, 1].
      rate: Hz, one of AAC_RATES.

    Raises:
      ValueError: the rate is unsupported, or the first audio comes after the first frame.
    """
    if rate not in AAC_RATES or (self._audio is None and self._count):
      raise ValueError(f'audio of {rate} Hz at frame {self._count}: expected one of {AAC_RATES}, starting at frame 0')
    self._samples = np.concatenate([self._samples, aac_input(samples, rate)[0]], axis=1)
    if self._audio is None:
      self._add_audio(rate)

  def _write_audio(self, until: fractions.Fraction | None) -> None:
    """Encodes the audio up to a time in seconds, which interleaves it with the frames; None encodes all of it."""
    if self._audio is None:
      return
    total, rate, block = self._samples.shape[1], self._audio.rate, 1024  # an AAC frame
    target = total if until is None else min(total, int(until * rate))
    while self._sent < target and (until is None or target - self._sent >= block):
      samples = np.ascontiguousarray(self._samples[:, self._sent : self._sent + block])
      frame = av.AudioFrame.from_ndarray(samples, format='fltp', layout=self._audio.layout.name)
      frame.sample_rate, frame.pts, frame.time_base = rate, self._sent, fractions.Fraction(1, rate)
      self._sent += samples.shape[1]
      self._container.mux(self._audio.encode(frame))

  def close(self) -> None:
    """Finishes the file and moves it to its final path."""
    if self._count == 0:
      self._abort()
      raise UserError(f'{self.path} was not written: there was no frame to write')
    try:
      self._write_audio(until=None)
      self._container.mux(self._video.encode(None))
      if self._audio is not None:
        self._container.mux(self._audio.encode(None))
      self._container.close()
      os.replace(self._temporary, self.path)
    except (OSError, av.error.FFmpegError) as error:
      self._abort()
      raise self._failed(error) from error
    except BaseException:
      self._abort()
      raise

  def _failed(self, error: Exception) -> UserError:
    return UserError(f'cannot write {self.path} ({reason(error)}): check the free disk space')

  def _abort(self) -> None:
    with contextlib.suppress(Exception):
      self._container.close()
    self._temporary.unlink(missing_ok=True)

  def __enter__(self) -> 'VideoWriter':
    return self

  def __exit__(self, kind, value, trace) -> None:
    if kind is None:
      self.close()
    else:
      self._abort()


def exact_rate(fps: float) -> fractions.Fraction:
  """The exact rate of a rounded one: a broadcast fraction (29.97 -> 30000/1001) or a small one (25.0 -> 25)."""
  for whole in (24, 30, 48, 60, 120):
    broadcast = fractions.Fraction(whole * 1000, 1001)
    if abs(float(broadcast) - float(fps)) < 5e-3:
      return broadcast
  return fractions.Fraction(fps).limit_denominator(1001)


def aac_input(audio: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
  """Audio [s] or [s, channels] -> (float32 [1 or 2, s], a rate that AAC supports)."""
  audio = np.asarray(audio, np.float32)
  audio = audio[:, None] if audio.ndim == 1 else audio
  if audio.shape[1] > 2:
    audio = audio.mean(1, keepdims=True)
  if rate not in AAC_RATES:
    audio, rate = soxr.resample(audio, rate, 48_000), 48_000
  return np.ascontiguousarray(np.clip(audio, -1, 1).T, np.float32), int(rate)

"""Opens media files: formats are detected by content, and no other file or connection is opened."""

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator

import av

from talkjax.errors import UserError
from talkjax.media import files
from talkjax.media.picture import MAX_PIXELS

# PyAV before 19 needs this argument to open files with badly encoded tags; later versions do not accept it.
LENIENT = {'metadata_errors': 'replace'} if int(av.__version__.split('.', maxsplit=1)[0]) < 19 else {}
# Allowed demuxers, by the first of their names in ffmpeg: self-contained files as written by cameras, editors and
# recorders. Not allowed are demuxers that open other files or connections (hls, dash, concat, imf, image2, sdp, rtsp,
# mlv, vobsub, webm_dash_manifest, lavfi, devices), text, and still images.
CONTAINERS = (
  *('mov', 'matroska', 'avi', 'mpeg', 'mpegts', 'asf', 'flv', 'ogg', 'mxf', 'nut', 'ivf', 'gif', 'yuv4mpegpipe'),
  *('mpegvideo', 'm4v', 'h264', 'hevc', 'obu', 'dv'),  # video only
  *('wav', 'w64', 'aiff', 'au', 'caf', 'amr', 'mp3', 'aac', 'ac3', 'eac3', 'flac'),  # audio only
)


@contextlib.contextmanager
def open_media(path) -> Iterator[av.container.InputContainer]:
  """Opens a media file of a format detected by content; no other file is read.

  Raises:
    UserError: the file is missing, empty, unreadable or not a regular file, or its format is not in `CONTAINERS`.
  """
  path = pathlib.Path(path)
  # Passing an open file, which is as fast as passing a path, ensures that the checked file is the one that is read. The
  # two whitelists prevent demuxers such as hls and concat from opening other files by path.
  options = {'format_whitelist': ','.join(CONTAINERS), 'protocol_whitelist': 'none'}
  with files.open_regular(path, 'a video or audio file') as file:
    if os.fstat(file.fileno()).st_size == 0:
      raise UserError(f'{path} is empty (0 bytes): give a video or audio file')
    try:
      container = av.open(file, options=options, **LENIENT)
    except (av.error.FFmpegError, OSError, ValueError) as error:
      if getattr(error, 'errno', None) == errno.EINVAL:  # the error for a format outside the whitelist
        raise UserError(
          f'{path} is not a readable video or audio file (it is text, a picture, a playlist or of another unsupported '
          'format): give an MP4, MKV, AVI, MPEG, WAV, MP3 or similar file'
        ) from error
      raise UserError(
        f'{path} is not a readable video or audio file ({reason(error)}): give a complete file that ffmpeg can play'
      ) from error
    with container:
      yield container


def reason(error) -> str:
  """What an error of ffmpeg or of the system says."""
  return str(getattr(error, 'strerror', '') or error).strip() or type(error).__name__


def video_stream(container):
  """The first video stream that is not cover art, or None."""
  return next((s for s in container.streams.video if not _is_cover(s)), None)


def _is_cover(stream) -> bool:
  return bool(stream.disposition & stream.disposition.__class__.attached_pic)


def require_video(container, path):
  """The first video stream, which is decoded by several threads.

  Raises:
    UserError: there is none, it cannot be decoded, or its frames have more than `picture.MAX_PIXELS`.
  """
  stream = video_stream(container)
  if stream is None:
    raise UserError(f'{path} has no video, only sound: give a video file')
  require_decoder(stream, path)
  if stream.width * stream.height > MAX_PIXELS:
    raise UserError(
      f'the frames of {path} have {stream.width} x {stream.height} pixels, more than {MAX_PIXELS // 10**6} million: '
      'make them smaller with ffmpeg'
    )
  stream.thread_type = 'AUTO'
  return stream


def require_decoder(stream, path) -> None:
  """Raises UserError if ffmpeg cannot decode a stream: PyAV's streams then lack most of their attributes."""
  if stream.codec_context is None:
    raise UserError(f'the {stream.type} of {path} is in an unknown format: convert it to H.264 and AAC')


def start_time(container) -> float | None:
  """Presentation time of the first video frame in seconds on the clock of the container; None without video."""
  stream = video_stream(container)
  if stream is None or stream.codec_context is None:
    return None
  with contextlib.suppress(av.error.FFmpegError):
    for frame in container.decode(stream):
      if frame.pts is not None:
        return float(frame.pts * frame.time_base)
  return None

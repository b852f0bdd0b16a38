"""What speech_edit generates from: corpus records, or any video and any speech in files."""

import collections
import dataclasses
import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.faces import align, landmarks, mask
from talkjax.media import picture, video
from talkjax.media.picture import to_float
from talkjax.systems import FileBatch, RecordBatch, Request, Video
from talkjax.systems.audio import Sound
from talkjax.systems.revoicing import back_and_forth, of_records
from talkjax.systems.speech_edit import data


@dataclasses.dataclass(frozen=True)
class Conditions:
  """What generation starts from, batched over videos.

  Attributes:
    identity: [b, h, w, 3] float32 in [-1, 1], the frame that says who speaks.
    frames: one dict per frame of `clean` [b, h, w, 3] and `mask` [b, h, w, 1].
    sound: per video its new sound, all for equally many frames.
  """

  identity: np.ndarray
  frames: Iterable[dict[str, np.ndarray]]
  sound: Sequence[Sound]


def from_records(records: Sequence[Record], speech=None, num_frames=None, settings=None, *, config) -> RecordBatch:
  """Records as conditions: each video re-voiced with its own sound, or with that of another record.

  See `System.from_records` and `revoicing.of_records`; there are no sweepable `settings`.
  """
  place = functools.partial(data.frame_transforms, config=config)
  hide = functools.partial(mask.jaw_mask, size=config.size, kind=config.mask)
  return of_records(records, speech, num_frames, size=config.size, place=place, hide=hide, conditions=Conditions)


def from_files(params, request: Request, *, config) -> list[FileBatch]:
  """The re-voiced video: in the source's own size and frame rate, as long as the speech.

  Frames are read, generated and written one by one, so memory does not grow with the length. A video shorter than the
  speech plays back and forth, and only then its frames are kept on disk.

  Raises:
    UserError: a file cannot be read, or no face is found.
  """
  source, voice = request.inputs['video'], request.inputs['audio']
  info = video.probe(source)
  speech = Sound.of_file(voice, info.fps)
  count = speech.num_frames
  read = lambda: itertools.islice(video.read_frames(source, fps=info.fps), count)

  track = landmarks.find_faces(read(), name=source)
  transforms = align.canonical_transforms(track.landmarks, config.size)
  identity = _read_identity(request.inputs.get('identity', '0'), config, source, info, transforms)
  pending = collections.deque()  # source frames between reading and writing

  def frames() -> Iterator[dict[str, np.ndarray]]:
    for index, frame in back_and_forth(read, len(transforms), count):
      clean = align.crop(frame, transforms[index], config.size)
      points = align.transform_points(track.landmarks[index], transforms[index])
      region = mask.jaw_mask(points, config.size, kind=config.mask)
      pending.append((index, frame, region))
      yield {'clean': to_float(clean)[None], 'mask': region[None]}

  def compose(generated: np.ndarray) -> np.ndarray:
    index, frame, region = pending.popleft()
    return align.paste(frame, generated, transforms[index], region)

  file = Video(request.output, count, info.fps, (info.height, info.width), voice, info.pixel_aspect, compose)
  return [FileBatch((file,), 1, lambda: Conditions(identity[None], frames(), [speech]))]


def _read_identity(wanted: str, config, source: str, info: video.VideoInfo, transforms: np.ndarray) -> np.ndarray:
  """[h, w, 3] in [-1, 1]: a frame of the source video by its number, or an image."""
  if wanted.isascii() and wanted.isdigit():
    number = int(wanted[:12])  # of any number of digits
    last, frame = -1, None
    for last, frame in enumerate(itertools.islice(video.read_frames(source, fps=info.fps), number + 1)):  # noqa: B007
      pass
    if last < number:
      raise UserError(f'--identity={wanted}: the video has frames 0 to {last}')
    if number < len(transforms):
      return to_float(align.crop(frame, transforms[number], config.size))
    return _aligned(frame, f'frame {number} of {source}', config)  # beyond those that the speech needs
  if not os.path.lexists(wanted):
    raise UserError(f'--identity={wanted} is neither an image nor the number of a frame of the video: give one of them')
  return _aligned(picture.read(wanted), wanted, config)


def _aligned(image: np.ndarray, name: str, config) -> np.ndarray:
  """The face of an image, [size, size, 3] in [-1, 1]. Raises UserError if none is found."""
  track = landmarks.find_faces([image], name=name)
  return to_float(align.crop(image, align.canonical_transforms(track.landmarks, config.size)[0], config.size))

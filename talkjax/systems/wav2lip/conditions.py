"""What wav2lip generates from: corpus records, or any video or picture and any speech in files."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UsageError
from talkjax.faces import align, landmarks
from talkjax.media import picture, video
from talkjax.media.picture import to_float
from talkjax.systems import FileBatch, RecordBatch, Request, Video
from talkjax.systems.audio import Sound
from talkjax.systems.revoicing import RecordFrames, back_and_forth, of_records
from talkjax.systems.wav2lip import data

FPS = 25.0  # of the video that is made of a picture


@dataclasses.dataclass(frozen=True)
class Conditions:
  """What generation starts from, batched over videos.

  Attributes:
    reference: [b, h, w, 3] float32 in [-1, 1], the crop that shows the face whole; None: that of each frame.
    frames: one dict per frame of `clean` [b, h, w, 3], `mask`, which is hidden, and `region`, which is drawn,
      [b, h, w, 1].
    sound: per video its new sound, all for equally many frames.
  """

  reference: np.ndarray | None
  frames: Iterable[dict[str, np.ndarray]]
  sound: Sequence[Sound]


@dataclasses.dataclass(frozen=True)
class _WithRegions:
  """Frames with the region that is drawn; it can be iterated as often as they can."""

  frames: Iterable[dict[str, np.ndarray]]
  config: object

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    for frame in self.frames:
      yield {**frame, 'region': data.drawn_region(frame['mask'], self.config)}


def from_records(records: Sequence[Record], speech=None, num_frames=None, settings=None, *, config) -> RecordBatch:
  """Records as conditions: the lips of each video moved to its own sound, or to that of another record.

  See `System.from_records` and `revoicing.of_records`; there are no sweepable `settings`.
  """

  def conditions(first: np.ndarray, frames: RecordFrames, sound: Sequence[Sound]) -> Conditions:
    return Conditions(first if config.reference == 'first' else None, _WithRegions(frames, config), sound)

  return of_records(
    records,
    speech,
    num_frames,
    size=config.size,
    place=lambda record: data.face_transforms(record.landmarks, record.box, config),
    hide=functools.partial(data.hidden_region, config=config),
    conditions=conditions,
    drawn=functools.partial(data.drawn_region, config=config),
  )


def from_files(params, request: Request, *, config) -> list[FileBatch]:
  """The video or picture with the lips of the speech: in its own size, as long as the speech.

  A video keeps its frame rate, a picture becomes a video of equal frames at 25 frames/s. Frames are read, generated and
  written one by one, so memory does not grow with the length. A video shorter than the speech plays back and forth.

  Raises:
    UsageError: neither a video nor a picture is given, or both.
    UserError: a file cannot be read, or no face is found.
  """
  names = [name for name in ('video', 'image') if name in request.inputs]
  if len(names) != 1:
    raise UsageError('wav2lip takes either --video or --image: give one of them')
  source, voice = request.inputs[names[0]], request.inputs['audio']
  fps, read, aspect = _open(names[0], source)
  speech = Sound.of_file(voice, fps)
  count = speech.num_frames
  track = landmarks.find_faces(itertools.islice(read(), count), name=source)
  transforms = data.face_transforms(track.landmarks, track.box, config)
  first = next(read())
  reference = to_float(align.crop(first, transforms[0], config.size))[None] if config.reference == 'first' else None
  pending = collections.deque()  # source frames between reading and writing

  def frames() -> Iterator[dict[str, np.ndarray]]:
    played = back_and_forth(lambda: itertools.islice(read(), count), len(transforms), count)
    if len(transforms) == 1:
      played = itertools.repeat((0, first), count)
    for index, frame in played:
      made = prepare(frame, transforms[index], track.landmarks[index], config)
      pending.append((frame, transforms[index], made['region'][0]))
      yield made

  def compose(generated: np.ndarray) -> np.ndarray:
    return align.paste(pending[0][0], generated, *pending.popleft()[1:])

  file = Video(request.output, count, fps, first.shape[:2], voice, aspect, compose)
  return [FileBatch((file,), 1, lambda: Conditions(reference, frames(), [speech]))]


def _open(kind: str, source: str) -> tuple[float, Callable[[], Iterator[np.ndarray]], object]:
  """(frame rate, a function that yields the frames, pixel aspect) of a video or a picture."""
  if kind == 'image':
    image = picture.read(source)
    return FPS, lambda: iter([image]), Video.pixel_aspect
  info = video.probe(source)
  return info.fps, lambda: video.read_frames(source, fps=info.fps), info.pixel_aspect


def prepare(frame: np.ndarray, transform: np.ndarray, points: np.ndarray, config) -> dict[str, np.ndarray]:
  """A frame as an entry of `Conditions.frames` of one video.

  Args:
    frame: uint8 [h, w, 3].
    transform: [2, 3] of its crop.
    points: [68, 2] landmarks in pixels of the frame.
    config: the system's.
  """
  clean = to_float(align.crop(frame, transform, config.size))
  hidden = data.hidden_region(align.transform_points(points, transform), config)
  return {'clean': clean[None], 'mask': hidden[None], 'region': data.drawn_region(hidden, config)[None]}

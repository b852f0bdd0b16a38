"""What generation of portrait systems starts from: corpus records, or portraits and voices in files."""

import collections
import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UsageError
from talkjax.faces import keypoints, landmarks
from talkjax.media import picture, video
from talkjax.metrics.suites import Truth
from talkjax.systems import Request, Video
from talkjax.systems.portrait import framing
from talkjax.systems.portrait.reading import face_points, face_region


@dataclasses.dataclass(frozen=True)
class Portraits:
  """What the conditions of all portrait systems begin with.

  Attributes:
    reference: [b, h, w, 3] uint8, the portraits.
    points: [b, 3, 2] float32, their keypoints (V-Kps) in pixels.
    settings: values [b] float32 of swept options by name; the config's where absent.
  """

  reference: np.ndarray
  points: np.ndarray
  settings: Mapping[str, np.ndarray]


class Job(NamedTuple):
  """A video to generate: its portrait, its voice, and its value of the option that is swept."""

  image: str
  voice: str
  value: float | None = None


def from_records(
  clips: Sequence[Record], config, settings: Mapping[str, Sequence[float]], crop: float = 0
) -> Portraits:
  """Each record's first frame as its portrait."""
  reference = np.stack([framing.of_record(c, crop).picture(c.frame(0), config.size) for c in clips])
  points = np.stack([face_points(c, config)[0] for c in clips])
  return Portraits(reference, points, {k: np.asarray(v, np.float32) for k, v in settings.items()})


def truth(clip: Record, count: int, size: int, region: np.ndarray | None = None, crop: float = 0) -> Truth:
  """The first `count` frames of a record, as generated ones will be.

  Args:
    clip: the record.
    count: the most frames.
    size: of the square frames.
    region: [size, size, 1], where the face was asked to be; None: where it is in these frames.
    crop: see `framing.of_record`.
  """
  count, window = min(count, len(clip.frames)), framing.of_record(clip, crop)
  return Truth(
    [window.picture(clip.frame(i), size) for i in range(count)],
    window.points(clip.landmarks[:count], size),
    region=face_region(clip, range(count), size, crop) if region is None else region,
  )


def jobs(request: Request) -> dict[Job, str]:
  """The videos that a request asks for, and the file of each.

  Several are written to the folder `output`, as PORTRAIT_VOICE.mp4, or PORTRAIT_VOICE_OPTION=VALUE.mp4 in a sweep.

  Raises:
    UsageError: two videos would be the same file, or several are to be written to one .mp4.
  """
  option, values = request.sweep or (None, (None,))
  images, voices = (dict.fromkeys(request.inputs[name]) for name in ('image', 'audio'))
  found = list(itertools.starmap(Job, itertools.product(images, voices, values)))
  if len(found) == 1:
    return {found[0]: request.output}
  if request.output.endswith('.mp4'):
    raise UsageError(f'--output={request.output}: {len(found)} videos are asked for: name a folder for them')
  names = {}
  for job in found:
    value = '' if job.value is None else f'_{option}={job.value:g}'
    names[job] = f'{pathlib.Path(job.image).stem}_{pathlib.Path(job.voice).stem}{value}.mp4'
  count = collections.Counter(names.values())
  if twice := [name for name, n in count.items() if n > 1]:
    raise UsageError(f'--output={request.output}: two videos would be called {twice[0]}: rename an input')
  return {job: str(pathlib.Path(request.output) / name) for job, name in names.items()}


@dataclasses.dataclass(frozen=True)
class Portrait:
  """A portrait file: uint8 [size, size, 3], and its face in pixels of that, tracked over this one frame."""

  image: np.ndarray
  track: landmarks.FaceTrack

  @property
  def landmarks(self) -> np.ndarray:
    """[68, 2]"""
    return self.track.landmarks[0]

  @property
  def points(self) -> np.ndarray:
    """Its keypoints, [3, 2]."""
    return keypoints.of_landmarks(self.landmarks)


def read_portrait(path: str, size: int, crop: float = 0) -> Portrait:
  """A portrait of any size, cropped to the square around the face that `crop` asks for, or to the largest one.

  Raises:
    UserError: it cannot be read, or no face is found.
  """
  return crop_portrait(picture.read(path), size, path, crop)


def crop_portrait(image: np.ndarray, size: int, name: str, crop: float = 0) -> Portrait:
  """The same of a picture uint8 [h, w, 3], which has a name for messages."""
  track = landmarks.find_faces([image], name=name)
  shape = image.shape[:2]
  if crop:
    window = framing.around_face(track.landmarks[0], shape, crop)
  else:
    x0, y0, x1, y1 = (float(v) for v in track.box[0])
    side = min(shape)
    left, top = (int(np.clip((a + b - side) / 2, 0, n - side)) for a, b, n in ((x0, x1, shape[1]), (y0, y1, shape[0])))
    window = framing.Window(left, top, side)
  corner, scale = np.array([window.x, window.y]), np.float32(size / window.side)
  moved = {
    'landmarks': (track.landmarks - corner) * scale,
    'mesh': (track.mesh - [*corner, 0]) * scale,
    'box': (track.box - np.tile(corner, 2)) * scale,
  }
  square = window.picture(image, size)
  return Portrait(square, dataclasses.replace(track, **moved))


def portraits_of(batch: Sequence[Job], images: Mapping[str, Portrait], request: Request) -> Portraits:
  """The portraits of a batch of jobs, and their values of the swept option."""
  settings = {}
  if request.sweep:
    settings[request.sweep[0]] = np.array([job.value for job in batch], np.float32)
  reference, points = (np.stack([getattr(images[job.image], k) for job in batch]) for k in ('image', 'points'))
  return Portraits(reference, points, settings)


def video_of(job: Job, path: str, num_frames: int, fps: float, size: int) -> Video:
  """The file of a job, with its voice as the sound."""
  return Video(path, num_frames, fps, (size, size), job.voice)


def driving_face(path: str, fps: float, count: int) -> tuple[Callable[[], Iterator], landmarks.FaceTrack, tuple]:
  """(what reads a video's frames at `fps`, at most `count`; its face in them; (h, w) of a frame).

  Raises:
    UserError: it cannot be read, or has no face.
  """
  shape = video.probe(path)
  frames = lambda: itertools.islice(video.read_frames(path, fps), count)
  return frames, landmarks.find_faces(frames(), name=path), (shape.height, shape.width)

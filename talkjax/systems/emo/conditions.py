"""What emo generates from: corpus records, or portraits and voices in files."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UsageError
from talkjax.faces import measures
from talkjax.systems import FileBatch, RecordBatch, Request
from talkjax.systems.audio import Sound
from talkjax.systems.portrait import conditions, framing
from talkjax.systems.portrait.conditions import Job, Portraits
from talkjax.systems.portrait.reading import box_region, face_region

FPS = 25.0  # of videos generated from files, as of the corpora
# What the face needs beyond its box in the portrait, on each side and as a share of the box's longer side: on puppets
# the mean over the four sides is 0.06, and 0.1 suffices for nine tenths of the videos, except for the chin.
ROOM = 0.1


@dataclasses.dataclass(frozen=True)
class Conditions:
  """What generation starts from, batched over videos of equal length.

  Attributes:
    portraits: the portraits and the settings of the batch.
    region: [b, h, w, 1] float32, 1 where the face may be.
    sound: per video its sound; silent from its end to that of the video.
    speed: [b, f] float32, rotation of the head, degrees/s; f is the length of the videos.
  """

  portraits: Portraits
  region: np.ndarray
  sound: Sequence[Sound]
  speed: np.ndarray


def from_records(
  clips: Sequence[Record],
  *,
  config,
  speech: Sequence[Record] | None = None,
  num_frames: int | None = None,
  settings: Mapping[str, Sequence[float]] | None = None,
  oracle: bool = False,
) -> RecordBatch:
  """Records as conditions: the first frame is the portrait, the record's own sound or another's drives it.

  Face region and head speed are those of `from_files` for that portrait, unless `oracle`.

  Args:
    clips: who is shown.
    config: the system's.
    speech: as many records whose sound is used instead, cut at the end of the clip; silent after its own.
    num_frames: length of the videos; by default that of the longest clip.
    settings: values [b] of sweepable options.
    oracle: the face region and the head speed of every frame are those of the true video.
  """
  settings = dict(settings or {})
  count = num_frames or max(len(c.frames) for c in clips)
  speed = settings.pop('speed', None)
  if oracle and speed is None:
    index = np.arange(count)
    speeds = np.stack([measures.head_speed(c.pose, c.fps)[np.clip(index, 0, len(c.frames) - 1)] for c in clips])
  else:
    speed = np.full(len(clips), config.speed.default) if speed is None else speed
    speeds = np.broadcast_to(np.asarray(speed, np.float32)[:, None], (len(clips), count)).copy()
  size, crop = config.size, config.framing
  if oracle:
    regions = [face_region(c, range(min(count, len(c.frames))), size, crop) for c in clips]
  else:
    faces = [framing.of_record(c, crop).points(c.landmarks[0], size) for c in clips]
    regions = [portrait_region(face, None, size) for face in faces]
  voices = zip(speech or clips, clips, strict=True)
  return RecordBatch(
    Conditions(
      portraits=conditions.from_records(clips, config, settings, crop),
      region=np.stack(regions),
      sound=[Sound.of_record(v, num_frames or len(c.frames), c.fps) for v, c in voices],
      speed=speeds,
    ),
    tuple(conditions.truth(c, count, size, region, crop) for c, region in zip(clips, regions)),
  )


def from_files(params, request: Request, *, config) -> list[FileBatch]:
  """The videos of every portrait with every voice, and every value of a sweep.

  All files are read before the first video is generated, so that a bad one among many is found at once. Videos of equal
  length are batched; with several devices a batch is a multiple of their number. The same seed is used for every video,
  so that it does not depend on its batch.

  Raises:
    UsageError: the face box is none, or the output does not fit the number of videos.
    UserError: a file cannot be read, or no face is found.
  """
  inputs, paths = request.inputs, conditions.jobs(request)
  box = parse_box(inputs['face_box']) if 'face_box' in inputs else None
  images = {path: conditions.read_portrait(path, config.size, config.framing) for path in inputs['image']}
  regions = {path: portrait_region(portrait.landmarks, box, config.size) for path, portrait in images.items()}
  sounds = {path: Sound.of_file(path, FPS) for path in inputs['audio']}
  lengths = {path: sound.num_frames for path, sound in sounds.items()}
  jobs = sorted(paths, key=lambda job: lengths[job.voice])
  devices = jax.device_count()
  size = min(request.batch_size or max(devices, len(request.sweep[1]) if request.sweep else 1), len(jobs))
  if size > 1:
    size = -(-size // devices) * devices

  def make(batch: list[Job]) -> Conditions:
    longest = max(lengths[job.voice] for job in batch)
    portraits = conditions.portraits_of(batch, images, request)
    settings = dict(portraits.settings)
    speed = settings.pop('speed', np.full(size, config.speed.default, np.float32))
    return Conditions(
      portraits=dataclasses.replace(portraits, settings=settings),
      region=np.stack([regions[job.image] for job in batch]),
      sound=[sounds[job.voice] for job in batch],
      speed=np.broadcast_to(speed[:, None], (size, longest)).copy(),
    )

  batches = []
  for first in range(0, len(jobs), size):
    batch = jobs[first : first + size]
    own = [(job, sounds[job.voice]) for job in batch]
    videos = [conditions.video_of(job, paths[job], sound.num_frames, sound.fps, config.size) for job, sound in own]
    padded = [batch[i % len(batch)] for i in range(size)]  # one compiled shape: the last batch is filled up
    batches.append(FileBatch(tuple(videos), size, functools.partial(make, padded)))
  return batches


def portrait_region(face: np.ndarray, box: tuple[float, ...] | None, size: int) -> np.ndarray:
  """Where the face of a portrait may be in its video: [size, size, 1] float32.

  In training that is the box around the face in all frames (`reading.face_region`); here it is given, or estimated.

  Args:
    face: its landmarks [68, 2] in pixels.
    box: the region asked for, in fractions of the square; None: the box around the face with ROOM.
    size: of the square.
  """
  if box is not None:
    return box_region([size * v for v in box], size)
  low, high = face.min(0), face.max(0)
  room = ROOM * (high - low).max()
  return box_region((*(low - room), *(high + room)), size)


def parse_box(text: str) -> tuple[float, ...]:
  """'0.2,0.1,0.8,0.9' -> (0.2, 0.1, 0.8, 0.9).

  Raises:
    UsageError: anything else.
  """
  try:
    box = tuple(float(v) for v in text.split(','))
  except ValueError:
    box = ()
  if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
    raise UsageError(f'--face_box={text}: expected x0,y0,x1,y1, fractions of the square image, such as 0.2,0.1,0.8,0.9')
  return box

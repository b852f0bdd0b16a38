"""What fd2talk generates from: corpus records, or portraits, voices, motion and poses in files."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from talkjax.corpora.coefficients import fingerprint
from talkjax.corpora.records import Record
from talkjax.errors import UsageError
from talkjax.faces import landmarks, mesh_drawing
from talkjax.faces.morphable import MorphableModel
from talkjax.media import outputs
from talkjax.systems import FileBatch, RecordBatch, Request, Video, coefficients
from talkjax.systems.audio import Sound
from talkjax.systems.fd2talk import motion_files
from talkjax.systems.fd2talk.motion_files import Motion
from talkjax.systems.measurement import Face, measure
from talkjax.systems.portrait import conditions, framing
from talkjax.systems.portrait.conditions import Job, Portraits

PREDICTED, STILL = 'predicted', 'still'


# (model, coefficients of the portrait [k], frames f) -> angles and translation [f, 6]
Pose = Callable[[MorphableModel, np.ndarray, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Conditions:
  """What generation starts from; each video of a batch has its own length.

  Attributes:
    portraits: the portraits and the settings of the batch.
    faces: the face in each portrait.
    sound: per video its sound, as long as the frames.
    motion: per video its motion, or None: generated.
    pose: per video where its pose comes from, or None: generated. Not used where the motion is given.
    deliver: called for each video with its number, its coefficients [f, k] and its motion, before its first frame.
  """

  portraits: Portraits
  faces: Sequence[Face]
  sound: Sequence[Sound]
  motion: Sequence[Motion | None]
  pose: Sequence[Pose | None]
  deliver: Callable[[int, np.ndarray, Motion], None] | None = None


def still(model: MorphableModel, portrait: np.ndarray, frames: int) -> np.ndarray:
  """The portrait's own pose."""
  return np.repeat(portrait[None, -6:], frames, axis=0)


def follow(face: Face) -> Pose:
  """The pose of a face in a video, which plays back and forth where it is too short."""

  def pose(model: MorphableModel, portrait: np.ndarray, frames: int) -> np.ndarray:
    rows = face.rows(model)[:, -6:]
    return rows[back_and_forth(len(rows), frames)]

  return pose


def back_and_forth(length: int, frames: int) -> np.ndarray:
  """0, 1, ..., length - 1, length - 2, ..., 0, 1, ...: int [frames]."""
  period = max(1, 2 * (length - 1))
  index = np.arange(frames) % period
  return np.minimum(index, period - index)


def from_records(
  clips: Sequence[Record],
  *,
  config,
  speech: Sequence[Record] | None = None,
  num_frames: int | None = None,
  settings: Mapping[str, Sequence[float]] | None = None,
  oracle: bool = False,
) -> RecordBatch:
  """Records as conditions: the first frame is the portrait, the record's own sound drives it.

  Args:
    clips: who is shown.
    config: the system's.
    speech: as many records whose sound is used instead; silent after its end.
    num_frames: longest length of the videos; by default that of each clip.
    settings: values [b] of sweepable options.
    oracle: the pose is that of the true video.
  """
  lengths = [min(num_frames or len(c.frames), len(c.frames)) for c in clips]
  faces = [_face_in_record(c, range(n if oracle else 1), config) for c, n in zip(clips, lengths)]
  if config.pose not in (PREDICTED, STILL):
    raise UsageError(
      f'--pose={config.pose}: clips of a corpus have {PREDICTED} or {STILL} poses; --oracle has the true'
    )
  pose = {PREDICTED: None, STILL: still}[config.pose]
  return RecordBatch(
    Conditions(
      portraits=conditions.from_records(clips, config, settings or {}, config.framing),
      faces=[face.first() for face in faces],
      sound=[Sound.of_record(v, n, c.fps) for v, c, n in zip(speech or clips, clips, lengths)],
      motion=[None] * len(clips),
      pose=[follow(face) if oracle else pose for face in faces],
    ),
    tuple(conditions.truth(c, n, config.size, crop=config.framing) for c, n in zip(clips, lengths)),
  )


def _face_in_record(record: Record, frames: Sequence[int], config) -> Face:
  """The face in frames of a record, in the square that `config.framing` asks for."""
  pictures = lambda: map(record.frame, frames)
  face = measure(pictures, landmarks.find_faces(pictures(), name=f'clip {record.id}'), record.size, config)
  if not config.framing:
    return face
  x, y, side = framing.of_record(record, config.framing)
  return Face(face.mesh - np.array([x, y, 0], np.float32), (side, side))


def from_files(params, request: Request, *, config) -> list[FileBatch]:
  """The videos of every portrait with every voice, and every value of a sweep.

  All files are read before the first video is generated, so that a bad one among many is found at once.

  Raises:
    UsageError: options contradict each other, or the output does not fit the number of videos.
    UserError: a file cannot be read, no face is found, or motion does not fit.
  """
  inputs, paths = request.inputs, conditions.jobs(request)
  save = inputs.get('save_motion')
  if save and len(paths) > 1:
    raise UsageError(f'--save_motion={save}: {len(paths)} videos are asked for: ask for one')
  if save is not None:
    given = (*inputs['image'], *inputs['audio'], *filter(None, (inputs.get('motion'), config.pose)))
    replaceable = None if request.overwrite else motion_files.is_one
    outputs.check(save, ('.npz',), flag='save_motion', inputs=given, replaceable=replaceable)
  voices = {path: Sound.of_file(path, config.fps) for path in inputs['audio']}
  images = {path: conditions.read_portrait(path, config.size, config.framing) for path in inputs['image']}
  faces = {path: face_of(portrait, config) for path, portrait in images.items()}
  model = coefficients.numpy_model_of(params, config)
  identity = {'model': model.name, 'fingerprint': fingerprint(model)}
  longest = max(voice.num_frames for voice in voices.values())
  motion = None
  if 'motion' in inputs:
    expressions = config.morphable.expression
    read = functools.partial(motion_files.read, expressions=expressions, fps=config.fps, frames=longest)
    motion = read(inputs['motion'], **identity)
  pose = read_pose(config.pose, longest, config)
  jobs = sorted(paths, key=lambda job: voices[job.voice].num_frames)  # equal lengths together
  size = request.batch_size or (len(request.sweep[1]) if request.sweep else 1)

  def make(batch: list[Job], meshes: list[collections.deque]) -> Conditions:
    def deliver(number: int, rows: np.ndarray, made: Motion) -> None:
      meshes[number].extend(rows)
      if save:
        motion_files.write(save, made, **identity)

    return Conditions(
      portraits=conditions.portraits_of(batch, images, request),
      faces=[faces[job.image] for job in batch],
      sound=[voices[job.voice] for job in batch],
      motion=[motion] * len(batch),
      pose=[pose] * len(batch),
      deliver=deliver,
    )

  batches = []
  for first in range(0, len(jobs), size):
    batch = jobs[first : first + size]
    meshes = [collections.deque() for _ in batch]
    videos = [
      conditions.video_of(job, paths[job], voices[job.voice].num_frames, config.fps, config.size) for job in batch
    ]
    if inputs.get('mesh'):
      videos = [with_mesh(file, model, rows) for file, rows in zip(videos, meshes)]
    batches.append(FileBatch(tuple(videos), len(batch), functools.partial(make, batch, meshes)))
  return batches


def face_of(portrait: conditions.Portrait, config) -> Face:
  """The face of a portrait, in its square."""
  return measure(lambda: [portrait.image], portrait.track, (config.size, config.size), config)


def read_pose(wanted: str, frames: int, config) -> Pose | None:
  """Where poses come from, of a value of --pose: None for generated ones.

  Raises:
    UserError: it is a video that cannot be read, or has no face.
  """
  if wanted in (PREDICTED, STILL):
    return {PREDICTED: None, STILL: still}[wanted]
  return follow(measure(*conditions.driving_face(wanted, config.fps, frames), config))


def with_mesh(file: Video, model: MorphableModel, rows: collections.deque) -> Video:
  """The video of a file with the mesh of each frame's coefficients on its left; `rows` has them in order."""
  height, width = file.size

  def compose(frame: np.ndarray) -> np.ndarray:
    (mesh,) = mesh_drawing.draw(model, rows.popleft()[None], (height, width))
    return np.concatenate([mesh, file.compose(frame)], axis=1)

  return dataclasses.replace(file, size=(height, 2 * width), compose=compose)

"""What vexpress generates from: corpus records, or portraits, voices and keypoints in files."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UsageError, UserError
from talkjax.faces import keypoints
from talkjax.media import audio
from talkjax.media.segments import AUDIO_RATE
from talkjax.systems import FileBatch, RecordBatch, Request
from talkjax.systems.audio import Sound
from talkjax.systems.portrait import conditions, framing
from talkjax.systems.portrait.conditions import Job, Portraits
from talkjax.systems.portrait.reading import face_points
from talkjax.weights import speech

POINTS_SIZE = 512  # keypoints in arrays are pixels of a square of this size, as the released script writes them


@dataclasses.dataclass(frozen=True)
class Conditions:
  """What generation starts from; each video of a batch has its own length.

  Attributes:
    portraits: the portraits and the settings of the batch.
    keypoints: per video [f, 3, 2] float32, the keypoints of each frame to be generated, in pixels.
    sound: per video its sound, as long as the frames.
  """

  portraits: Portraits
  keypoints: Sequence[np.ndarray]
  sound: Sequence[Sound]


def from_records(
  clips: Sequence[Record],
  *,
  config,
  speech: Sequence[Record] | None = None,
  num_frames: int | None = None,
  settings: Mapping[str, Sequence[float]] | None = None,
) -> RecordBatch:
  """Records as conditions: the first frame is the portrait, the record's own keypoints and sound drive it.

  Args:
    clips: who is shown, and how heads move.
    config: the system's.
    speech: as many records whose sound is used instead; silent after its end.
    num_frames: longest length of the videos; by default that of each clip.
    settings: values [b] of sweepable options.
  """
  lengths = [min(num_frames or len(c.frames), len(c.frames)) for c in clips]
  points = [face_points(c, config) for c in clips]
  voices = zip(speech or clips, clips, lengths)
  return RecordBatch(
    Conditions(
      portraits=conditions.from_records(clips, config, settings or {}, config.framing),
      keypoints=[p[:n] for p, n in zip(points, lengths)],
      sound=[fit_duration(Sound.of_record(v, n, c.fps)) for v, c, n in voices],
    ),
    tuple(conditions.truth(c, n, config.size, crop=config.framing) for c, n in zip(clips, lengths)),
  )


def from_files(params, request: Request, *, config) -> list[FileBatch]:
  """The videos of every portrait with every voice, and every value of a sweep.

  All files are read before the first video is generated, so that a bad one among many is found at once. The windows of
  a batch are generated together.

  Raises:
    UsageError: options contradict each other, or the output does not fit the number of videos.
    UserError: a file cannot be read, no face is found, or keypoints cannot be retargeted.
  """
  inputs = request.inputs
  paths = conditions.jobs(request)
  strategy = inputs.get('retarget') or ('naive' if 'kps' in inputs else 'fix_face')
  if strategy != 'fix_face' and 'kps' not in inputs:
    raise UsageError(f'--retarget={strategy} moves keypoints of --kps, which is missing: name a video or an array')
  voices = {path: read_voice(path, config) for path in inputs['audio']}
  images = {path: conditions.read_portrait(path, config.size, config.framing) for path in inputs['image']}
  longest = max(voice.num_frames for voice in voices.values())
  driving = read_driving(inputs['kps'], longest, config) if 'kps' in inputs else None
  jobs = sorted(paths, key=lambda job: voices[job.voice].num_frames)  # equal lengths together
  size = request.batch_size or (len(request.sweep[1]) if request.sweep else 1)

  def points(job: Job) -> np.ndarray:
    return keypoints.retarget(driving, images[job.image].points, voices[job.voice].num_frames, strategy, config.compat)

  def make(batch: list[Job]) -> Conditions:
    return Conditions(
      portraits=conditions.portraits_of(batch, images, request),
      keypoints=[points(job) for job in batch],
      sound=[voices[job.voice] for job in batch],
    )

  batches = []
  for first in range(0, len(jobs), size):
    batch = jobs[first : first + size]
    spoken = [(job, voices[job.voice]) for job in batch]
    videos = [conditions.video_of(job, paths[job], voice.num_frames, voice.fps, config.size) for job, voice in spoken]
    batches.append(FileBatch(tuple(videos), len(batch), functools.partial(make, batch)))
  return batches


def read_voice(path: str, config) -> Sound:
  """The sound of a file, and how many frames its video has.

  With `compat` 'published' those are the frames of whole windows, spread over the whole sound.
  """
  samples, rate = audio.read_audio_native(path)
  seconds = len(samples) / rate
  waveform = audio.read_audio(path)
  if config.compat == 'published':
    settings = config.windows
    _, _, count = published_length(len(waveform), settings.frames, settings.overlap, config.fps)
    return Sound(waveform, count, count / seconds)
  return fit_duration(Sound(waveform, max(1, round(seconds * config.fps)), config.fps))


def published_length(samples: int, size: int, overlap: int, fps: float) -> tuple[int, int, int]:
  """How the released code cuts 16 kHz sound: (its frames at `fps`, whole windows, frames of those).

  Raises:
    UserError: too short for a window.
  """
  count = int(samples / AUDIO_RATE * fps)
  if count < size:
    raise UserError(
      f'the sound has {count} frames at {fps:g} a second, fewer than a window of {size}, which is the least with '
      '--compat=published: leave that out'
    )
  whole = (count - size) // (size - overlap) + 1
  return count, whole, size + (whole - 1) * (size - overlap)


def read_driving(path: str, count: int, config) -> np.ndarray:
  """Driving keypoints, as many as there are but no more than `count`, [f, 3, 2] in pixels of a square of `config.size`.

  Args:
    path: a video, whose face is detected at `config.fps`, or an array (see `keypoints.read`) in pixels of a square of
      512.
    count: frames that are needed.
    config: the system's.
  """
  if path.endswith(('.npy', '.pth', '.pt')):
    return keypoints.read(path) * np.float32(config.size / POINTS_SIZE)
  _, track, shape = conditions.driving_face(path, config.fps, count)
  return framing.centre(shape).points(keypoints.of_landmarks(track.landmarks), config.size)


def fit_duration(sound: Sound) -> Sound:
  """A sound whose waveform is cut or padded with silence to the duration of its frames."""
  return dataclasses.replace(sound, waveform=speech.fit_duration(sound.waveform, sound.num_frames / sound.fps))

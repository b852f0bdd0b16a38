"""Portraits, voices and keypoints in, video files out: exactly as many frames as the sound."""

import functools
import itertools

import jax
import numpy as np
import tqdm

from talkjax.errors import UsageError
from talkjax.faces import keypoints, landmarks
from talkjax.media import audio, video
from talkjax.media.picture import to_float
from talkjax.systems.portraits import square_portrait, take, to_square, with_setting, write_videos
from talkjax.systems.vexpress import windows
from talkjax.systems.vexpress.data import Inputs, lasting

POINTS_SIZE = 512  # keypoints in arrays are pixels of a square of this size, as the released script writes them


def animate(config, sampler: windows.Sampler, params, request) -> dict[str, int]:
  """Writes the videos, of every portrait with every voice, and returns how many frames each has, by its path.

  Args:
    config: the system's.
    sampler: its compiled functions.
    params: its weights.
    request: see `talkjax.systems.Request`: `image`, `audio`, `output`, `kps`, `retarget`, `sweep`, `seed`, `batch_size`
      (videos whose windows are made together), `metadata`.

  Raises:
    UsageError: the request lacks a portrait or a speech, or has what vexpress does not take.
    UserError: a file cannot be read, no face is found, or keypoints cannot be retargeted.
  """
  paths = take(request, 'vexpress', ('kps', 'retarget'))
  strategy = request.retarget or ('naive' if request.kps else 'fix_face')
  if strategy not in keypoints.STRATEGIES:
    raise UsageError(f'--retarget={strategy}: expected one of {", ".join(keypoints.STRATEGIES)}')
  if strategy != 'fix_face' and not request.kps:
    raise UsageError(f'--retarget={strategy} moves keypoints of --kps, which is missing: name a video or an array')
  # Everything is read once before anything is written: a bad file among many is found at once.
  sounds = {path: read_voice(path, config) for path in request.audio}
  portraits = {path: square_portrait(path, config.size) for path in request.image}
  driving = read_driving(request.kps, max(count for _, count, _ in sounds.values()), config) if request.kps else None
  jobs = sorted(paths, key=lambda job: sounds[job.voice][1])  # equal lengths together
  size = request.batch_size or (len(request.sweep[1]) if request.sweep else 1)
  batches = [jobs[i : i + size] for i in range(0, len(jobs), size)]
  devices = jax.device_count() if request.spread(jax.device_count()) else 1
  total = sum(windows.calls([sounds[job.voice][1] for job in batch], config, devices) for batch in batches)
  with tqdm.tqdm(total=total, unit='call') as bar:
    for batch in batches:
      inputs = make_inputs(batch, portraits, sounds, driving, strategy, config)
      if request.sweep:
        inputs = with_setting(inputs, request.sweep[0], np.array([job.value for job in batch]))
      files = {paths[job]: (job.voice, sounds[job.voice][1]) for job in batch}
      frames = windows.generate(
        params,
        inputs,
        np.full(len(batch), request.seed, np.uint32),
        sampler=sampler,
        spread=request.spread,
        progress=functools.partial(bar.update, 1),
      )
      write_videos(files, frames, inputs.fps[0], config.size, request.metadata)
  return {paths[job]: sounds[job.voice][1] for job in paths}


def read_voice(path: str, config) -> tuple[np.ndarray, int, float]:
  """A voice: its waveform at 16 kHz, how many frames it has, and how many of them are in a second.

  With `compat` 'published' they are what whole windows hold, spread over the whole sound.
  """
  sound, rate = audio.read_audio_native(path)
  seconds = len(sound) / rate
  waveform = audio.read_audio(path)
  if config.compat == 'published':
    laid = config.windows
    _, _, count = windows.published_length(len(waveform), laid.frames, laid.overlap, config.fps)
    return waveform, count, count / seconds
  count = max(1, round(seconds * config.fps))
  return lasting(waveform, count / config.fps), count, config.fps


def read_driving(path: str, count: int, config) -> np.ndarray:
  """Driving keypoints, as many as there are but no more than `count`, [f, 3, 2] in pixels of a square of `config.size`.

  Args:
    path: a video, whose face is found at `config.fps`, or an array (see `keypoints.read`) in pixels of a square of 512.
    count: of frames that are wanted.
    config: the system's.
  """
  if path.endswith(('.npy', '.pth', '.pt')):
    return keypoints.read(path) * np.float32(config.size / POINTS_SIZE)
  shape = video.probe(path)
  frames = itertools.islice(video.read_frames(path, config.fps), count)
  track = landmarks.find_faces(frames, name=path)
  return to_square(keypoints.of_landmarks(track.landmarks), (shape.height, shape.width), config.size)


def make_inputs(jobs, portraits, sounds, driving, strategy: str, config) -> Inputs:
  """A batch of jobs."""
  points = []
  for job in jobs:
    own = keypoints.of_landmarks(portraits[job.image][2])
    points.append(keypoints.retarget(driving, own, sounds[job.voice][1], strategy, config.compat))
  return Inputs(
    reference=to_float(np.stack([portraits[job.image][0] for job in jobs])),
    keypoints=points,
    sound=[sounds[job.voice][0] for job in jobs],
    fps=[sounds[job.voice][2] for job in jobs],
  )

"""Portraits and voices in, video files out: exactly as many frames as the sound, clip by clip."""

import collections
import contextlib
import dataclasses
import itertools
import math
import pathlib
import time

import jax
import numpy as np
import tqdm

from talkjax.cli import UsageError
from talkjax.faces import landmarks
from talkjax.media import audio, picture, video
from talkjax.systems.emo import data

FPS = 25.0


def animate(config, generate, params, request) -> dict[str, int]:
  """Writes the videos, of every portrait with every voice, and returns how many frames each has, by its path.

  Frames are written while the next clip is made, so memory does not grow with the length.

  Args:
    config: the system's.
    generate: the system's `generate`.
    params: its weights.
    request: see `talkjax.systems.Request`: `image`, `audio`, `output`, `speed`, `face_box`, `seed`, `batch_size`,
      `metadata`. The same seed goes to every video, so that none depends on what it is made with.

  Raises:
    UsageError: the request lacks a portrait or a speech, has what emo does not take, or its face box is none.
    UserError: a file cannot be read, or no face is found.
  """
  request.takes('emo', ('image', 'audio'), ('speed', 'face_box', 'batch_size'))
  if request.batch_size is not None and request.batch_size < 1:
    raise UsageError(f'--batch_size={request.batch_size}: expected 1 or more')
  paths = output_paths(request)
  # Everything is read once before anything is written: a bad file among many is found at once.
  portraits = {path: read_portrait(path, request.face_box, config.size) for path in request.image}
  lengths, heard = {}, {}
  for path in request.audio:
    sound, rate = audio.read_audio_native(path)
    lengths[path] = max(1, math.ceil(len(sound) / rate * FPS - 1e-3))
    heard[path] = data.speech_features(audio.read_audio(path), lengths[path], FPS, config.audio)
  jobs = sorted(paths, key=lambda job: lengths[job[1]])  # equal lengths together
  size = min(request.batch_size or jax.device_count(), len(jobs))
  if size > 1:
    size = -(-size // jax.device_count()) * jax.device_count()
  layout = request.spread(size)
  if layout is not None:
    params = jax.device_put(params, layout[1])
  counts = [lengths[voice] for _, voice in jobs]
  clips = sum(-(-max(counts[i : i + size]) // config.frames) for i in range(0, len(jobs), size))
  with tqdm.tqdm(total=clips, unit='clip') as bar:
    for first in range(0, len(jobs), size):
      batch = jobs[first : first + size]
      full = [batch[i % len(batch)] for i in range(size)]  # one compiled shape: the last batch is filled up
      inputs = make_inputs(full, portraits, heard, request.speed, config)
      if layout is not None:
        inputs = dataclasses.replace(inputs, reference=jax.device_put(inputs.reference, layout[0]))
      frames = generate(params, inputs, np.full(size, request.seed, np.uint32))
      write_videos(batch, paths, lengths, frames, config, request.metadata, bar)
  return {paths[job]: lengths[job[1]] for job in paths}


def output_paths(request) -> dict[tuple[str, str], str]:
  """The file of every (portrait, voice); of several they lie in `output`, a folder, as PORTRAIT_VOICE.mp4.

  Raises:
    UsageError: several would be one file, or lie in an .mp4.
  """
  jobs = list(itertools.product(dict.fromkeys(request.image), dict.fromkeys(request.audio)))
  if len(jobs) == 1:
    return {jobs[0]: request.output}
  if request.output.endswith('.mp4'):
    raise UsageError(f'--output={request.output}: {len(jobs)} videos are asked for: name a folder for them')
  names = {job: f'{pathlib.Path(job[0]).stem}_{pathlib.Path(job[1]).stem}.mp4' for job in jobs}
  count = collections.Counter(names.values())
  if twice := [name for name, n in count.items() if n > 1]:
    raise UsageError(f'--output={request.output}: two videos would be called {twice[0]}: rename an input')
  return {job: str(pathlib.Path(request.output) / name) for job, name in names.items()}


def make_inputs(jobs, portraits, heard, speed: float | None, config) -> data.Inputs:
  """A batch of (portrait, voice) pairs; voices end in silence where another is longer."""
  count = max(len(heard[voice]) for _, voice in jobs)
  index = np.arange(count)
  speed = config.speed.default if speed is None else speed
  return data.Inputs(
    reference=data.to_float(np.stack([portraits[image][0] for image, _ in jobs])),
    region=np.stack([portraits[image][1] for image, _ in jobs]),
    audio=np.stack([data.padded(heard[voice], index, config.audio) for _, voice in jobs]),
    speed=np.full((len(jobs), count), speed, np.float32),
  )


def write_videos(jobs, paths, lengths, frames, config, metadata, bar: tqdm.tqdm) -> None:
  """Writes a batch's frames [b, h, w, 3] as they come, each video to its own length; `bar` counts clips."""
  began, before = time.perf_counter(), bar.n
  with contextlib.ExitStack() as stack:
    writers = []
    for job in jobs:
      sound, rate = audio.read_audio_native(job[1])
      writer = video.VideoWriter(paths[job], FPS, (config.size, config.size), sound, rate, metadata)
      writers.append(stack.enter_context(writer))
    for number, made in enumerate(frames):
      for i, job in enumerate(jobs):
        if number < lengths[job[1]]:
          writers[i].write(made[i])
      if number % config.frames == config.frames - 1 or number + 1 == lengths[jobs[-1][1]]:
        bar.update(number // config.frames + 1 + before - bar.n)
        written = sum(min(number + 1, lengths[voice]) for _, voice in jobs) / FPS
        bar.set_postfix_str(f'{written / (time.perf_counter() - began):.2f} s of video a second')


def read_portrait(path: str, face_box: str | None, size: int) -> tuple[np.ndarray, np.ndarray]:
  """A portrait as the network sees it, and where its face may be.

  The picture is cut to a square around the face, as large as the picture has room for.

  Args:
    path: a picture.
    face_box: 'x0,y0,x1,y1' as fractions of the square, or None: the detected face with room to move.
    size: of the square.

  Returns:
    uint8 [size, size, 3] and the region [size, size, 1] float32.
  """
  shown = picture.read(path)
  track = landmarks.find_faces([shown], name=path)
  x0, y0, x1, y1 = (float(v) for v in track.box[0])
  height, width = shown.shape[:2]
  side = min(height, width)
  left = int(np.clip((x0 + x1 - side) / 2, 0, width - side))
  top = int(np.clip((y0 + y1 - side) / 2, 0, height - side))
  square = data.fit_square(np.ascontiguousarray(shown[top : top + side, left : left + side]), size)
  if face_box is None:
    room = 0.1 * max(x1 - x0, y1 - y0)
    box = (np.array([x0 - left - room, y0 - top - room, x1 - left + room, y1 - top + room]) * size / side).tolist()
  else:
    box = [size * v for v in parse_box(face_box)]
  return square, data.box_region(box, size)


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
    raise UsageError(
      f'--face_box={text}: expected x0,y0,x1,y1, fractions of the square picture, such as 0.2,0.1,0.8,0.9'
    )
  return box

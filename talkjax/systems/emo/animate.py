"""Portraits and voices in, video files out: exactly as many frames as the sound, clip by clip."""

import dataclasses
import math
import time

import jax
import numpy as np
import tqdm

from talkjax.errors import UsageError
from talkjax.media import audio
from talkjax.media.picture import to_float
from talkjax.systems.emo import data
from talkjax.systems.portraits import (
  SETTINGS,
  box_region,
  padded,
  speech_features,
  square_portrait,
  take,
  with_setting,
  write_videos,
)

FPS = 25.0


def animate(config, generate, params, request) -> dict[str, int]:
  """Writes the videos, of every portrait with every voice, and returns how many frames each has, by its path.

  Frames are written while the next clip is made, so memory does not grow with the length.

  Args:
    config: the system's.
    generate: the system's `generate`.
    params: its weights.
    request: see `talkjax.systems.Request`: `image`, `audio`, `output`, `speed`, `face_box`, `sweep`, `seed`,
      `batch_size`, `metadata`. The same seed goes to every video, so that none depends on what it is made with.

  Raises:
    UsageError: the request lacks a portrait or a speech, has what emo does not take, or its face box is none.
    UserError: a file cannot be read, or no face is found.
  """
  paths = take(request, 'emo', ('speed', 'face_box'), (*SETTINGS, 'speed'))
  # Everything is read once before anything is written: a bad file among many is found at once.
  portraits = {path: read_portrait(path, request.face_box, config.size) for path in request.image}
  lengths, heard = {}, {}
  for path in request.audio:
    sound, rate = audio.read_audio_native(path)
    lengths[path] = max(1, math.ceil(len(sound) / rate * FPS - 1e-3))
    heard[path] = speech_features(audio.read_audio(path), lengths[path], FPS, config.audio)
  jobs = sorted(paths, key=lambda job: lengths[job.voice])  # equal lengths together
  size = min(request.batch_size or max(jax.device_count(), len(request.sweep[1]) if request.sweep else 1), len(jobs))
  if size > 1:
    size = -(-size // jax.device_count()) * jax.device_count()
  layout = request.spread(size)
  if layout is not None:
    params = jax.device_put(params, layout[1])
  counts = [lengths[job.voice] for job in jobs]
  clips = sum(-(-max(counts[i : i + size]) // config.frames) for i in range(0, len(jobs), size))
  with tqdm.tqdm(total=clips, unit='clip') as bar:
    for first in range(0, len(jobs), size):
      batch = jobs[first : first + size]
      full = [batch[i % len(batch)] for i in range(size)]  # one compiled shape: the last batch is filled up
      inputs = make_inputs(full, portraits, heard, request.speed, config)
      if request.sweep:
        inputs = with_setting(inputs, request.sweep[0], np.array([job.value for job in full]))
      if layout is not None:
        inputs = dataclasses.replace(inputs, reference=jax.device_put(inputs.reference, layout[0]))
      frames = generate(params, inputs, np.full(size, request.seed, np.uint32))
      files = {paths[job]: (job.voice, lengths[job.voice]) for job in batch}
      progress = Progress(bar, config.frames, [length for _, length in files.values()])
      write_videos(files, frames, FPS, config.size, request.metadata, progress)
  return {paths[job]: lengths[job.voice] for job in paths}


def make_inputs(jobs, portraits, heard, speed: float | None, config) -> data.Inputs:
  """A batch of jobs; voices end in silence where another is longer."""
  count = max(len(heard[job.voice]) for job in jobs)
  index = np.arange(count)
  speed = config.speed.default if speed is None else speed
  return data.Inputs(
    reference=to_float(np.stack([portraits[job.image][0] for job in jobs])),
    region=np.stack([portraits[job.image][1] for job in jobs]),
    audio=np.stack([padded(heard[job.voice], index, config.audio) for job in jobs]),
    speed=np.full((len(jobs), count), speed, np.float32),
  )


class Progress:
  """Moves a bar that counts clips of so many frames, as frames of videos of these lengths are written."""

  def __init__(self, bar: tqdm.tqdm, frames: int, lengths: list[int]):
    self.bar, self.frames, self.before, self.lengths = bar, frames, bar.n, lengths
    self.began = time.perf_counter()

  def __call__(self, number: int) -> None:
    if number % self.frames == self.frames - 1 or number + 1 == max(self.lengths):
      self.bar.update(number // self.frames + 1 + self.before - self.bar.n)
      written = sum(min(number + 1, length) for length in self.lengths) / FPS
      self.bar.set_postfix_str(f'{written / (time.perf_counter() - self.began):.2f} s of video a second')


def read_portrait(path: str, face_box: str | None, size: int) -> tuple[np.ndarray, np.ndarray]:
  """A portrait as the network sees it (`square_portrait`), and where its face may be.

  Args:
    path: a picture.
    face_box: 'x0,y0,x1,y1' as fractions of the square, or None: the detected face with room to move.
    size: of the square.

  Returns:
    uint8 [size, size, 3] and the region [size, size, 1] float32.
  """
  square, box, _ = square_portrait(path, size)
  if face_box is None:
    x0, y0, x1, y1 = (float(v) for v in box)
    room = 0.1 * max(x1 - x0, y1 - y0)
    box = (x0 - room, y0 - room, x1 + room, y1 + room)
  else:
    box = [size * v for v in parse_box(face_box)]
  return square, box_region(box, size)


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

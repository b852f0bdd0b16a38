"""A portrait and a voice in, a video file out: exactly as many frames as the sound, clip by clip."""

import math

import numpy as np
import tqdm

from talkjax.cli import UsageError
from talkjax.faces import landmarks
from talkjax.media import audio, picture, video
from talkjax.systems.emo import data

FPS = 25.0


def animate(config, generate, params, request) -> int:
  """Writes the video and returns how many frames it has. Frames are written as clips are made.

  Args:
    config: the system's.
    generate: the system's `generate`.
    params: its weights.
    request: see `talkjax.systems.Request`: `image`, `audio`, `output`, `speed`, `face_box`, `seed`, `metadata`.

  Raises:
    UsageError: the request lacks a portrait or a speech, has what emo does not take, or its face box is none.
    UserError: a file cannot be read, or no face is found.
  """
  request.takes('emo', ('image', 'audio'), ('speed', 'face_box'))
  speech = audio.read_audio(request.audio)
  sound, sound_rate = audio.read_audio_native(request.audio)
  count = max(1, math.ceil(len(sound) / sound_rate * FPS - 1e-3))
  portrait, region = read_portrait(request.image, request.face_box, config.size)
  inputs = data.Inputs(
    reference=data.to_float(portrait)[None],
    region=region[None],
    audio=data.speech_features(speech, count, FPS, config.audio)[None],
    speed=np.full((1, count), request.speed if request.speed is not None else config.speed.default, np.float32),
  )
  seeds = np.array([request.seed], np.uint32)
  size = (config.size, config.size)
  with video.VideoWriter(request.output, FPS, size, sound, sound_rate, request.metadata) as writer:
    for made in tqdm.tqdm(generate(params, inputs, seeds), total=count, unit='frame'):
      writer.write(made[0])
  return count


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

"""Any video and any speech in, the re-voiced video out: own resolution and frame rate, as long as the speech."""

import collections
import contextlib
import itertools
import math
import os
import pathlib
import tempfile
from collections.abc import Iterator

import cv2
import numpy as np
import tqdm

from talkjax.errors import UserError
from talkjax.faces import align, landmarks, mask
from talkjax.media import audio, picture, video
from talkjax.systems.speech_edit import data


def revoice(config, generate, params, request) -> dict[str, int]:
  """Writes the re-voiced video and returns how many frames it has, by its path.

  Frames are read, made and written one by one, so memory does not grow with the length. A video shorter than the speech
  plays forth and back, and only then its frames wait on disk.

  Args:
    config: the system's.
    generate: the system's `generate`.
    params: its weights.
    request: see `talkjax.systems.Request`: `video`, `audio`, `output`, `identity`, `seed`, `metadata`.

  Raises:
    UsageError: the request lacks a video or a speech, or has what speech_edit does not take.
    UserError: a file cannot be read, or no face is found.
  """
  request.takes('speech_edit', ('video', 'audio'), ('identity',))
  path = request.one('audio')
  speech = audio.read_audio(path)
  sound, sound_rate = audio.read_audio_native(path)
  info = video.probe(request.video)
  # Rounded up, so that no sound is cut; the tolerance is for durations of a whole number of frames.
  count = max(1, math.ceil(len(sound) / sound_rate * info.fps - 1e-3))
  source = lambda: itertools.islice(video.read_frames(request.video, fps=info.fps), count)

  # Once per video: where the face is.
  track = landmarks.find_faces(source(), name=request.video)
  transforms = align.canonical_transforms(track.landmarks, config.size)
  length = len(transforms)
  regions = lambda i: mask.jaw_mask(
    align.transform_points(track.landmarks[i], transforms[i]), config.size, kind=config.mask
  )

  mel = audio.log_mel(speech, data.mel_frames(len(speech)))
  identity = _identity(request, config, source, transforms)
  waiting = collections.deque()  # source frames between their reading and their writing

  def frames(pictures):
    for number, (index, frame) in enumerate(pictures):
      clean, region = align.crop(frame, transforms[index], config.size), regions(index)
      waiting.append((index, frame, region))
      features = data.audio_features(mel, np.array([number]), info.fps, config.audio)
      yield {'clean': data.to_float(clean)[None], 'mask': region[None], 'audio': features}

  seeds = np.array([request.seed], np.uint32)
  with contextlib.ExitStack() as stack:
    pictures = stack.enter_context(_forth_and_back(source, length, count))
    writer = stack.enter_context(
      video.VideoWriter(
        request.output,
        info.fps,
        (info.height, info.width),
        sound,
        sound_rate,
        request.metadata,
        pixel_aspect=info.pixel_aspect,
      )
    )
    inputs = data.Inputs(identity[None], frames(pictures))
    for made in tqdm.tqdm(generate(params, inputs, seeds), total=count, unit='frame'):
      index, frame, region = waiting.popleft()
      writer.write(align.paste(frame, made[0], transforms[index], region))
  return {request.output: count}


def _identity(request, config, source, transforms) -> np.ndarray:
  """[h, w, 3] in [-1, 1]: frame 0, another frame of the video, or a picture."""
  wanted = request.identity or '0'
  if wanted.isdigit():
    number = int(wanted)
    frame = next(itertools.islice(source(), number, None), None)
    if frame is None:
      raise UserError(f'--identity={number}: the video has frames 0 to {len(transforms) - 1}')
    return data.to_float(align.crop(frame, transforms[number], config.size))
  if not os.path.lexists(wanted):
    raise UserError(
      f'--identity={wanted} is neither a picture nor the number of a frame of the video: give one of them'
    )
  shown = picture.read(wanted)
  track = landmarks.find_faces([shown], name=wanted)
  return data.to_float(align.crop(shown, align.canonical_transforms(track.landmarks, config.size)[0], config.size))


@contextlib.contextmanager
def _forth_and_back(source, length: int, count: int) -> Iterator[Iterator[tuple[int, np.ndarray]]]:
  """`count` pairs (index, frame) with indices 0, 1, ..., length - 1, length - 2, ..., 0, 1, ..."""
  if count <= length:
    yield enumerate(source())
    return
  with tempfile.TemporaryDirectory() as folder:
    name = lambda i: str(pathlib.Path(folder) / f'{i:07}.png')

    def pictures():
      for i, frame in enumerate(source()):
        cv2.imwrite(name(i), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
        yield i, frame
      turn = max(1, 2 * (length - 1))
      for number in range(length, count):
        i = number % turn
        i = min(i, turn - i)
        yield i, cv2.cvtColor(cv2.imread(name(i)), cv2.COLOR_BGR2RGB)

    yield pictures()

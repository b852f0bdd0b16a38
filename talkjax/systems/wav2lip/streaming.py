"""Lips for frames as they come, which other systems generate."""

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from talkjax.faces import align, detector, landmarks
from talkjax.media.picture import to_uint8
from talkjax.media.segments import AUDIO_RATE
from talkjax.systems.audio import AudioFeatures, Sound
from talkjax.systems.wav2lip import data
from talkjax.systems.wav2lip.conditions import prepare
from talkjax.systems.wav2lip.generation import FRAMES
from talkjax.training import sharding

AFTER = 1  # seconds after the end of a sound in which its last features fade


def lip_sync(
  params,
  frames: Iterable[np.ndarray],
  sound: np.ndarray,
  fps: float,
  *,
  predict: Callable,
  audio: AudioFeatures,
  config,
) -> Iterator[np.ndarray]:
  """The frames with the lips of a sound, in their own size; FRAMES and a few more are held at once.

  Args:
    params: from training.
    frames: uint8 [h, w, 3] each, from time 0 on.
    sound: float32 [s] of 16 kHz; silent after its end.
    fps: frames per second.
    predict: from `generation.make_predict`.
    audio: the audio features of each frame.
    config: the system's.

  Yields:
    As many frames, uint8 [h, w, 3].

  Raises:
    NoFace: the first frame has no face. A later one has the face of the frame before.
  """
  features = audio.of_sound(params, Sound(sound, math.ceil((len(sound) / AUDIO_RATE + AFTER) * fps), fps))
  replicated = sharding.replicate(params)
  reference, start = None, 0
  for placed in _batches(placements(frames, config)):
    inputs = [prepare(frame, transform, points, config) for frame, transform, points in placed]
    if reference is None:
      reference = inputs[0]['clean']
    padded = inputs + inputs[-1:] * (FRAMES - len(inputs))
    given, mask, region = (np.concatenate([x[name] for x in padded]) for name in ('clean', 'mask', 'region'))
    shown = given if config.reference == 'own' else np.repeat(reference, FRAMES, 0)
    speech = audio.pad_index(features, np.arange(start, start + FRAMES))
    made = np.asarray(to_uint8(predict(replicated, given, shown, mask, region, speech)))
    for (frame, transform, _), picture, where in zip(placed, made, region):
      yield align.paste(frame, picture, transform, where)
    start += len(placed)


def _batches(items: Iterable) -> Iterator[list]:
  iterator = iter(items)
  while batch := list(itertools.islice(iterator, FRAMES)):
    yield batch


def placements(frames: Iterable[np.ndarray], config) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """(frame, transform [2, 3] of its crop, landmarks [68, 2] in its pixels), a few frames behind.

  Transforms are those of `data.face_transforms` of the whole clip.
  """
  for found in centred(_faces(frames), data.SMOOTH[config.crop]):
    middle = len(found) // 2
    points, boxes = (np.stack([face[i] for face in found]) for i in (1, 2))
    yield found[middle][0], data.face_transforms(points, boxes, config)[middle], points[middle]


def centred(items: Iterable, window: int) -> Iterator[list]:
  """The `window` items around each, of which it is the middle; fewer near the ends, as in `align.centred_mean`."""
  half, seen, after = window // 2, collections.deque(maxlen=window), collections.deque()

  def around() -> list:
    item = after.popleft()
    reach = min(len(seen), len(after), half)
    before = list(seen)[len(seen) - reach :]
    seen.append(item)
    return [*before, item, *itertools.islice(after, reach)]

  for item in items:
    after.append(item)
    if len(after) > half:
      yield around()
  while after:
    yield around()


def _faces(frames: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """(frame, landmarks [68, 2], box [4]) of the largest face, or of that of the frame before."""
  mesh = None
  with detector.Detector() as detect:
    for frame in frames:
      found = landmarks.select_face(detect(frame), mesh)
      if mesh is None and found is None:
        landmarks.check_found(np.zeros(1, bool), 'the first frame')
      mesh = mesh if found is None else found
      yield frame, mesh[landmarks.MESH_TO_68, :2].astype(np.float32), detector.box(mesh).astype(np.float32)

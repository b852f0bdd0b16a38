"""From a video file of a talking person to a record: what every corpus of real people shares.

As 3.3.3 of "Speech Driven Video Editing via an Audio-Conditioned Diffusion Model": frames at 25 per second, landmarks
found in each, the face aligned to the canonical one with a smoothing window of 7 frames, and a square crop around it.
Corpora with crops of their own keep theirs: a square that stays in its place, in which the head moves (`Window`).
"""

import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np

from talkjax.corpora import building, records
from talkjax.corpora.building import Skip
from talkjax.errors import UserError
from talkjax.faces import align, landmarks
from talkjax.media import audio as sound
from talkjax.media import picture, segments, video

FPS = 25.0
SAMPLES_PER_FRAME = round(segments.AUDIO_RATE / FPS)
SMOOTH = 7  # frames
MIN_FOUND = 0.8  # share of frames in which the face has to be seen
MAX_GAP = 12  # frames in a row in which it may be missing: half a second
MIN_SECONDS = 0.2
QUIET = 1e-3  # a sound track that never gets louder than this (of 1) has nobody talking in it
AGREE = 0.15  # seconds by which sound in a file of its own may differ in length from the video
PICTURES = ('.png', '.jpg', '.jpeg')
ROUNDING = 2  # pixels by which a window may reach beyond the picture, and is moved in


@dataclasses.dataclass(frozen=True)
class Window:
  """A square of the picture that is the same for all frames of a clip; without a side the largest one in the middle."""

  x: int = 0  # pixels, of its left upper corner
  y: int = 0
  side: int = 0
  height: int = 0  # of the picture that the numbers are of: a video of another height has them to scale; 0: its own


@dataclasses.dataclass(frozen=True)
class Clip:
  """What to make a record from; texts that are not known are ''."""

  id: str
  video: str  # a file, or a folder of pictures, `fps` of them a second
  size: int = 128  # of the square crop, pixels
  window: Window | None = None  # the crop; None: around the face, upright
  fps: float = FPS  # of a folder of pictures; a file knows its own
  audio: str = ''  # a file with better sound; used where it is as long as the video, else the video's own is
  start: float = 0.0  # seconds; with `end` a piece of the video
  end: float | None = None
  speaker: str = ''
  gender: str = ''
  caption: str = ''
  transcript: str = ''
  words: tuple[segments.Segment, ...] = ()
  attributes: tuple[tuple[str, str], ...] = ()
  silent_ok: bool = False  # keep the clip although it has no sound
  problem: str = ''  # why the clip can't be used, where its corpus knows without opening it


def caption_of(gender: str) -> str:
  """The caption of a clip of which no more is known (the two of shared use: a man, a woman is talking)."""
  return {'male': 'A man is talking', 'female': 'A woman is talking'}.get(gender, 'A person is talking')


def find_files(folder: str | os.PathLike, suffixes: Sequence[str]) -> list[pathlib.Path]:
  """All files below a folder, through links to folders too, that end in one of `suffixes` ('.mp4'), sorted.

  Hidden files are left out: unpacking on some systems leaves '._name.mp4' beside every 'name.mp4'.
  """
  return sorted(pathlib.Path(where, name) for where, names in _walk(folder, suffixes) for name in names)


def find_picture_folders(folder: str | os.PathLike) -> list[pathlib.Path]:
  """All folders below (and including) a folder, through links too, that hold pictures themselves, sorted."""
  return sorted(pathlib.Path(where) for where, names in _walk(folder, PICTURES) if names)


def held_out(names: Iterable[str], share: float) -> set[str]:
  """Which of some people (or whatever must not be on both sides) are the test set: `share` of them, at least one.

  Chosen by a digest of the name, so that the alphabet decides nothing; the same for the same names in any order. Of one
  alone none is held out.
  """
  ranked = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
  return set(ranked[: max(1, round(share * len(ranked)))]) if len(ranked) > 1 else set()


def talking_record(clip: Clip) -> records.Record:
  """Makes the record of one clip.

  Landmarks and box are in pixels of the crop, pose is of the head in the crop (its roll is what alignment left).

  Raises:
    Skip: no usable face, sound or video; the message is the reason and names no file.
  """
  if clip.problem:
    raise Skip(clip.problem)
  try:
    waveform = _waveform(clip)
    pictures, track = _aligned(clip) if clip.window is None else _framed(clip)
  except UserError as error:
    raise Skip(_without_names(str(error), clip)) from error
  count = len(pictures)
  if count < MIN_SECONDS * FPS:
    raise Skip(f'shorter than {MIN_SECONDS} s')
  return records.Record(
    id=clip.id,
    speaker=clip.speaker,
    gender=clip.gender,
    caption=clip.caption or caption_of(clip.gender),
    transcript=clip.transcript,
    fps=FPS,
    frames=pictures,
    size=(clip.size, clip.size),
    audio=_as_long_as(waveform, clip, count),
    box=track.box,
    landmarks=track.landmarks,
    pose=track.pose,
    num_faces=track.num_faces,
    words=clip.words,
    attributes={**dict(clip.attributes), 'found': f'{np.mean(track.found):.3f}'},
  )


def pieces(path: str, max_seconds: float | None) -> list[tuple[float, float | None]]:
  """Where to cut a video so that no piece is longer than `max_seconds`: (start, end), equal lengths, whole frames.

  A video that can't be read, or is short enough, is one piece to its end.
  """
  try:
    seconds = video.probe(path).duration if max_seconds else 0.0
  except UserError:  # whoever makes the record says what is wrong
    seconds = 0.0
  if not max_seconds or seconds <= max_seconds:
    return [(0.0, None)]
  return [(a / FPS, b / FPS) for a, b in itertools.pairwise(even_parts(round(seconds * FPS), max_seconds))]


def pieces_of_all(
  paths: Sequence[str], max_seconds: float | None
) -> tuple[dict[str, list[tuple[float, float | None]]], dict[str, str]]:
  """`pieces` of many videos, found by the workers of the build, and the problems of those that overran its time limit.

  Returns:
    By path the pieces, and by path the problems; a video with a problem is one piece.
  """
  found, problems = dict.fromkeys(paths, [(0.0, None)]), {}
  if max_seconds:  # else nothing has to be opened
    for path, cuts, error in building.in_workers(functools.partial(pieces, max_seconds=max_seconds), paths):
      if error is None:
        found[path] = cuts
      else:
        problems[path] = error
  return found, problems


def even_parts(frames: int, max_seconds: float) -> list[int]:
  """Frames into the fewest parts of equal length of at most `max_seconds`: where each begins, and the end."""
  most = max(1, int(max_seconds * FPS))
  return [int(n) for n in np.linspace(0, frames, -(-frames // most) + 1).round()]


def read_frames(clip: Clip) -> Iterator[np.ndarray]:
  """A clip's frames, 25 a second: uint8 [h, w, 3] RGB as they are, or its window at [size, size, 3].

  Raises:
    Skip: there is none in its time, or its window reaches beyond the picture.
    UserError: they can't be read.
  """
  first, last = round(clip.start * FPS), None if clip.end is None else round(clip.end * FPS)
  if os.path.isdir(clip.video):
    frames = _pictures(clip, first, last)
  else:
    frames = itertools.islice(video.read_frames(clip.video, fps=FPS), first, last)
  empty = True
  for frame in frames:
    empty = False
    yield frame if clip.window is None else _cut_out(frame, clip.window, clip.size)
  if empty:
    raise Skip('the video ends before the clip begins')


def _aligned(clip: Clip) -> tuple[tuple[bytes, ...], landmarks.FaceTrack]:
  """Pictures around the upright face, and the face in them."""
  track = _face(read_frames(clip))
  transforms = align.canonical_transforms(track.landmarks, size=clip.size, smooth=SMOOTH)
  # The video is read a second time rather than held: a minute of 1080p is 9 GB.
  pictures = tuple(
    records.encode_picture(align.crop(frame, transform, clip.size))
    for frame, transform in zip(read_frames(clip), transforms)
  )
  return pictures, dataclasses.replace(
    track,
    box=_boxes(track.box, transforms),
    landmarks=_moved(track.landmarks, transforms),
    pose=_turned(track.pose, transforms),
  )


def _framed(clip: Clip) -> tuple[tuple[bytes, ...], landmarks.FaceTrack]:
  """Pictures of the clip's window, and the face in them."""
  pictures = []

  def passing():
    for frame in read_frames(clip):
      pictures.append(records.encode_picture(frame))
      yield frame

  track = _face(passing())
  return tuple(pictures), track


def _face(frames: Iterable[np.ndarray]) -> landmarks.FaceTrack:
  """The face of a clip; the reasons against it are of few kinds, so that they can be counted."""
  try:
    track = landmarks.find_faces(frames, min_found=0.0, max_gap=sys.maxsize)
  except landmarks.NoFace as error:
    raise Skip('no face in any frame') from error
  if np.mean(track.found) < MIN_FOUND:
    raise Skip(f'a face in less than {MIN_FOUND:.0%} of the frames')
  if landmarks.longest_gap(track.found)[1] > MAX_GAP:
    raise Skip(f'no face in more than {MAX_GAP} frames in a row')
  return track


def _walk(folder: str | os.PathLike, suffixes: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
  """(folder, those of its files that end in one of `suffixes` and are not hidden), each folder once."""
  seen = set()
  for where, folders, names in os.walk(folder, followlinks=True):
    if os.path.realpath(where) in seen:  # a link to a folder above
      folders.clear()
      continue
    seen.add(os.path.realpath(where))
    yield where, [n for n in names if n.lower().endswith(tuple(suffixes)) and not n.startswith('.')]


def _pictures(clip: Clip, first: int, last: int | None) -> Iterator[np.ndarray]:
  """Frames of a folder of pictures, resampled to 25 per second as `video.read_frames` does it (the nearest in time)."""
  names = [n for n in os.listdir(clip.video) if n.lower().endswith(PICTURES) and not n.startswith('.')]
  # '2.png' before '10.png'; as shipped all numbers have eight digits.
  paths = [pathlib.Path(clip.video, name) for name in sorted(names, key=lambda n: (len(n), n))]
  count, shape = max(1, round(len(paths) / clip.fps * FPS)) if paths else 0, None
  for index in range(first, count if last is None else min(last, count)):
    path = paths[min(round(index / FPS * clip.fps), len(paths) - 1)]
    try:
      frame = picture.read(path)
    except UserError as error:
      why = str(error).removeprefix(f'{path} ').split(': ')[0]
      raise UserError(f'{clip.video} has a picture that is not readable (it {why}): {path.name}') from error
    shape = shape or frame.shape
    if frame.shape != shape:
      raise UserError(f'{clip.video} has pictures of several sizes: {path.name} differs from those before')
    yield frame


def _cut_out(frame: np.ndarray, window: Window, size: int) -> np.ndarray:
  """The window of a frame, uint8 [size, size, 3]."""
  height, width = frame.shape[:2]
  if window.side:
    scale = height / window.height if window.height else 1.0
    x, y, side = (round(scale * n) for n in (window.x, window.y, window.side))
    if min(x, y) < -ROUNDING or x + side > width + ROUNDING or y + side > height + ROUNDING:
      raise Skip('its crop reaches beyond the picture')
    side = min(side, width, height)
    x, y = min(max(x, 0), width - side), min(max(y, 0), height - side)
  else:
    side = min(height, width)
    x, y = (width - side) // 2, (height - side) // 2
  method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
  return cv2.resize(frame[y : y + side, x : x + side], (size, size), interpolation=method)


def _waveform(clip: Clip) -> np.ndarray:
  """All the sound of the video, float32 [s]; empty where there is none and that is allowed."""
  waveform = np.zeros(0, np.float32)
  info = None if os.path.isdir(clip.video) else video.probe(clip.video)
  if info and clip.audio and not (clip.start or clip.end):
    alone = sound.read_audio(clip.audio, segments.AUDIO_RATE)
    if abs(len(alone) / segments.AUDIO_RATE - info.duration) <= AGREE:
      waveform = alone
  if not len(waveform) and info and info.has_audio:
    waveform = sound.read_audio(clip.video, segments.AUDIO_RATE)
  if not clip.silent_ok:
    if not len(waveform):
      raise Skip('no sound')
    if np.abs(waveform).max() < QUIET:
      raise Skip('the sound track is silent')
  return waveform


def _as_long_as(waveform: np.ndarray, clip: Clip, frames: int) -> np.ndarray:
  """The clip's part of the sound as int16, to the sample as long as its frames."""
  if not len(waveform):
    return np.zeros(0, np.int16)
  first = round(clip.start * FPS) * SAMPLES_PER_FRAME
  part = waveform[first : first + frames * SAMPLES_PER_FRAME]
  part = np.pad(part, (0, frames * SAMPLES_PER_FRAME - len(part)))
  return np.clip(np.round(part * 32767.0), -32768, 32767).astype(np.int16)


def _moved(points: np.ndarray, transforms: np.ndarray) -> np.ndarray:
  """Points [f, n, 2] of the source -> of the crop."""
  moved = [align.transform_points(p, t) for p, t in zip(points, transforms)]
  return np.asarray(moved, np.float32)


def _boxes(box: np.ndarray, transforms: np.ndarray) -> np.ndarray:
  """Boxes [f, 4] of the source -> the upright boxes around them in the crop."""
  corners = _moved(box[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2), transforms)
  return np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)


def _turned(pose: np.ndarray, transforms: np.ndarray) -> np.ndarray:
  """Pose [f, 3] in the source -> in the crop, which alignment has turned in the picture's plane."""
  turn = np.degrees(np.arctan2(transforms[:, 1, 0], transforms[:, 0, 0]))
  roll = (pose[:, 2] + turn + 180.0) % 360.0 - 180.0
  return np.stack([pose[:, 0], pose[:, 1], roll], 1).astype(np.float32)


def _without_names(reason: str, clip: Clip) -> str:
  """A reason that many clips can share: without the file's name, and without the advice that follows a colon."""
  for path, name in ((clip.video, 'the file'), (clip.audio, 'the sound file')):
    if path:
      reason = reason.replace(str(pathlib.Path(path)), name)
  return ' '.join(reason.split(': ')[0].split())

"""Makes the record of a video of a talking person; shared by all corpora of real people.

Frames are resampled to 25 per second and the face is found in each. Then they are cropped to a square in one of two
ways:

- fixed for the whole clip, so that the head moves in it, as portrait systems need: a published crop or the centre of
  the picture (`Window`), or a square around the face in all frames (`FaceWindow`);
- aligned frame by frame to a canonical face, as in section 3.3.3 of "Speech Driven Video Editing via an
  Audio-Conditioned Diffusion Model", with a smoothing window of 7 frames: position, scale and roll of the head are
  removed.
"""

import dataclasses
import hashlib
import itertools
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np

from talkjax.corpora import records
from talkjax.corpora.building import Skip
from talkjax.errors import UserError
from talkjax.faces import align, landmarks
from talkjax.media import audio as sound
from talkjax.media import picture, segments, video

FPS = 25.0
SAMPLES_PER_FRAME = round(segments.AUDIO_RATE / FPS)
SMOOTH = 7  # frames
MIN_FOUND = 0.8  # minimum fraction of frames with a detected face
MAX_GAP = 12  # maximum number of consecutive frames without a face: half a second
MIN_SECONDS = 0.2
MIN_AMPLITUDE = 1e-3  # of 1; an audio track whose peak is lower contains no speech
MAX_AUDIO_DIFFERENCE = 0.15  # seconds between the durations of a separate audio file and the video
PICTURES = ('.png', '.jpg', '.jpeg')
ROUNDING = 2  # pixels by which a window may exceed the frame; it is then moved inside
MARGIN = 1.25  # least side of a `FaceWindow`, in sides of the square around the face in all frames
RAISED = 0.1  # fraction of its side by which a `FaceWindow` is above the face's centre: boxes end below the hair


@dataclasses.dataclass(frozen=True)
class Window:
  """A square crop that is the same for all frames of a clip; with side 0, the largest centred square."""

  x: int = 0  # pixels, of the upper left corner
  y: int = 0
  side: int = 0
  height: int = 0  # frame height that the numbers refer to; they are scaled to the height of the video. 0: no scaling


@dataclasses.dataclass(frozen=True)
class FaceWindow:
  """A square crop that is the same for all frames of a clip, around the face in all of them; see `place_window`."""

  face: float = 0.55  # side of the face's box (chin to hairline) as a fraction of the crop's, about as in HDTF


@dataclasses.dataclass(frozen=True)
class Region:
  """The part of the picture that has the clip's person: the rest does not exist for it."""

  x0: float
  y0: float
  x1: float
  y1: float
  height: int = 0  # of the frames whose pixels the numbers are; 0: they are fractions of width and height

  def cut(self, frame: np.ndarray) -> np.ndarray:
    """That part of a frame [h, w, 3], as far as it is in the frame."""
    height, width = frame.shape[:2]
    scale = (height / self.height,) * 2 if self.height else (width, height)
    x0, x1 = (round(min(max(x * scale[0], 0), width)) for x in (self.x0, self.x1))
    y0, y1 = (round(min(max(y * scale[1], 0), height)) for y in (self.y0, self.y1))
    if x0 >= x1 or y0 >= y1:
      raise Skip('its part of the picture is outside of the picture')
    return frame[y0:y1, x0:x1]


@dataclasses.dataclass(frozen=True)
class Clip:
  """The sources and metadata of a record; unknown texts are ''."""

  id: str
  video: str  # a video file, or a folder of images at `fps` frames per second
  size: int = 128  # of the square crop, pixels
  window: Window | FaceWindow | None = None  # a fixed crop; None: a crop around the aligned face
  region: Region | None = None  # the part of the picture that is used; None: all of it
  fps: float = FPS  # of a folder of images; ignored for video files
  audio: str = ''  # a file with better audio; used if its duration matches the video, else the video's audio is
  start: float = 0.0  # seconds; `start` and `end` select a part of the video
  end: float | None = None
  speaker: str = ''
  gender: str = ''
  caption: str = ''
  transcript: str = ''
  words: tuple[segments.Segment, ...] = ()
  attributes: tuple[tuple[str, str], ...] = ()
  silent_ok: bool = False  # keep the clip even if it has no audio
  problem: str = ''  # why the clip can't be used, if this is known without opening it


def caption_of(gender: str) -> str:
  """The default caption: 'A man is talking', 'A woman is talking', or 'A person is talking' for other genders."""
  return {'male': 'A man is talking', 'female': 'A woman is talking'}.get(gender, 'A person is talking')


def find_files(folder: str | os.PathLike, suffixes: Sequence[str]) -> list[pathlib.Path]:
  """All files below a folder whose names end in one of `suffixes` ('.mp4'), sorted; follows links to folders.

  Hidden files are ignored: unpacking on some systems creates a '._name.mp4' for every 'name.mp4'.
  """
  return sorted(pathlib.Path(parent, name) for parent, names in _walk(folder, suffixes) for name in names)


def find_picture_folders(folder: str | os.PathLike) -> list[pathlib.Path]:
  """All folders below a folder, and the folder itself, that directly contain images, sorted; follows links."""
  return sorted(pathlib.Path(parent) for parent, names in _walk(folder, PICTURES) if names)


def held_out(names: Iterable[str], share: float) -> set[str]:
  """Selects the names of the test set, such as speakers, which must not be in both sets: a fraction `share` of them.

  Names are ranked by a hash, so the selection depends neither on their alphabetical order nor on the input order. At
  least one name is selected, but none if there is only one.
  """
  ranked = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
  return set(ranked[: max(1, round(share * len(ranked)))]) if len(ranked) > 1 else set()


def split_names(names: Iterable[str], test: float, validation: float = 0.0) -> dict[str, str]:
  """The split of each name: fractions of them are `test` and `validation`, see `held_out`, and the others `train`.

  A name is in `test` for any larger fraction too.
  """
  names = set(names)
  tested, held = held_out(names, test), held_out(names, test + validation)
  return {name: 'test' if name in tested else 'validation' if name in held else 'train' for name in names}


def talking_record(clip: Clip) -> records.Record:
  """Makes the record of one clip.

  Landmarks and box are in pixels of the crop. The pose is that of the head in the crop, so its roll is the one that
  remains after alignment.

  Raises:
    Skip: the clip has no usable face, audio or video; the message is the reason, without file names.
  """
  if clip.problem:
    raise Skip(clip.problem)
  try:
    waveform = _waveform(clip)
    if isinstance(clip.window, Window):
      frames, track = _window_frames(clip)
    else:
      frames, track = _aligned_frames(clip) if clip.window is None else _face_window_frames(clip)
  except UserError as error:
    raise Skip(_without_paths(str(error), clip)) from error
  count = len(frames)
  if count < MIN_SECONDS * FPS:
    raise Skip(f'shorter than {MIN_SECONDS} s')
  return records.Record(
    id=clip.id,
    speaker=clip.speaker,
    gender=clip.gender,
    caption=clip.caption or caption_of(clip.gender),
    transcript=clip.transcript,
    fps=FPS,
    frames=frames,
    size=(clip.size, clip.size),
    audio=_trim_audio(waveform, clip, count),
    box=track.box,
    landmarks=track.landmarks,
    pose=track.pose,
    num_faces=track.num_faces,
    words=clip.words,
    attributes={**dict(clip.attributes), 'found': f'{np.mean(track.found):.3f}'},
  )


def even_parts(frames: int, max_seconds: float) -> list[int]:
  """Divides frames into the fewest equal parts of at most `max_seconds`: the start of each part, and the end."""
  longest = max(1, int(max_seconds * FPS))
  return [int(n) for n in np.linspace(0, frames, -(-frames // longest) + 1).round()]


def read_frames(clip: Clip) -> Iterator[np.ndarray]:
  """Yields the frames of a clip at 25 per second: uint8 [h, w, 3] RGB, or [size, size, 3] if it has a `Window`.

  Raises:
    Skip: the video has no frames between `start` and `end`, or the window exceeds the frame.
    UserError: the video can't be read.
  """
  first, last = round(clip.start * FPS), None if clip.end is None else round(clip.end * FPS)
  if os.path.isdir(clip.video):
    frames = _read_images(clip, first, last)
  else:
    frames = itertools.islice(video.read_frames(clip.video, fps=FPS), first, last)
  empty = True
  for frame in frames:
    empty = False
    shown = clip.region.cut(frame) if clip.region else frame
    yield _crop(shown, clip.window, clip.size) if isinstance(clip.window, Window) else shown
  if empty:
    raise Skip('the video ends before the clip begins')


def _aligned_frames(clip: Clip) -> tuple[tuple[bytes, ...], landmarks.FaceTrack]:
  """Encoded crops around the aligned face, and the face track in their coordinates."""
  track = _find_face(read_frames(clip))
  transforms = align.canonical_transforms(track.landmarks, size=clip.size, smooth=SMOOTH)
  # The video is read a second time because a minute of 1080p takes 9 GB of memory.
  crops = tuple(
    records.encode_picture(align.crop(frame, transform, clip.size))
    for frame, transform in zip(read_frames(clip), transforms)
  )
  return crops, dataclasses.replace(
    track,
    box=_transform_boxes(track.box, transforms),
    landmarks=_transform_points(track.landmarks, transforms),
    pose=_rotate_pose(track.pose, transforms),
  )


def _face_window_frames(clip: Clip) -> tuple[tuple[bytes, ...], landmarks.FaceTrack]:
  """Encoded crops of the square that `place_window` chooses, and the face track in their coordinates."""
  shapes = []

  def note_and_yield():
    for frame in read_frames(clip):
      shapes.append(frame.shape[:2])
      yield frame

  track = _find_face(note_and_yield())
  window = place_window(track.box, shapes[0], clip.window.face)
  crops = tuple(records.encode_picture(_crop(frame, window, clip.size)) for frame in read_frames(clip))
  corner, scale = np.array([window.x, window.y], np.float32), np.float32(clip.size / window.side)
  return crops, dataclasses.replace(
    track, box=(track.box - np.tile(corner, 2)) * scale, landmarks=(track.landmarks - corner) * scale
  )


def place_window(boxes: np.ndarray, shape: tuple[int, int], face: float) -> Window:
  """The square crop of a clip in which its face stays.

  Args:
    boxes: [f, 4] of the face in each frame, x0, y0, x1, y1 in pixels.
    shape: (h, w) of the frames.
    face: median side of the face as a fraction of the crop's. The crop is larger where the face moves far, and smaller
      where the frame is.

  Raises:
    Skip: no square in the frame contains the face of every frame.
  """
  bounds = np.array(shape[::-1], np.float32)
  low, high = np.clip(boxes[:, :2].min(0), 0, bounds), np.clip(boxes[:, 2:].max(0), 0, bounds)
  extent = float((high - low).max())
  wanted = max(np.median((boxes[:, 2:] - boxes[:, :2]).max(1)) / face, MARGIN * extent)
  side = int(min(wanted, *shape))
  if extent > side:
    raise Skip('the face moves too far for a square crop')
  corner = (low + high) / 2 - side / 2 - np.array([0, RAISED * side])
  x, y = np.clip(np.clip(corner, high - side, low).round(), 0, bounds - side)
  return Window(int(x), int(y), side)


def _window_frames(clip: Clip) -> tuple[tuple[bytes, ...], landmarks.FaceTrack]:
  """Encoded crops of the clip's window, and the face track in their coordinates."""
  crops = []

  def encode_and_yield():
    for frame in read_frames(clip):
      crops.append(records.encode_picture(frame))
      yield frame

  track = _find_face(encode_and_yield())
  return tuple(crops), track


def _find_face(frames: Iterable[np.ndarray]) -> landmarks.FaceTrack:
  """The face track of a clip. Raises Skip with one of a few reasons, so that they can be counted."""
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
  """Yields (folder, names of its non-hidden files that end in one of `suffixes`), each folder once."""
  seen = set()
  for parent, folders, names in os.walk(folder, followlinks=True):
    if os.path.realpath(parent) in seen:  # for example a link to a parent folder
      folders.clear()
      continue
    seen.add(os.path.realpath(parent))
    yield parent, [n for n in names if n.lower().endswith(tuple(suffixes)) and not n.startswith('.')]


def _read_images(clip: Clip, first: int, last: int | None) -> Iterator[np.ndarray]:
  """Yields frames of a folder of images, resampled to 25 per second like `video.read_frames` (nearest in time)."""
  names = [n for n in os.listdir(clip.video) if n.lower().endswith(PICTURES) and not n.startswith('.')]
  # Sorts '2.png' before '10.png'; as published, all numbers have eight digits.
  paths = [pathlib.Path(clip.video, name) for name in sorted(names, key=lambda n: (len(n), n))]
  count, shape = max(1, round(len(paths) / clip.fps * FPS)) if paths else 0, None
  for index in range(first, count if last is None else min(last, count)):
    path = paths[min(round(index / FPS * clip.fps), len(paths) - 1)]
    try:
      frame = picture.read(path)
    except UserError as error:
      reason = str(error).removeprefix(f'{path} ').split(': ')[0]
      raise UserError(f'{clip.video} has a picture that is not readable (it {reason}): {path.name}') from error
    shape = shape or frame.shape
    if frame.shape != shape:
      raise UserError(f'{clip.video} has pictures of several sizes: {path.name} differs from the previous ones')
    yield frame


def _crop(frame: np.ndarray, window: Window, size: int) -> np.ndarray:
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
  interpolation = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
  return cv2.resize(frame[y : y + side, x : x + side], (size, size), interpolation=interpolation)


def _waveform(clip: Clip) -> np.ndarray:
  """The audio of the whole video, float32 [s]; empty if it has none and the clip allows that."""
  waveform = np.zeros(0, np.float32)
  info = None if os.path.isdir(clip.video) else video.probe(clip.video)
  if info and clip.audio:
    separate = sound.read_audio(clip.audio, segments.AUDIO_RATE)
    if abs(len(separate) / segments.AUDIO_RATE - info.duration) <= MAX_AUDIO_DIFFERENCE:
      waveform = separate
  if not len(waveform) and info and info.has_audio:
    waveform = sound.read_audio(clip.video, segments.AUDIO_RATE)
  if not clip.silent_ok:
    if not len(waveform):
      raise Skip('no sound')
    if np.abs(waveform).max() < MIN_AMPLITUDE:
      raise Skip('the sound track is silent')
  return waveform


def _trim_audio(waveform: np.ndarray, clip: Clip, frames: int) -> np.ndarray:
  """The clip's part of the audio as int16, trimmed or zero-padded to exactly the duration of its frames."""
  if not len(waveform):
    return np.zeros(0, np.int16)
  first = round(clip.start * FPS) * SAMPLES_PER_FRAME
  part = waveform[first : first + frames * SAMPLES_PER_FRAME]
  part = np.pad(part, (0, frames * SAMPLES_PER_FRAME - len(part)))
  return np.clip(np.round(part * 32767.0), -32768, 32767).astype(np.int16)


def _transform_points(points: np.ndarray, transforms: np.ndarray) -> np.ndarray:
  """Points [f, n, 2] in the source frame -> in the crop."""
  transformed = [align.transform_points(p, t) for p, t in zip(points, transforms)]
  return np.asarray(transformed, np.float32)


def _transform_boxes(box: np.ndarray, transforms: np.ndarray) -> np.ndarray:
  """Boxes [f, 4] in the source frame -> their axis-aligned bounding boxes in the crop."""
  corners = _transform_points(box[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2), transforms)
  return np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)


def _rotate_pose(pose: np.ndarray, transforms: np.ndarray) -> np.ndarray:
  """Pose [f, 3] in the source frame -> in the crop, which is rotated in the image plane by the alignment."""
  rotation = np.degrees(np.arctan2(transforms[:, 1, 0], transforms[:, 0, 0]))
  roll = (pose[:, 2] + rotation + 180.0) % 360.0 - 180.0
  return np.stack([pose[:, 0], pose[:, 1], roll], 1).astype(np.float32)


def _without_paths(reason: str, clip: Clip) -> str:
  """An error message as a reason that clips can share: without paths, and without the remedy after the colon."""
  for path, name in ((clip.video, 'the file'), (clip.audio, 'the sound file')):
    if path:
      reason = reason.replace(str(pathlib.Path(path)), name)
  return ' '.join(reason.split(': ')[0].split())

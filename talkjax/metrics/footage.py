"""Videos as the published scores see them: frames that can be read several times, sound, the face, cached features.

A corpus clip in memory and a file in a folder become the same `Footage`, so a score is written once for both.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import logging
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from talkjax.errors import UserError
from talkjax.faces import landmarks
from talkjax.faces.landmarks import FaceTrack
from talkjax.media import audio, video

RATE = 16_000  # Hz, of all sound
SAME_RATE = 0.01  # relative difference of frame rates that count as equal
Features = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Footage:
  """A video to be scored.

  Attributes:
    name: for messages and cached files.
    read: a rate or None -> its frames at that rate, or as they are: uint8 [h, w, 3].
    fps: frames per second.
    sound: -> float32 [s] at RATE in [-1, 1], or None.
    cache: where its features are kept between runs; None: only in memory.
  """

  name: str
  read: Callable[[float | None], Iterable[np.ndarray]]
  fps: float
  sound: Callable[[], np.ndarray | None]
  cache: 'Cache | None' = None
  _memory: dict[str, Features] = dataclasses.field(default_factory=dict, repr=False, compare=False)

  def frames(self, fps: float | None = None) -> Iterable[np.ndarray]:
    """Its frames, at another rate if that differs."""
    return self.read(None if fps is None or abs(fps - self.fps) <= SAME_RATE * fps else fps)

  def features(self, kind: str, key: str, compute: Callable[[], Features]) -> Features:
    """Features of one kind, computed once.

    Args:
      kind: their name.
      key: what they depend on besides the video: a fingerprint of the weights.
      compute: makes them.
    """
    key = f'{self.fps:g} {key}'
    if kind not in self._memory:
      self._memory[kind] = self.cache(self.name, kind, key, compute) if self.cache else compute()
    return self._memory[kind]

  @functools.cached_property
  def faces(self) -> FaceTrack | None:
    """The face in its frames; None if there is none in half of them."""
    names = [f.name for f in dataclasses.fields(FaceTrack)]

    def find() -> Features:
      found = landmarks.track(self.frames())
      return {} if found is None else {name: np.asarray(getattr(found, name)) for name in names}

    made = self.features('faces', '', find)
    return FaceTrack(**{name: made[name] for name in names}) if made else None


@dataclasses.dataclass(frozen=True)
class Pair:
  """A generated video and its reference, frame by frame.

  Attributes:
    name: of the pair.
    person: who is seen; '' if unknown.
    generated, reference: the videos. Suites of sets also take pairs of which one is None, see `Suite.sets`.
    caption: what the video shows and says; '' if unknown.
  """

  name: str
  person: str
  generated: Footage | None
  reference: Footage | None
  caption: str = ''


def from_frames(name: str, frames: Sequence[np.ndarray], fps: float, sound: np.ndarray | None) -> Footage:
  """The footage of frames and sound [s] at RATE in memory."""

  def read(rate: float | None):
    if rate is None:
      return frames
    count = max(1, round(len(frames) / fps * rate))
    return [frames[min(len(frames) - 1, round(i * fps / rate))] for i in range(count)]

  return Footage(name, read, fps, lambda: sound)


def from_file(path: pathlib.Path, fps: float | None = None, cache: 'Cache | None' = None) -> Footage:
  """The footage of a video file, resampled to `fps` if that is given. Raises UserError if it cannot be read."""
  info = video.probe(path)
  sound = lambda: audio.read_audio(path) if info.has_audio else None
  return Footage(path.name, lambda rate: video.read_frames(path, rate or fps), fps or info.fps, sound, cache)


def chunks(frames: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
  """Frames in arrays [n, h, w, 3] of `size`, the last of the rest."""
  frames = iter(frames)
  while block := list(itertools.islice(frames, size)):
    yield np.stack(block)


@dataclasses.dataclass(frozen=True)
class Cache:
  """Features of a folder's videos, in a folder next to it: FOLDER.features/VIDEO-KIND.npz.

  A file is used if the contents of the video and the weights are those it was made with, and else made again.
  """

  folder: pathlib.Path

  @property
  def path(self) -> pathlib.Path:
    return self.folder.with_name(f'{self.folder.name}.features')

  def __call__(self, name: str, kind: str, key: str, compute: Callable[[], Features]) -> Features:
    path = self.path / f'{name}-{kind}.npz'
    key = f'{_digest(self.folder / name)} {key}'
    try:
      with np.load(path, allow_pickle=False) as file:
        if str(file['key']) == key:
          return {k.removeprefix('feature_'): file[k] for k in file.files if k != 'key'}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
      pass  # there is none, or a damaged one, which is made again
    made = compute()
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.partial.npz')
    try:
      path.parent.mkdir(exist_ok=True)
      np.savez(temporary, key=np.array(key), **{f'feature_{k}': v for k, v in made.items()})
      temporary.replace(path)
    except OSError as error:
      logging.getLogger(__name__).warning('features are not kept: cannot write %s (%s)', path, error.strerror)
      with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
    return made


def _digest(path: pathlib.Path) -> str:
  try:
    status = path.stat()
    return _digest_of(path, status.st_size, status.st_mtime_ns)
  except OSError as error:
    raise UserError(f'{path} cannot be read ({error.strerror}): check its permissions') from error


@functools.lru_cache(maxsize=4096)
def _digest_of(path: pathlib.Path, size: int, modified: int) -> str:
  """The digest of a file; size and time say whether it is still the one that was read."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()

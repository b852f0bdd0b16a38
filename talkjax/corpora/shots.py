"""Hard cuts: where one picture gives way to quite another from one frame to the next, and the clips between them.

A model that learns how faces move must not learn that they jump. A corpus of cut footage hands its clips to `split`
before it hands them to `building.generate`.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping

import cv2
import numpy as np
import tqdm
from etils import epath

from talkjax.corpora import building, footage, pool

THUMB = 24  # pixels of the side to which pictures are reduced
FAINT = 12.0  # grey levels of contrast that count little: noise, and pictures that come out of the dark
SIDE = 3  # frames looked at on either side of a cut
CUT = 0.2  # distance (1 - correlation) that a cut makes at least (a face that talks in a fixed square: below 0.1) ...
RATIO = 2.0  # ... and by how much it exceeds what changes within the frames on either side


def find_cuts(frames: Iterable[np.ndarray]) -> tuple[int, list[int]]:
  """Counts frames and finds the hard cuts between them.

  Two pictures are compared by the correlation of their thumbnails, which brightness, contrast and colour cast leave
  alone. A cut lies where each of three frames before differs from each of three frames after, by more than frames on
  the same side differ among themselves. So a flash is none (the picture comes back), nor is fast motion (its frames
  differ from each other as well), nor a fade. One frame between, blended from both sides, is allowed.

  Args:
    frames: uint8 [h, w, 3], any number.

  Returns:
    The number of frames, and the first frame after each cut, growing.
  """
  thumbs = [_thumbnail(frame) for frame in frames]
  count = len(thumbs)
  if count < 2 * SIDE + 1:
    return count, []
  thumbs = np.stack(thumbs)
  reach = 2 * SIDE + 1
  # apart[k][t] is the distance of frames t and t + k.
  apart = {k: 1 - np.einsum('tp,tp->t', thumbs[:-k], thumbs[k:]) for k in range(1, reach)}
  found = []
  for t in range(SIDE, count - SIDE):  # frame t is the one between, or the first after
    before, after = range(t - SIDE, t), range(t + 1, min(t + 1 + SIDE, count))
    across = min(apart[b - a][a] for a in before for b in after)
    within = max(apart[b - a][a] for side in (before, after) for a, b in itertools.combinations(side, 2))
    if across > CUT and across > RATIO * within:
      found.append(t)
  # Neighbours tell of the same cut; it lies where the picture changes most from one frame to the next.
  groups = np.split(found, np.flatnonzero(np.diff(found) > 1) + 1) if found else []
  return count, [
    int(max(range(group[0], min(group[-1] + 1, count - 1) + 1), key=lambda t: apart[1][t - 1])) for group in groups
  ]


def split(
  builder, splits: Mapping[str, Mapping[str, footage.Clip]], max_seconds: float | None = None
) -> dict[str, dict[str, footage.Clip]]:
  """Clips (by split and id) -> the clips between their cuts, none longer than `max_seconds`.

  Of a clip that is divided become NAME#1, NAME#2, ... with the attributes `piece` and, where it had cuts, `shot`; they
  have no transcript, as nobody knows which words they hold. A clip that can't be read stays whole: whoever makes its
  record says what is wrong with it. One that overran the time limit of a clip has that as its `problem`.

  The frames of all clips are read for it, in as many processes as the build has; what was found waits beside the
  dataset, so that an interrupted build does not look again.

  Args:
    builder: the TFDS builder that asks.
    splits: as `building.generate` takes them.
    max_seconds: None leaves long clips as they are.
  """
  limit = building._options.limit
  # Each clip is at least one: of a trial no more have to be looked at.
  splits = {name: dict(itertools.islice(clips.items(), limit)) for name, clips in splits.items()}
  scan = functools.partial(_scan, os.fspath(building.partial_folder(builder) / 'cuts'))
  clips = [clip for part in splits.values() for clip in part.values() if not clip.problem]
  found = {}
  with tqdm.tqdm(total=len(clips), desc=f'{builder.info.full_name}: cuts', unit='clip', smoothing=0.05) as bar:
    for clip, result, error in building.in_workers(scan, clips):
      found[clip] = error if isinstance(error, pool.TimedOut) else result
      bar.update()
  return {
    name: {piece.id: piece for clip in part.values() for piece in _pieces(clip, found.get(clip), max_seconds)}
    for name, part in splits.items()
  }


def _thumbnail(frame: np.ndarray) -> np.ndarray:
  """A picture as a unit vector, float32 [p]: products of two are their correlation (of two empty ones 1)."""
  small = cv2.resize(frame, (THUMB, THUMB), interpolation=cv2.INTER_AREA).astype(np.float32)
  contrast = (small - small.mean((0, 1))).ravel()
  vector = np.append(contrast, FAINT * np.sqrt(contrast.size))
  return vector / np.linalg.norm(vector)


def _scan(folder: str, clip: footage.Clip) -> tuple[int, list[int]]:
  """`find_cuts` of a clip, or what it once found, from the folder."""
  stamp = os.stat(clip.video)
  key = hashlib.sha256(repr((clip, stamp.st_size, stamp.st_mtime)).encode()).hexdigest()[:40]
  path = epath.Path(folder) / f'{key}.json'
  if path.exists():
    count, cuts = json.loads(path.read_text())
    return count, cuts
  result = find_cuts(footage.read_frames(clip))
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'{key}.{os.getpid()}.tmp')
  temporary.write_text(json.dumps(result))
  temporary.replace(path)
  return result


def _pieces(clip: footage.Clip, found: tuple | str | None, max_seconds: float | None) -> list[footage.Clip]:
  """The clip, or what it is divided into; `found` is what `find_cuts` returned, a problem, or None where it failed."""
  if found is None:
    return [clip]
  if isinstance(found, str):
    return [dataclasses.replace(clip, problem=found)]
  count, cuts = found
  spans = []
  for shot, (a, b) in enumerate(itertools.pairwise([0, *cuts, count]), 1):
    edges = [0, b - a] if max_seconds is None else footage.even_parts(b - a, max_seconds)
    spans += [(shot, a + c, a + d) for c, d in itertools.pairwise(edges)]
  if len(spans) == 1:
    return [clip]
  first = round(clip.start * footage.FPS)
  return [
    dataclasses.replace(
      clip,
      id=f'{clip.id}#{i}',
      start=(first + a) / footage.FPS,
      end=(first + b) / footage.FPS,
      transcript='',
      words=(),
      attributes=tuple(
        sorted({**dict(clip.attributes), 'piece': str(i), **({'shot': str(shot)} if cuts else {})}.items())
      ),
    )
    for i, (shot, a, b) in enumerate(spans, 1)
  ]

"""Shot detection: finds hard cuts in videos and splits clips at them.

Cuts inside a clip would teach a model that faces jump. A builder of edited footage passes its clips through `split`
before `building.generate`.
"""

import contextlib
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

THUMB = 24  # side of the thumbnails in pixels
FAINT = 12.0  # grey levels of contrast below which differences count little: noise, fades from black
SIDE = 3  # frames compared on either side of a cut
CUT = 0.2  # least distance (1 - correlation) across a cut (below 0.1 for a talking face in a fixed square) ...
RATIO = 2.0  # ... and its least ratio to the distances among the frames on either side


def find_cuts(frames: Iterable[np.ndarray]) -> tuple[int, list[int]]:
  """Counts frames and finds the hard cuts between them.

  Frames are compared by the correlation of their thumbnails, which does not depend on brightness, contrast and colour
  cast. At a cut, each of the three frames before differs from each of the three frames after by more than frames on the
  same side differ among themselves. A flash is therefore no cut (the same image follows), nor are fast motion (its
  frames also differ among themselves) and fades. One frame in between may be a blend of both sides.

  Args:
    frames: uint8 [h, w, 3], any number.

  Returns:
    The number of frames, and the indices of the first frame after each cut, ascending.
  """
  thumbs = [_thumbnail(frame) for frame in frames]
  count = len(thumbs)
  if count < 2 * SIDE + 1:
    return count, []
  thumbs = np.stack(thumbs)
  reach = 2 * SIDE + 1
  # distance[k][t] is that of frames t and t + k.
  distance = {k: 1 - np.einsum('tp,tp->t', thumbs[:-k], thumbs[k:]) for k in range(1, reach)}
  found = []
  for t in range(SIDE, count - SIDE):  # frame t is the blended one, or the first after the cut
    before, after = range(t - SIDE, t), range(t + 1, min(t + 1 + SIDE, count))
    across = min(distance[b - a][a] for a in before for b in after)
    within = max(distance[b - a][a] for side in (before, after) for a, b in itertools.combinations(side, 2))
    if across > CUT and across > RATIO * within:
      found.append(t)
  # Neighbouring detections are the same cut, which is where the image changes most from one frame to the next.
  groups = np.split(found, np.flatnonzero(np.diff(found) > 1) + 1) if found else []
  return count, [
    int(max(range(group[0], min(group[-1] + 1, count - 1) + 1), key=lambda t: distance[1][t - 1])) for group in groups
  ]


def split(
  builder, splits: Mapping[str, Mapping[str, footage.Clip]], max_seconds: float | None = None
) -> dict[str, dict[str, footage.Clip]]:
  """Clips (by split and id) -> the clips between their cuts, none longer than `max_seconds`.

  A divided clip becomes NAME#1, NAME#2, ... with the attributes `piece` and, if it had cuts, `shot`. The parts have no
  transcript, because the transcript does not say which words belong to which part. A clip that can't be read is not
  divided; making its record reports the problem. One that exceeds the time limit of a clip has that as its `problem`.

  This reads the frames of all clips, in as many processes as the build has. The results are stored beside the dataset,
  so an interrupted build does not repeat the work.

  Args:
    builder: the TFDS builder of the corpus.
    splits: as for `building.generate`.
    max_seconds: None does not divide long clips.
  """
  limit = building._options.limit
  # Every clip gives at least one part, so a trial build needs no more clips than its limit.
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
  """An image as a unit vector, float32 [p]; dot products are correlations (1 for two uniform images)."""
  small = cv2.resize(frame, (THUMB, THUMB), interpolation=cv2.INTER_AREA).astype(np.float32)
  contrast = (small - small.mean((0, 1))).ravel()
  vector = np.append(contrast, FAINT * np.sqrt(contrast.size))
  return vector / np.linalg.norm(vector)


def _scan(folder: str, clip: footage.Clip) -> tuple[int, list[int]]:
  """`find_cuts` of a clip, cached in the folder."""
  stamp = os.stat(clip.video)
  key = hashlib.sha256(repr((clip, stamp.st_size, stamp.st_mtime)).encode()).hexdigest()[:40]
  path = epath.Path(folder) / f'{key}.json'
  if path.exists():
    with contextlib.suppress(ValueError, TypeError):  # damaged: it is made again
      count, cuts = json.loads(path.read_text())
      return count, cuts
  result = find_cuts(footage.read_frames(clip))
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'{key}.{os.getpid()}.tmp')
  temporary.write_text(json.dumps(result))
  temporary.replace(path)
  return result


def _pieces(clip: footage.Clip, found: tuple | str | None, max_seconds: float | None) -> list[footage.Clip]:
  """The clip, or the clips it is divided into; `found` is what `find_cuts` returned, a problem, or None on failure."""
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

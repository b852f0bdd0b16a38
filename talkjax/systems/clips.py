"""Whole frames of records and videos, a few at a time; shared by `autoencoder` and `super_resolution`."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from talkjax.corpora.records import Record
from talkjax.systems import Chunk, RecordBatch, reconstruction_scores
from talkjax.systems.reconstruction_scores import CHUNK


@dataclasses.dataclass(frozen=True)
class Frames:
  """The conditions of a system that changes frames one by one.

  Attributes:
    frames: uint8 [b, h, w, 3], one after another, of all videos at the same time.
    fps: frames per second.
  """

  frames: Callable[[], Iterable[np.ndarray]]
  fps: float = 25.0


def change(conditions: Frames, make: Callable[[np.ndarray], np.ndarray]) -> Iterator[Chunk]:
  """The frames, changed by `make`, [b, CHUNK, h, w, 3] uint8 -> the same of any size; compiled for one length."""
  source, size = iter(conditions.frames()), 0
  while frames := list(itertools.islice(source, CHUNK)):
    size = size or len(frames)  # one compiled shape: a last chunk that is shorter is filled up
    stacked = np.stack([frames[min(i, len(frames) - 1)] for i in range(size)], axis=1)
    yield Chunk(make(stacked)[:, : len(frames)], fps=conditions.fps)


def of_records(
  records: Sequence[Record],
  size: int,
  num_frames: int | None,
  given: Callable[[np.ndarray], np.ndarray] = lambda frames: frames,
) -> RecordBatch:
  """Frames of records; a shorter one holds its last.

  Args:
    records: the records.
    size: of the squares that are the truth.
    num_frames: the most frames of each; by default those of the longest.
    given: true frames [b, size, size, 3] -> those that the system is given.
  """
  count = num_frames or max(len(r.frames) for r in records)
  truths = tuple(reconstruction_scores.truth(record, count, size) for record in records)

  def frames():
    for i in range(count):
      yield given(np.stack([t.frames[min(i, len(t.frames) - 1)] for t in truths]))

  return RecordBatch(Frames(frames, records[0].fps), truths)

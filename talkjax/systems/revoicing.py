"""Videos whose mouths are generated anew, as crops of their faces: of records and of files.

Shared by `speech_edit` and `wav2lip`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.faces import align
from talkjax.media import outputs
from talkjax.media.picture import to_float
from talkjax.metrics.suites import Truth
from talkjax.systems import RecordBatch
from talkjax.systems.audio import Sound


@dataclasses.dataclass(frozen=True)
class Clip:
  """A record as it is re-voiced.

  Attributes:
    images: crops, uint8 [h, w, 3] each.
    masks: float32 [h, w, 1] each, see `faces.mask`.
    landmarks: [f, 68, 2] in pixels of the crops.
  """

  images: list[np.ndarray]
  masks: list[np.ndarray]
  landmarks: np.ndarray

  @classmethod
  def of_record(cls, record: Record, transforms: np.ndarray, hide: Callable, size: int, count: int) -> 'Clip':
    """The first `count` frames of a record.

    Args:
      record: the record.
      transforms: [f, 2, 3] from its pixels to those of the crops.
      hide: landmarks [68, 2] in pixels of a crop -> its mask.
      size: of the crops.
      count: the most frames.
    """
    numbers = range(min(count, len(record.frames)))
    points = [align.transform_points(record.landmarks[i], transforms[i]) for i in numbers]
    images = [align.crop(record.frame(i), transforms[i], size) for i in numbers]
    return cls(images, [hide(p) for p in points], np.stack(points))


def of_records(
  records: Sequence[Record],
  speech: Sequence[Record] | None,
  num_frames: int | None,
  *,
  size: int,
  place: Callable[[Record], np.ndarray],
  hide: Callable[[np.ndarray], np.ndarray],
  conditions: Callable[[np.ndarray, 'RecordFrames', list[Sound]], Any],
  drawn: Callable[[np.ndarray], np.ndarray] = lambda mask: mask,
) -> RecordBatch:
  """Records that are re-voiced with their own sound, or with that of other records.

  Args:
    records: the videos.
    speech: as many records whose sound is used instead; cut or silent after its end.
    num_frames: length of the videos; by default that of the longest record.
    size: of the crops.
    place: a record -> [f, 2, 3] from its pixels to those of the crops.
    hide: landmarks [68, 2] in pixels of a crop -> its mask.
    conditions: (first frames [b, h, w, 3] in [-1, 1], frames, sounds) -> the system's conditions.
    drawn: a mask -> the region that is drawn, in which scores compare.
  """
  count = num_frames or max(len(r.frames) for r in records)
  clips = [Clip.of_record(record, place(record), hide, size, count) for record in records]
  sounds = [Sound.of_record(voice, count, own.fps) for own, voice in zip(records, speech or records, strict=True)]
  first = to_float(np.stack([clip.images[0] for clip in clips]))
  truth = tuple(Truth(clip.images, clip.landmarks, [drawn(mask) for mask in clip.masks]) for clip in clips)
  return RecordBatch(conditions(first, RecordFrames(clips, count), sounds), truth)


@dataclasses.dataclass(frozen=True)
class RecordFrames:
  """The frames of a batch of clips; a shorter clip holds its last frame. It can be iterated any number of times."""

  clips: Sequence[Clip]
  count: int

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    for f in range(self.count):
      index = [min(f, len(clip.images) - 1) for clip in self.clips]
      yield {
        'clean': to_float(np.stack([clip.images[i] for clip, i in zip(self.clips, index)])),
        'mask': np.stack([clip.masks[i] for clip, i in zip(self.clips, index)]),
      }


def back_and_forth(read: Callable, length: int, count: int) -> Iterator[tuple[int, np.ndarray]]:
  """`count` pairs (index, frame) with indices 0, 1, ..., length - 1, length - 2, ..., 0, 1, ...

  Only where the video is shorter than that, its frames are kept: on disk.
  """
  if count <= length:
    yield from enumerate(read())
    return
  with outputs.scratch() as folder:
    name = lambda i: str(folder / f'{i:07}.png')
    for i, frame in enumerate(read()):
      if not cv2.imwrite(name(i), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise UserError(f'cannot write frames of the video to {folder}: check the space left on the disk')
      yield i, frame
    period = max(1, 2 * (length - 1))
    for number in range(length, count):
      i = number % period
      i = min(i, period - i)
      yield i, cv2.cvtColor(cv2.imread(name(i)), cv2.COLOR_BGR2RGB)

"""Videos whose mouths are generated anew, as crops of their faces: of records and of files.

Shared by `speech_edit` and `wav2lip`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np

from talkjax.errors import UserError
from talkjax.media import outputs
from talkjax.media.picture import to_float


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

"""Sound as every record stores it, and the times of what is said in it."""

import dataclasses

AUDIO_RATE = 16_000  # Hz, mono


@dataclasses.dataclass(frozen=True)
class Segment:
  """A word or phoneme: `text` is spoken from `start` to `end`, in seconds from the clip's first frame."""

  text: str
  start: float
  end: float

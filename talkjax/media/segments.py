"""The audio rate of records, and the timing of words and phonemes."""

import dataclasses

AUDIO_RATE = 16_000  # Hz, mono


@dataclasses.dataclass(frozen=True)
class Segment:
  """A word or phoneme: `text` is spoken from `start` to `end`, in seconds from the clip's first frame."""

  text: str
  start: float
  end: float

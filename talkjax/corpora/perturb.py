"""Perturbed records for evaluation, and reading many of them without holding them."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from talkjax.corpora.records import Record
from talkjax.media.segments import AUDIO_RATE


def one_by_one(clips: Sequence[Record]) -> Iterator[Record]:
  """The records in order. A corpus that is iterated itself reads ahead."""
  return map(clips.__getitem__, range(len(clips)))


def rotated(clip: Record, start: int) -> Record:
  """A clip that begins at frame `start`, circularly."""
  samples = round(start / clip.fps * AUDIO_RATE)
  return dataclasses.replace(
    clip,
    audio=np.roll(clip.audio, -samples),
    landmarks=np.roll(clip.landmarks, -start, 0),
    frames=clip.frames[start:] + clip.frames[:start],
  )


def with_noise(clip: Record, snr: float, generator: np.random.Generator) -> Record:
  """A clip with white noise in its sound, `snr` dB below the sound's mean power."""
  sound = clip.audio.astype(np.float64)
  noise = generator.standard_normal(len(sound)) * np.sqrt(np.mean(sound**2) * 10 ** (-snr / 10))
  return dataclasses.replace(clip, audio=np.clip(np.round(sound + noise), -32768, 32767).astype(np.int16))


class NoisyClips:
  """Records by index with white noise in their sound: that of reading all of them in order, whenever one is read."""

  def __init__(self, clips: Sequence[Record], snr: float, seed: int):
    self._clips, self._snr, self._states = clips, snr, []
    generator = np.random.default_rng(seed)
    for clip in one_by_one(clips):
      self._states.append(generator.bit_generator.state)
      generator.standard_normal(len(clip.audio))

  def __len__(self) -> int:
    return len(self._clips)

  def __getitem__(self, index: int) -> Record:
    generator = np.random.default_rng()
    generator.bit_generator.state = self._states[index]
    return with_noise(self._clips[index], self._snr, generator)

"""Lip synchronisation by SyncNet's embeddings: LSE-D, LSE-C and the offset (Chung and Zisserman 2016, Wav2Lip 2020).

The recipe is that of syncnet_python and of Wav2Lip's evaluation: 25 frames/s, 16 kHz, five frames against 20 columns
of cepstra, frame by frame and for shifts of up to 15 frames. Golden cases syncnet_lse and syncnet_v2.
"""

import dataclasses

import numpy as np

SHIFTS = 15  # frames
EPSILON = 1e-6  # that PyTorch's pairwise distance adds to each difference


@dataclasses.dataclass(frozen=True)
class Sync:
  """What SyncNet says about a clip.

  Attributes:
    distance: LSE-D, the smallest mean distance over all shifts; lower is better.
    confidence: LSE-C, the median over all shifts minus the smallest; higher is better.
    offset: frames; positive where the video is ahead of the sound.
    distances: [f, 2 SHIFTS + 1].
  """

  distance: float
  confidence: float
  offset: int
  distances: np.ndarray


def pairwise_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Length of a - b along the last axis as PyTorch computes it: [..., d] -> [...]."""
  return np.linalg.norm(np.asarray(a) - np.asarray(b) + EPSILON, axis=-1)


def score(lip: np.ndarray, speech: np.ndarray, shifts: int = SHIFTS) -> Sync:
  """Scores of a clip from embeddings of its frames and of its sound, each [f, d], raw.

  Beyond the ends of the clip speech is zero, and those distances count, as published.

  Raises:
    ValueError: there is no frame.
  """
  if not len(lip):
    raise ValueError('there are no embeddings')
  padded = np.pad(speech, ((shifts, shifts), (0, 0)))
  distances = np.stack([pairwise_distance(lip, padded[k : k + len(lip)]) for k in range(2 * shifts + 1)], 1)
  means = distances.mean(0)
  best = int(means.argmin())
  return Sync(float(means[best]), float(np.median(means) - means[best]), shifts - best, distances)

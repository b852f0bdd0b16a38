"""Lip synchronisation by SyncNet's embeddings: LSE-D, LSE-C and the offset (Chung and Zisserman 2016, Wav2Lip 2020).

The recipe is that of syncnet_python and of Wav2Lip's evaluation: 25 frames/s, 16 kHz, five frames against 20 columns
of cepstra, frame by frame and for shifts of up to 15 frames. Golden cases syncnet_lse and syncnet_v2. A lip expert of
our own judges in the same way, by the cosine of its embeddings.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import cv2
import numpy as np
import scipy.signal

from talkjax.faces.landmarks import FaceTrack
from talkjax.media import mfcc
from talkjax.metrics.footage import RATE, Footage

FPS = 25
FRAMES = 5  # of a window
SAMPLES_PER_FRAME = RATE // FPS
CROP_SIZE, CROP_MARGIN, CROP_FILL, CROP_SMOOTH = 224, 0.4, 110, 13  # pixels, of the face's box, grey, frames
SHIFTS = 15  # frames
EPSILON = 1e-6  # that PyTorch's pairwise distance adds to each difference


@dataclasses.dataclass(frozen=True)
class Sync:
  """What SyncNet says about a clip.

  Attributes:
    distance: LSE-D, the smallest mean distance over all shifts; lower is better.
    confidence: LSE-C, the median over all shifts minus the smallest; higher is better.
    offset: frames; positive where the sound is ahead of the video.
    distances: [f, 2 SHIFTS + 1].
  """

  distance: float
  confidence: float
  offset: int
  distances: np.ndarray


@dataclasses.dataclass(frozen=True)
class Agreement:
  """What a lip expert says about a clip.

  Attributes:
    in_sync: the mean cosine (P_sync, FD2Talk eq. 10) of lips and sound of the same time; higher is better.
    confidence: the largest mean cosine of all shifts minus their median; higher is better.
    offset: the shift with the largest, in frames as of `Sync`.
  """

  in_sync: float
  confidence: float
  offset: int


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


def agreement(lip: np.ndarray, speech: np.ndarray, shifts: int = SHIFTS) -> Agreement:
  """Scores of a clip from a lip expert's embeddings of its frames and of its sound, each [f, d].

  Unlike in `score`, a shift is judged by the frames that have a sound.
  """
  lip, speech = (x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), EPSILON) for x in (lip, speech))
  shifts = min(shifts, len(lip) - 1)
  cosines = lip @ speech.T
  means = np.array([np.diagonal(cosines, k).mean() for k in range(-shifts, shifts + 1)])
  best = int(means.argmax())
  return Agreement(float(means[shifts]), float(means[best] - np.median(means)), shifts - best)


def of_footage(footage: Footage, network) -> Sync | None:
  """What SyncNet says about a video; None where it has no face, no sound, or fewer than six frames.

  Clips of 100 frames or fewer are scored too, which syncnet_python drops. Faces are those of MediaPipe, whose boxes are
  a little tighter than those of the published detector, and crops are not compressed before they are embedded.

  Args:
    footage: the video, taken at 25 frames/s.
    network: SyncNet, with its functions `lip` and `speech`.
  """
  made = footage.features('syncnet', network.key, lambda: embed(footage, network))
  return score(made['lip'], made['speech']) if made else None


def by_expert(footage: Footage, expert, suffix: str = '') -> dict[str, float | None]:
  """The scores of an `Agreement`, `expert_in_sync` and so on; None where a video has no face or sound of five frames.

  Args:
    footage: the video.
    expert: a lip expert, whose function `embed` makes of footage the arrays `lip` and `speech`, or {}.
    suffix: of the names.
  """
  made = footage.features('lip_expert', expert.key, lambda: expert('embed', footage))
  said = agreement(made['lip'], made['speech']) if made else None
  names = (field.name for field in dataclasses.fields(Agreement))
  return {f'expert_{name}{suffix}': getattr(said, name, None) for name in names}


def embed(footage: Footage, network) -> Mapping[str, np.ndarray]:
  """Embeddings `lip` and `speech`, each [f, d]; {} where there are none."""
  faces, sound = footage.faces, footage.sound()
  if faces is None or sound is None:
    return {}
  samples = np.clip(np.round(sound * 32768), -32768, 32767).astype(np.int16)
  crops = np.stack(list(face_crops(footage.frames(FPS), faces, footage.fps)))
  # As published, the last window that there is is left out.
  count = min(len(crops), len(samples) // SAMPLES_PER_FRAME) - FRAMES
  if count < 1:
    return {}
  frames = np.moveaxis(np.lib.stride_tricks.sliding_window_view(crops, FRAMES, axis=0), -1, 1)
  return {
    'lip': network('lip', frames[:count]),
    'speech': network('speech', mfcc.windows(mfcc.mfcc(samples))[:count]),
  }


def face_crops(frames: Iterable[np.ndarray], faces: FaceTrack, fps: float) -> Iterable[np.ndarray]:
  """SyncNet's crops of the face in frames at FPS: uint8 [224, 224, 3] BGR each.

  Args:
    frames: uint8 [h, w, 3] RGB.
    faces: in the video at its own rate.
    fps: that rate.
  """
  low, high = faces.box[:, :2], faces.box[:, 2:]
  window = min(CROP_SMOOTH, len(faces.box) - 1 + len(faces.box) % 2)  # odd, and no longer than the clip
  smooth = lambda x: scipy.signal.medfilt(x.astype(np.float64), window)
  half, middle = smooth((high - low).max(1) / 2), [smooth(x) for x in ((low + high) / 2).T]
  for i, frame in enumerate(frames):
    k = min(len(half) - 1, round(i * fps / FPS))
    side, x, y = half[k], middle[0][k], middle[1][k]
    pad = int(side * (1 + 2 * CROP_MARGIN))
    padded = cv2.copyMakeBorder(frame, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=(CROP_FILL,) * 3)
    x, y, margin = x + pad, y + pad, side * (1 + CROP_MARGIN)
    rows = slice(max(0, int(y - side)), int(y + side * (1 + 2 * CROP_MARGIN)))
    columns = slice(max(0, int(x - margin)), int(x + margin))
    yield cv2.resize(padded[rows, columns, ::-1], (CROP_SIZE, CROP_SIZE))

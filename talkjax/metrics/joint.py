"""Whether picture and sound that were generated together belong together, and how they are distributed.

Nothing here needs a true video of the same clip: a clip is compared with itself, and a set with a set.
- Each clip: the correlation of the loudness of its sound with the opening of the mouth in its picture.
- Each set: the same with the sound of other clips; how much mouths and loudness vary; and the Fréchet distance of the
  sound, whose embedding is log-mel statistics and not the VGGish of Kilgour et al. 2019.
"""

from collections.abc import Sequence

import numpy as np

from talkjax.media import mel
from talkjax.metrics import lips, portrait
from talkjax.metrics.footage import RATE, Footage

QUIETEST = 1e-3  # RMS amplitude below which sound counts as silence: -60 dB
STILL = 1e-6  # standard deviation of a curve that does not move
SHUFFLES = 5  # other clips whose sound is tried
BANDS = 40  # mel bands of the embedding of sound
COLUMNS = 50  # of a spectrogram, per second
HOP = 25  # columns between embedded seconds


def mouth(footage: Footage, kind: str) -> np.ndarray | None:
  """Mouth openings [f] as the frames show them, nan where no face is found; None without a face in half of them.

  Args:
    footage: the video.
    kind: 'landmarks' of filmed faces; else the mouths of drawn puppets are measured in the pixels.
  """
  faces = footage.faces
  if faces is None:
    return None
  if kind == 'landmarks':
    return np.where(faces.found, lips.real_opening(faces.landmarks), np.nan)
  return portrait.drawn_opening(list(footage.frames()), faces)


def loudness(sound: np.ndarray, fps: float, count: int) -> np.ndarray:
  """The level of each of `count` frames, in dB: the RMS of [s] samples at RATE in its time, -60 dB or more."""
  edges = np.round(np.arange(count + 1) / fps * RATE).astype(int)
  sound = np.pad(np.asarray(sound, np.float64), (0, max(0, edges[-1] - len(sound))))
  energy = np.concatenate([[0.0], np.cumsum(np.square(sound))])
  square = np.diff(energy[edges]) / np.maximum(np.diff(edges), 1)
  return 20 * np.log10(np.maximum(np.sqrt(np.maximum(square, 0)), QUIETEST))


def correlation(opening: np.ndarray, level: np.ndarray) -> float:
  """Pearson's correlation over the frames with a face; 0 if mouth or sound does not change, nan without two frames."""
  count = min(len(opening), len(level))
  a, b = opening[:count], level[:count]
  seen = np.isfinite(a)
  a, b = a[seen], b[seen]
  if len(a) < 2:
    return float('nan')
  return 0.0 if min(a.std(), b.std()) < STILL else float(np.corrcoef(a, b)[0, 1])


def shuffled(curves: Sequence[np.ndarray]) -> float:
  """The mean correlation of mouths with the sound of other clips of the set; nan for fewer than two clips.

  Not 0 where all clips begin and end in silence.

  Args:
    curves: [2, f] of each clip: opening and level.
  """
  n = len(curves)
  shifts = range(1, min(SHUFFLES, n - 1) + 1)
  values = [correlation(curves[i][0], curves[(i + k) % n][1]) for k in shifts for i in range(n)]
  defined = [v for v in values if np.isfinite(v)]
  return float(np.mean(defined)) if defined else float('nan')


def deviation(curves: Sequence[np.ndarray], row: int) -> float:
  """Standard deviation of a row of the curves [2, f] within a clip: the root of the clips' mean variance."""
  variances = [np.nanvar(c[row]) for c in curves if np.isfinite(c[row]).any()]
  return float(np.sqrt(np.mean(variances))) if variances else float('nan')


def embed_sound(sound: np.ndarray) -> np.ndarray:
  """The embedding of each second, every half second: [s] samples at RATE -> [k, 2 BANDS].

  It is the mean and the standard deviation over the second of each band of the log-mel spectrogram. The last second
  that is not whole is left out, but sound shorter than a second has one embedding. Without sound there is none.
  """
  columns = mel.speech_spectrogram(sound, BANDS)  # [n, BANDS]
  starts = range(0, max(1, len(columns) - COLUMNS + 1), HOP)
  seconds = [columns[s : s + COLUMNS] for s in starts] if len(columns) else []
  return np.array([np.concatenate([x.mean(0), x.std(0)]) for x in seconds]).reshape(-1, 2 * BANDS)

"""Beat Align: whether a head slows down where the sound has its beats (Siyao et al. 2022, Bailando).

Motion beats are the minima of the smoothed speed; the score is the mean over the beats of the sound of
exp(-d^2 / (2 * 3^2)), with d the distance in frames to the nearest motion beat. Golden case beat_align.

Bailando takes the beats of music. Talking heads have speech, for which no paper says what a beat is; here it is an
onset: a peak of the rise of the log-mel spectrogram, see `onsets`.
"""

import numpy as np
import scipy.ndimage
import scipy.signal

from talkjax.media import mel

SMOOTH = 5.0  # sigma of the smoothing of the speed, frames
WIDTH = 3.0  # sigma of a beat, frames
ONSET_GAP = 0.12  # least seconds between two onsets
ONSET_HEIGHT = 1.0  # standard deviations above the mean rise


def speed(points: np.ndarray) -> np.ndarray:
  """Smoothed mean speed of points [f, n, d], in their unit per frame: [f - 1]."""
  step = np.linalg.norm(np.diff(np.asarray(points, np.float64), axis=0), axis=-1).mean(-1)
  return scipy.ndimage.gaussian_filter1d(step, SMOOTH) if len(step) else step


def motion_beats(points: np.ndarray) -> np.ndarray:
  """Frames at which the speed of points [f, n, d] has a strict local minimum; never the first or the last."""
  return scipy.signal.argrelextrema(speed(points), np.less)[0]


def align(sound: np.ndarray, motion: np.ndarray) -> float:
  """Beat Align of beats in frames: nan where the sound has no beat, 0 where the motion has none."""
  if not len(sound):
    return float('nan')
  if not len(motion):
    return 0.0
  distance = np.abs(np.asarray(sound, float)[:, None] - np.asarray(motion, float)).min(1)
  return float(np.exp(-(distance**2) / (2 * WIDTH**2)).mean())


def onsets(waveform: np.ndarray, fps: float, num_frames: int) -> np.ndarray:
  """Frames at which speech sets in: waveform [s] at 16 kHz -> [k], in order, each below `num_frames`.

  The rise of the log-mel spectrogram (50 columns per second, rectified differences, summed over bands) has a peak
  there that is a standard deviation above its mean.
  """
  rise = np.maximum(np.diff(mel.speech_spectrogram(waveform), axis=0), 0).sum(1)
  if not len(rise) or not rise.std():
    return np.zeros(0, int)
  rate = mel.RATE / mel.HOP
  peaks, _ = scipy.signal.find_peaks(
    rise, height=rise.mean() + ONSET_HEIGHT * rise.std(), distance=max(1, round(ONSET_GAP * rate))
  )
  frames = np.unique(np.floor((peaks + 1.5) / rate * fps).astype(int))
  return frames[frames < num_frames]

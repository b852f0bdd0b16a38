"""Whether sound and picture are what their caption says, judged by classifiers that generation never saw.

Each is a logistic regression of a few plain features, fitted in seconds to records of the training split: of sound the
pitch and the mean log-mel spectrogram, of pictures the shape of the face.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import scipy.optimize
import scipy.special

from talkjax.faces import align
from talkjax.media import mel
from talkjax.metrics.footage import RATE, Footage, from_frames

BANDS = 24  # mel bands of the description of a sound
PITCH = (60.0, 420.0)  # Hz, of voices
WINDOW, HOP = 1024, 320  # samples, of the pitch
VOICED = 0.5  # least normalised autocorrelation of a voiced window
AUDIBLE = 0.1  # of the loudest window's amplitude, from which on a window counts
EXAMPLES = 300  # records that the classifiers are fitted to
WEIGHT_DECAY = 1.0  # of the regression, in examples


@dataclasses.dataclass(frozen=True)
class Classifier:
  """A logistic regression of standardised features.

  Attributes:
    captions: the classes.
    mean, scale: of the features it was fitted to, [d]. A feature that is not finite counts as the mean.
    weights: [d + 1, classes], the last row the bias.
  """

  captions: tuple[str, ...]
  mean: np.ndarray
  scale: np.ndarray
  weights: np.ndarray

  def __call__(self, features: np.ndarray) -> str:
    """The caption of features [d]."""
    return self.captions[int((_standard(features, self.mean, self.scale) @ self.weights).argmax())]


def _standard(features: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
  x = np.where(np.isfinite(features), (features - mean) / scale, 0.0)
  return np.concatenate([x, np.ones((*x.shape[:-1], 1))], axis=-1)


def fit(features: Sequence[np.ndarray], captions: Sequence[str]) -> Classifier | None:
  """The classifier of features [d] each with a caption; None for fewer than two captions."""
  names = tuple(sorted(set(captions)))
  if len(names) < 2:
    return None
  table = np.stack(features).astype(np.float64)
  known = np.isfinite(table)
  count = np.maximum(known.sum(0), 1)
  mean = np.where(known, table, 0).sum(0) / count
  scale = np.sqrt(np.where(known, (table - mean) ** 2, 0).sum(0) / count)
  scale = np.where(scale > 1e-9, scale, 1.0)
  x, labels = _standard(table, mean, scale), np.array([names.index(c) for c in captions])
  shape = (x.shape[1], len(names))
  decay = np.ones((shape[0], 1))
  decay[-1] = 0  # of the bias

  def objective(flat):
    weights = flat.reshape(shape)
    log_p = scipy.special.log_softmax(x @ weights, axis=1)
    error = np.exp(log_p)
    error[np.arange(len(x)), labels] -= 1
    value = -log_p[np.arange(len(x)), labels].sum() + WEIGHT_DECAY / 2 * np.sum(decay * weights**2)
    return value, (x.T @ error + WEIGHT_DECAY * decay * weights).ravel()

  found = scipy.optimize.minimize(objective, np.zeros(np.prod(shape)), jac=True, method='L-BFGS-B')
  return Classifier(names, mean, scale, found.x.reshape(shape))


def pitch(sound: np.ndarray) -> float:
  """The median pitch of a voice in octaves above 1 Hz, by the autocorrelation of windows; nan without a voiced one.

  Args:
    sound: float32 [s] at RATE.
  """
  if len(sound) < WINDOW:
    return float('nan')
  frames = np.lib.stride_tricks.sliding_window_view(np.asarray(sound, np.float64), WINDOW)[::HOP]
  frames = frames - frames.mean(1, keepdims=True)
  window = np.hanning(WINDOW)
  correlate = lambda x: np.fft.irfft(np.abs(np.fft.rfft(x, 2 * WINDOW)) ** 2)[..., :WINDOW]
  own, of_window = correlate(frames * window), correlate(window)
  energy = own[:, 0]
  # Divided by the window's own autocorrelation, a periodic sound has peaks of 1 (Boersma 1993).
  ratio = own / np.maximum(energy[:, None], 1e-12) * (of_window[0] / np.maximum(of_window, 1e-9))
  low, high = round(RATE / PITCH[1]), round(RATE / PITCH[0])
  lags = ratio[:, low : high + 1]
  # The first peak that is nearly the highest: twice the period fits as well.
  near = lags >= 0.9 * lags.max(1, keepdims=True)
  peaks = near & (lags >= ratio[:, low - 1 : high]) & (lags >= ratio[:, low + 1 : high + 2])
  voiced = (lags.max(1) > VOICED) & (energy > AUDIBLE**2 * energy.max()) & peaks.any(1)
  if not voiced.any():
    return float('nan')
  return float(np.median(np.log2(RATE / (low + peaks[voiced].argmax(1)))))


def describe_sound(sound: np.ndarray) -> np.ndarray:
  """Pitch, and the mean log-mel spectrogram of the louder half relative to its own mean: [1 + BANDS]."""
  columns = mel.speech_spectrogram(sound, BANDS)
  if not len(columns):
    return np.full(1 + BANDS, np.nan)
  level = columns.mean(1)
  mean = columns[level >= np.median(level)].mean(0)
  return np.array([pitch(sound), *(mean - mean.mean())])


def describe_picture(footage: Footage) -> np.ndarray | None:
  """The mean shape of the face, in which a moving mouth averages out: [136]; None without a face.

  It is the landmarks after alignment, in eye distances. They are those found in the frames, also of records whose true
  landmarks are known: the two differ more than the faces of men and women do.
  """
  faces = footage.faces
  if faces is None:
    return None
  to_face = align.canonical_transforms(faces.landmarks)
  aligned = np.stack([align.transform_points(p, t) for p, t in zip(faces.landmarks, to_face)])
  return (aligned.mean(0) / (align.SIZE * align.EYE_DISTANCE)).ravel()


@dataclasses.dataclass(frozen=True)
class Judge:
  """The classifiers of sound and of pictures; None where there are fewer than two captions to tell apart."""

  sound: Classifier | None = None
  picture: Classifier | None = None


def make_judge(training: Iterable[tuple[Any, Any]]) -> Judge:
  """Fits the classifiers to the first records that have a caption, at most EXAMPLES.

  Args:
    training: records, each with the first frame of its `talkjax.metrics.suites.Truth`.
  """
  sounds, pictures = [], []
  captioned = ((record, truth) for record, truth in training if record.caption)
  for record, truth in itertools.islice(captioned, EXAMPLES):
    if len(record.audio):
      sounds.append((describe_sound(record.audio.astype(np.float32) / 32768), record.caption))
    shape = describe_picture(from_frames(record.id, truth.frames[:1], record.fps, None))
    if shape is not None:
      pictures.append((shape, record.caption))
  return Judge(*(fit(*zip(*examples)) if examples else None for examples in (sounds, pictures)))


def is_right(classifier: Classifier | None, features: np.ndarray | None, caption: str) -> float | None:
  """1 if the classifier finds this caption, else 0; None without features, or of a caption that it does not know."""
  if classifier is None or features is None or caption not in classifier.captions:
    return None
  return float(classifier(features) == caption)

"""Animation from phonemes: mouth channels with co-articulation, brows, blinks and head motion.

The mouth uses dominance functions (Cohen and Massaro, "Modeling coarticulation in synthetic visual speech", 1993):
every phoneme has a target for each channel, whose weight grows with proximity in time and with the importance of the
channel for the phoneme. A frame shows the weighted mean of the targets.
"""

import dataclasses

import numpy as np

from talkjax.media.segments import Segment

from .geometry import CHANNELS, Pose

# Expression coefficients of a record, per frame, each about 0 to 1 (gaze: -1 to 1).
COEFFICIENTS = (*CHANNELS, 'blink_left', 'blink_right', 'brow', 'gaze_x', 'gaze_y')

# Per phoneme: target of each channel (jaw, wide, round, closed, teeth, tongue), and the dominance.
_VISEMES: dict[str, tuple[tuple[float, ...], float]] = {
  'p b m': ((0.02, 0.10, 0.05, 1.0, 0.0, 0.0), 2.2),
  'f v': ((0.06, 0.20, 0.00, 0.0, 1.0, 0.0), 1.8),
  'w ʍ': ((0.14, 0.00, 1.00, 0.0, 0.0, 0.0), 1.5),
  'ɹ r ɚ ɻ': ((0.24, 0.00, 0.55, 0.0, 0.1, 0.2), 0.9),
  'l ɫ': ((0.36, 0.30, 0.00, 0.0, 0.0, 1.0), 1.0),
  'θ ð': ((0.20, 0.20, 0.00, 0.0, 0.4, 1.0), 1.4),
  't d n ɾ': ((0.20, 0.30, 0.00, 0.0, 0.3, 0.4), 0.7),
  's z': ((0.10, 0.50, 0.00, 0.0, 0.8, 0.0), 1.2),
  'ʃ ʒ': ((0.16, 0.00, 0.75, 0.0, 0.6, 0.0), 1.3),
  'k ɡ g ŋ x': ((0.28, 0.20, 0.05, 0.0, 0.0, 0.1), 0.5),
  'h ʔ': ((0.34, 0.20, 0.05, 0.0, 0.0, 0.0), 0.3),
  'j': ((0.18, 0.65, 0.00, 0.0, 0.2, 0.1), 0.8),
  'i': ((0.26, 0.95, 0.00, 0.0, 0.2, 0.0), 1.2),
  'ɪ ᵻ': ((0.36, 0.60, 0.00, 0.0, 0.1, 0.0), 0.9),
  'e ɛ': ((0.56, 0.55, 0.00, 0.0, 0.0, 0.1), 1.1),
  'æ': ((0.86, 0.60, 0.00, 0.0, 0.0, 0.1), 1.3),
  'a ɑ': ((1.00, 0.18, 0.00, 0.0, 0.0, 0.1), 1.4),
  'ʌ ɐ': ((0.68, 0.15, 0.00, 0.0, 0.0, 0.0), 1.1),
  'ə': ((0.40, 0.12, 0.05, 0.0, 0.0, 0.0), 0.6),
  'ɜ': ((0.46, 0.00, 0.42, 0.0, 0.0, 0.0), 1.0),
  'ɔ ɒ': ((0.82, 0.00, 0.52, 0.0, 0.0, 0.0), 1.3),
  'o': ((0.58, 0.00, 0.80, 0.0, 0.0, 0.0), 1.3),
  'ʊ': ((0.36, 0.00, 0.72, 0.0, 0.0, 0.0), 1.1),
  'u': ((0.24, 0.00, 1.00, 0.0, 0.0, 0.0), 1.3),
}
_TABLE = {sound: values for sounds, values in _VISEMES.items() for sound in sounds.split()}
_REST = np.array([0.0, 0.05, 0.0, 0.25, 0.0, 0.0])
_REACH = 0.048  # seconds over which the weight of a phoneme decays into its neighbours
_SILENT = 1.1  # dominance of silence


@dataclasses.dataclass(frozen=True)
class Motion:
  """The animation parameters of a clip of f frames."""

  mouth: np.ndarray  # [f, 6] in the order of CHANNELS
  brow: np.ndarray  # [f] 0 rest, 1 raised
  blink: np.ndarray  # [f] 0 open, 1 shut
  gaze: np.ndarray  # [f, 2]
  pose: Pose

  def coefficients(self) -> np.ndarray:
    """[f, k] float32 in the order of COEFFICIENTS."""
    columns = [self.mouth, self.blink[:, None], self.blink[:, None], self.brow[:, None], self.gaze]
    return np.concatenate(columns, axis=1).astype(np.float32)


def articulate(phonemes: tuple[Segment, ...], audio: np.ndarray, rate: int, frames: int, fps: float) -> np.ndarray:
  """Mouth channels [f, 6] for phonemes and their audio (float32 [s]), evaluated at the middle of each frame."""
  times = (np.arange(frames) + 0.5) / fps
  units = _units(phonemes, frames / fps)
  start, end = (np.array([u[i] for u in units]) for i in (0, 1))
  targets = np.array([u[2] for u in units])
  dominance = np.array([u[3] for u in units])
  # 1. Dominance functions: constant in the middle half of a phoneme, exponential decay outside.
  middle, quarter = (start + end) / 2, (end - start) / 4
  distance = np.maximum(np.abs(times[:, None] - middle) - quarter, 0)
  weight = np.exp(-((distance / _REACH) ** 1.5))[:, :, None] * dominance[None, :, None]
  # 2. Channels with high targets have more weight than those with target 0.
  weight = weight * (0.45 + targets)[None]
  mouth = (weight * targets[None]).sum(1) / np.maximum(weight.sum(1), 1e-6)
  # 3. Louder speech opens the mouth further.
  mouth[:, 0] *= 0.78 + 0.36 * _loudness(audio, rate, frames, fps)
  # 4. Lips must close in p, b and m, however short: the nearest frame is closed.
  for a, b, target, _ in units:
    if target[3] == 1.0:
      centre = (np.floor((a + b) / 2 * fps) + 0.5) / fps
      shut = np.exp(-(((times - centre) * fps / 0.8) ** 2))
      mouth[:, 3] = np.maximum(mouth[:, 3], shut)
  return np.clip(mouth, 0, 1.1).astype(np.float32)


def add_motion(
  rng: np.random.Generator, phonemes: tuple[Segment, ...], mouth: np.ndarray, fps: float, calm: float = 1.0
) -> Motion:
  """Adds blinks, gaze, brows and head motion to mouth channels [f, 6]; `calm` scales the head's motion."""
  frames = len(mouth)
  times = (np.arange(frames) + 0.5) / fps
  stressed = [p.start for p in phonemes if p.text.startswith('ˈ')]
  # Brows: slow drift, raised on some stressed syllables.
  brow = 0.10 + 0.08 * _drift(rng, frames, fps, 0.5)
  nod = np.zeros(frames)
  for time in stressed:
    if rng.random() < 0.35:
      brow = brow + rng.uniform(0.3, 0.8) * np.exp(-(((times - time - 0.06) / 0.16) ** 2))
    if rng.random() < 0.5:
      nod = nod - rng.uniform(0.8, 2.6) * np.exp(-(((times - time - 0.08) / 0.15) ** 2))
  # Blinks: every 1.5 to 4 seconds, for a fifth of a second.
  blink = np.zeros(frames)
  at = rng.uniform(0.2, 2.0)
  while at < frames / fps:
    since = times - at
    blink = np.maximum(blink, np.where(since < 0, np.exp(-((since / 0.045) ** 2)), np.exp(-((since / 0.075) ** 2))))
    at += rng.uniform(1.5, 4.0)
  # Gaze: small saccades; the eyes stay near the viewer as the head turns.
  jumps = np.cumsum(rng.random(frames) < 1.2 / fps)
  glance = rng.normal(0, (0.16, 0.09), size=(jumps[-1] + 1, 2))[jumps]
  angles = np.stack(
    [
      np.clip(rng.normal(0, 6), -11, 11) + 4.2 * calm * _drift(rng, frames, fps, 0.45),
      np.clip(rng.normal(0, 3), -6, 6) + 2.6 * calm * _drift(rng, frames, fps, 0.6) + calm * nod,
      np.clip(rng.normal(0, 2.5), -5, 5) + 2.4 * calm * _drift(rng, frames, fps, 0.4),
    ],
    axis=1,
  )
  angles = np.clip(angles, (-19, -11, -10), (19, 11, 10))
  gaze = np.clip(glance - angles[:, :2] * (0.022, -0.018), -0.8, 0.8)
  drift = np.stack([_drift(rng, frames, fps, 0.35), _drift(rng, frames, fps, 0.35)], axis=1)
  centre = np.array([64, 69.0]) + rng.uniform(-3, 3, 2) * (1, 0.8) + calm * drift * (1.6, 0.9)
  scale = rng.uniform(0.92, 1.0) * (1 + 0.010 * calm * _drift(rng, frames, fps, 0.3))
  return Motion(mouth, np.clip(brow, 0, 1), np.clip(blink, 0, 1), gaze, Pose(angles, centre, scale))


def _units(phonemes: tuple[Segment, ...], duration: float) -> list[tuple[float, float, np.ndarray, float]]:
  """Phonemes as single sounds (a diphthong is two) and silence as rest: (start, end, target, dominance)."""
  units, now = [], -0.3
  for segment in (*phonemes, Segment('', duration + 0.3, duration + 0.3)):
    if segment.start - now > 0.05:  # long silences get a unit at each end and one every 0.2 s
      count = max(1, round((segment.start - now) / 0.2))
      edges = np.linspace(now, segment.start, count + 1)
      units += [(a, b, _REST, _SILENT) for a, b in zip(edges[:-1], edges[1:])]
    sounds = [c for c in segment.text if c in _TABLE] or (['ə'] if segment.text else [])
    if segment.text[:2] in ('tʃ', 'dʒ'):
      sounds = sounds[1:]  # one sound, with the mouth shape of its second half
    edges = np.linspace(segment.start, segment.end, len(sounds) + 1)
    for sound, a, b in zip(sounds, edges[:-1], edges[1:]):
      target, weight = _TABLE[sound]
      target = np.array(target)
      if 'ˈ' in segment.text and target[0] > 0.3:
        target[0] *= 1.08
      units.append((a, b, target, weight))
    now = segment.end
  return units


def _loudness(audio: np.ndarray, rate: int, frames: int, fps: float) -> np.ndarray:
  """Loudness of each frame [f], 0 to about 1.2: RMS over a window of two frames relative to the clip's loud frames."""
  step = rate / fps
  power = np.concatenate([[0], np.cumsum(audio.astype(np.float64) ** 2)])
  at = lambda i: power[np.clip(np.round(i * step).astype(int), 0, len(audio))]  # noqa: E731
  index = np.arange(frames)
  rms = np.sqrt(np.maximum(at(index + 1.5) - at(index - 0.5), 0) / (2 * step))
  return np.clip(rms / max(np.percentile(rms, 90), 1e-4), 0, 1.2)


def _drift(rng: np.random.Generator, frames: int, fps: float, hertz: float) -> np.ndarray:
  """Smooth noise [f] of variance about 1 and frequency about `hertz`: a sum of sines."""
  rates, phases = rng.uniform(0.35, 1.6, 6) * hertz, rng.uniform(0, 2 * np.pi, 6)
  times = np.arange(frames)[:, None] / fps
  return np.sin(2 * np.pi * rates * times + phases).sum(1) / np.sqrt(3)

"""Fits the linear functions of talkjax/metrics/puppet_mouth.py to drawn people and writes their numbers.

Run after the drawing of puppets has changed, from the repository's root (some two minutes):
  python tests/metrics/fit_puppet_mouth.py
The people are of other corpora (`SEEDS`) than the one that is trained and tested on, which is made with seed 0.
"""

import pathlib
import sys
import textwrap

import cv2
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from data.puppets import articulation, drawing, geometry, identities  # noqa: E402
from talkjax.faces import measures  # noqa: E402
from talkjax.media.segments import Segment  # noqa: E402
from talkjax.metrics import puppet_mouth  # noqa: E402

SEEDS = range(1, 11)
FRAMES = 10  # of each person
COPIES = 4  # of each frame, spoilt in different ways
SOUNDS = (*'pmfwɹlθtnsʃkhjiɪeæɑʌəɜɔou', 'ˈɑ', 'ˈæ', 'ˈe', 'ˈi', 'eɪ', 'aɪ', 'oʊ', 'aʊ')
FILE = ROOT / 'talkjax' / 'metrics' / 'puppet_mouth_weights.py'


def babble(rng: np.random.Generator, frames: int, fps: float = 25.0) -> articulation.Motion:
  """A clip's motion for random sounds of random lengths, with pauses."""
  rate, sounds, now = 16_000, [], 0.2
  while now < frames / fps:
    end = now + rng.uniform(0.05, 0.2)
    sounds.append(Segment(str(rng.choice(SOUNDS)), now, end))
    now = end + (rng.uniform(0.1, 0.4) if rng.random() < 0.1 else 0)
  loud = np.repeat(rng.uniform(0.1, 1, 1 + frames), round(rate / fps))
  sound = (0.3 * loud * rng.normal(size=len(loud)))[: round(frames * rate / fps)].astype(np.float32)
  mouth = articulation.articulate(tuple(sounds), sound, rate, frames, fps)
  return articulation.add_motion(rng, tuple(sounds), mouth, fps)


def pick(motion: articulation.Motion, index: np.ndarray) -> articulation.Motion:
  """Some frames of a motion."""
  pose = geometry.Pose(motion.pose.angles[index], motion.pose.centre[index], motion.pose.scale[index])
  return articulation.Motion(motion.mouth[index], motion.brow[index], motion.blink[index], motion.gaze[index], pose)


def clip(person: identities.Identity, motion: articulation.Motion) -> tuple[list[np.ndarray], np.ndarray]:
  """Frames and landmarks [f, 68, 2] of one person."""
  puppet = drawing.make_puppet(person)
  points = geometry.landmarks(puppet.anchors, motion.pose, motion.mouth, motion.brow, motion.blink)
  return drawing.draw(puppet, motion), points


def spoil(frame: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
  """A uint8 RGB frame as it might come out of a camera, a file or a model."""
  size = frame.shape[1::-1]
  match kind:
    case 'small':
      return cv2.resize(cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA), size, interpolation=cv2.INTER_CUBIC)
    case 'jpeg':
      _, data = cv2.imencode('.jpg', frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(50, 95))])
      return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
    case 'blur':
      return cv2.GaussianBlur(frame, (0, 0), rng.uniform(0.5, 1.6))
    case 'tint':
      return np.clip(frame * rng.uniform(0.93, 1.07, 3) + rng.uniform(-8, 8), 0, 255).astype(np.uint8)
    case 'noise':
      return np.clip(frame + rng.normal(0, rng.uniform(2, 9), frame.shape), 0, 255).astype(np.uint8)
  return frame


SPOILT = [
  (),
  ('small',),
  ('jpeg',),
  ('small', 'jpeg'),
  ('jpeg',),
  ('tint', 'jpeg'),
  ('blur',),
  ('tint',),
  ('noise',),
  ('blur', 'tint', 'noise'),
]


def ridge(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
  """Weights [k + 1] of the regularised linear function from [n, k] to [n]."""
  mean, spread = x.mean(0), x.std(0) + 0.05  # what was hardly ever seen must not count for much
  z = (x - mean) / spread
  w = np.linalg.solve(z.T @ z + strength * np.eye(x.shape[1]), z.T @ (y - y.mean())) / spread
  return np.append(w, y.mean() - mean @ w)


def describe(columns: np.ndarray, shift: np.ndarray) -> np.ndarray:
  """As puppet_mouth's, in pieces that need little memory."""
  pieces = [slice(i, i + 500) for i in range(0, len(columns), 500)]
  return np.concatenate([puppet_mouth.describe(columns[p].astype(np.float32), shift[p]) for p in pieces])


def main():
  rng = np.random.default_rng(0)
  frames, points = [], []
  for seed in SEEDS:
    for number in range(identities.COUNT):
      motion = pick(babble(rng, 100), rng.choice(100, FRAMES, replace=False))
      drawn, marks = clip(identities.identity(number, seed), motion)
      frames += drawn
      points += list(marks)
    print(f'{len(frames)} frames drawn', file=sys.stderr)
  points = np.array(points)
  # 1. Where a mouth is expected.
  line = 0.76 * points[:, 62] + 0.24 * points[:, 66]  # stays as the mouth opens: geometry.lips
  lines, seen = [], []
  for marks, at in zip(points, line):
    origin, across, down, unit = puppet_mouth.head_frame(marks, np.zeros((3, 2)))
    nose, mouth = (marks[30] - origin) / unit, (at - origin) / unit
    lines.append([nose @ across, nose @ down, 1])
    seen.append([mouth @ across, mouth @ down])
  weights = {'mouth': np.linalg.lstsq(np.array(lines), np.array(seen), rcond=None)[0].ravel()}
  puppet_mouth._weights = lambda: {'mouth': weights['mouth'].reshape(3, 2)}
  # 2. Where it is.
  which = np.repeat(np.arange(len(frames)), COPIES)
  columns = []
  for i in which:
    frame = frames[i]
    for kind in SPOILT[int(rng.integers(len(SPOILT)))]:
      frame = spoil(frame, kind, rng)
    columns.append(puppet_mouth.column(frame, points[i]).astype(np.float16))
  columns = np.array(columns)
  below = []
  for i in which:
    expected, _, down, unit = puppet_mouth.head_frame(points[i], puppet_mouth._weights()['mouth'])
    below.append((line[i] - expected) @ down / unit)
  described = describe(columns, np.zeros(len(columns)))
  weights['line'] = ridge(described, np.array(below), 30.0)
  # 3. How open it is.
  shift = np.clip(puppet_mouth.linear(weights['line'], described), -4, 4)
  opening = measures.mouth_opening(points)[which].astype(np.float64)
  weights['opening'] = ridge(describe(columns, shift), opening, 10.0)
  lines = ['"""Weights of puppet_mouth.py, written by tests/metrics/fit_puppet_mouth.py."""', '', 'WEIGHTS = {']
  for name, values in weights.items():
    text = textwrap.fill(' '.join(f'{v:.4g}' for v in values), 116, initial_indent='    ', subsequent_indent='    ')
    lines += [f"  '{name}': '''", text, "  ''',"]
  FILE.write_text('\n'.join([*lines, '}', '']))


if __name__ == '__main__':
  main()

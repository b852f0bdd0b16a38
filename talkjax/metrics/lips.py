"""The lip score: does the mouth of a generated video open when the mouth of the true one does?

It is the Pearson correlation over a clip's frames between two mouth openings, 1 for lips that follow exactly and about
0 for lips that follow other speech. Openings are fractions of the face's height, so crops of different sizes compare.
What the correlation cannot answer is defined:
- frames where either opening is nan (no face there) are left out; under two frames left, the score is nan;
- a true mouth that never moves says nothing about the generated one: nan, left out of means and counted;
- a generated mouth that never moves follows nothing: 0.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from talkjax.errors import UserError
from talkjax.faces import landmarks as face_landmarks
from talkjax.metrics.puppet_mouth import puppet_opening, puppet_openings

__all__ = ['lip_score', 'other_speech', 'puppet_opening', 'puppet_openings', 'real_opening', 'summary']

STILL = 1e-6  # of the face's height: a mouth whose opening varies less stands still


def lip_score(generated: np.ndarray, true: np.ndarray) -> float:
  """Pearson correlation of two mouth openings [f]; see the module's docstring for what is nan and what is 0.

  Raises:
    UserError: the openings are not two rows of equally many frames.
  """
  generated, true = _pair(generated, true)
  seen = np.isfinite(generated) & np.isfinite(true)
  generated, true = generated[seen], true[seen]
  if len(true) < 2 or true.std() < STILL:
    return float('nan')
  if generated.std() < STILL:
    return 0.0
  generated, true = generated - generated.mean(), true - true.mean()
  return float((generated @ true) / np.sqrt((generated @ generated) * (true @ true)))


def summary(generated: Sequence[np.ndarray], true: Sequence[np.ndarray]) -> dict[str, float | int]:
  """Lip scores of a set of clips.

  Args:
    generated, true: per clip the mouth opening [f].

  Returns:
    `lip_score`: mean over the clips whose score is defined (nan for none); `lip_score_pooled`: one correlation over the
    frames of all clips together, which also asks for the right mean and range per clip; `clips`: how many were scored;
    `undefined`: how many were nan.

  Raises:
    UserError: numbers of clips, or of a clip's frames, differ.
  """
  if len(generated) != len(true):
    raise UserError(f'{len(generated)} generated clips can not be scored by {len(true)} true ones: give one for each')
  scores = np.array([lip_score(g, t) for g, t in zip(generated, true)])
  defined = np.isfinite(scores)
  pooled = lip_score(np.concatenate(list(generated)), np.concatenate(list(true))) if len(scores) else float('nan')
  return {
    'lip_score': float(scores[defined].mean()) if defined.any() else float('nan'),
    'lip_score_pooled': pooled,
    'clips': int(defined.sum()),
    'undefined': int((~defined).sum()),
  }


def other_speech(clips: Sequence[Hashable], seed: int = 0) -> np.ndarray:
  """For each clip the index of another clip whose speech it gets instead: a derangement, fixed by the seed.

  Args:
    clips: what is said in each clip (a transcript, or an id where all differ); nobody gets what is said in their own.
    seed: of the pairing.

  Returns:
    Permutation int [len(clips)] with `clips[p[i]] != clips[i]`.

  Raises:
    UserError: impossible, because there are under two clips or one text is that of more than half of them.
  """
  rng = np.random.default_rng(seed)
  texts, of = np.unique([repr(c) for c in clips], return_inverse=True)
  most = int(np.bincount(of).max()) if len(of) else 0
  if not len(of) or 2 * most > len(of):
    raise UserError(
      f'other speech needs at least two clips and no text in more than half of them, '
      f'but {most} of {len(of)} clips say the same: score more clips'
    )
  # Clips of one text stand together in a circle; a turn by the largest group takes everybody out of their own.
  shuffled = rng.permutation(len(of))
  circle = shuffled[np.argsort(rng.permutation(len(texts))[of[shuffled]], kind='stable')]
  other = np.empty(len(of), int)
  other[circle] = np.roll(circle, -most)
  return other


def real_opening(landmarks: np.ndarray) -> np.ndarray:
  """Mouth opening of a filmed face, [f]: distance of the inner lips over the face's height.

  Args:
    landmarks: [f, 68, 2] in pixels; nan where no face was found.
  """
  return np.asarray(face_landmarks.mouth_opening(np.asarray(landmarks)), np.float64)


def _pair(generated, true):
  generated, true = (np.asarray(x, np.float64) for x in (generated, true))
  if generated.ndim != 1 or generated.shape != true.shape:
    raise UserError(
      f'mouth openings of shapes {list(generated.shape)} (generated) and {list(true.shape)} (true) do not compare: '
      f'expected one number for each of the same frames'
    )
  return generated, true

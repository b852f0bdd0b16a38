"""The lip score: whether the mouth of a generated video opens when the mouth of the true video does.

It is the Pearson correlation of the two mouth openings over the frames of a clip: 1 for perfectly synchronised lips and
about 0 for lips that follow other speech. Openings are fractions of the face height, so crops of different sizes are
comparable. Special cases:
- Frames in which either opening is nan (no face) are skipped; with fewer than two frames the score is nan.
- If the true mouth never moves, the score is nan. It is excluded from means and counted as undefined.
- If the generated mouth never moves, the score is 0.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from talkjax.errors import UserError
from talkjax.faces import measures
from talkjax.metrics.puppet_mouth import puppet_opening, puppet_openings

__all__ = ['lip_score', 'other_speech', 'puppet_opening', 'puppet_openings', 'real_opening', 'summary']

STILL = 1e-6  # fraction of the face height; a mouth whose opening varies less does not move


def lip_score(generated: np.ndarray, true: np.ndarray) -> float:
  """Pearson correlation of two mouth openings [f]; see the module's docstring for nan and 0.

  Raises:
    UserError: the openings are not two vectors of the same length.
  """
  generated, true = _pair(generated, true)
  valid = np.isfinite(generated) & np.isfinite(true)
  generated, true = generated[valid], true[valid]
  if len(true) < 2 or true.std() < STILL:
    return float('nan')
  if generated.std() < STILL:
    return 0.0
  generated, true = generated - generated.mean(), true - true.mean()
  return float((generated @ true) / np.sqrt((generated @ generated) * (true @ true)))


def summary(generated: Sequence[np.ndarray], true: Sequence[np.ndarray]) -> dict[str, float | int]:
  """Lip scores of a set of clips.

  Args:
    generated, true: the mouth opening [f] of each clip.

  Returns:
    `lip_score`: mean over the clips with a defined score (nan if there are none); `lip_score_pooled`: one correlation
    over the frames of all clips, which also measures the mean and range per clip; `clips`: number of scored clips;
    `undefined`: number of clips whose score is nan.

  Raises:
    UserError: the numbers of clips, or of the frames of a clip, differ.
  """
  if len(generated) != len(true):
    raise UserError(
      f'{len(generated)} generated clips cannot be scored against {len(true)} true ones: give one for each'
    )
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
  """Assigns each clip the speech of another clip: a derangement, determined by the seed.

  Args:
    clips: the text of each clip (a transcript, or an id if all differ); no clip gets speech with its own text.
    seed: of the assignment.

  Returns:
    Permutation int [len(clips)] with `clips[p[i]] != clips[i]`.

  Raises:
    UserError: impossible, because there are fewer than two clips or more than half of them have the same text.
  """
  rng = np.random.default_rng(seed)
  texts, text_index = np.unique([repr(c) for c in clips], return_inverse=True)
  largest = int(np.bincount(text_index).max()) if len(text_index) else 0
  if not len(text_index) or 2 * largest > len(text_index):
    raise UserError(
      f'other speech needs at least two clips and no text in more than half of them, '
      f'but {largest} of {len(text_index)} clips have the same text: score more clips'
    )
  # Clips sorted by text and rotated by the size of the largest group: no clip stays within its group.
  shuffled = rng.permutation(len(text_index))
  order = shuffled[np.argsort(rng.permutation(len(texts))[text_index[shuffled]], kind='stable')]
  other = np.empty(len(text_index), int)
  other[order] = np.roll(order, -largest)
  return other


def real_opening(landmarks: np.ndarray) -> np.ndarray:
  """Mouth opening of a real face, [f]: distance of the inner lips divided by the face height.

  Args:
    landmarks: [f, 68, 2] in pixels; nan where no face was found.
  """
  return np.asarray(measures.mouth_opening(np.asarray(landmarks)), np.float64)


def _pair(generated, true):
  generated, true = (np.asarray(x, np.float64) for x in (generated, true))
  if generated.ndim != 1 or generated.shape != true.shape:
    raise UserError(
      f'mouth openings of shapes {list(generated.shape)} (generated) and {list(true.shape)} (true) cannot be compared: '
      f'expected one number for each of the same frames'
    )
  return generated, true

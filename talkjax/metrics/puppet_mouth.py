"""Mouth opening of a drawn puppet (data/puppets), measured from the pixels of one frame.

The landmarks of a frame are those of the true video, whose mouth may differ from that of the frame. Only landmarks that
speech does not move are used: the eye corners and the bridge of the nose. They give the position of a column of pixels
over the mouth, from which everything else is computed:
1. The column, 8 units wide (an eye distance is 26.6), is smoothed. The features of each row are the fractions of it
   that are redder than certain thresholds (lips, tongue, the crimson inside) and whiter than others (teeth), and its
   brightness relative to the skin above the lip.
2. A linear function of the features predicts the position of the line between the lips, which differs between people.
   The features are then computed again relative to that position.
3. A second linear function predicts the opening.

Both functions were fitted to some thousand frames of drawn people who are not in the corpus, both sharp and degraded
(`tests/metrics/fit_puppet_mouth.py`). Their weights are in `puppet_mouth_weights.py`.
"""

import functools

import cv2
import numpy as np

from talkjax.faces import puppets
from talkjax.metrics import puppet_mouth_weights

EYE_DISTANCE = 26.6  # units
ROWS = np.arange(-12, 20.25, 0.5)  # sampled rows, units below the expected mouth
COLUMNS = np.arange(-8, 8.5, 1.0)  # sampled columns, units to the right of it
MIDDLE = slice(4, 13)  # columns used for features
DESCRIBED = np.arange(-8, 17)  # rows used for features, units
SMOOTH = 2.0  # sigma of the smoothing, samples
LARGEST_SHIFT = 4.0  # units
RED_SHADES = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55)
WHITE_SHADES = (0.5, 0.6, 0.7, 0.8)
SHADE_WIDTH = 0.1


def puppet_opening(frame: np.ndarray, landmarks: np.ndarray) -> float:
  """Mouth opening of a drawn puppet in one frame: inner-lip distance divided by face height, as `faces.mouth_opening`.

  Args:
    frame: uint8 [h, w, 3] RGB.
    landmarks: [68, 2] of the true video's face, pixels of this frame; only eye corners and nose bridge are used.
  """
  return float(puppet_openings([frame], np.asarray(landmarks)[None])[0])


def puppet_openings(frames, landmarks: np.ndarray) -> np.ndarray:
  """`puppet_opening` of f frames with landmarks [f, 68, 2]: float64 [f]."""
  columns = np.stack([column(frame, points) for frame, points in zip(frames, landmarks, strict=True)])
  weights = _weights()
  shift = np.zeros(len(columns))
  shift = np.clip(linear(weights['line'], describe(columns, shift)), -LARGEST_SHIFT, LARGEST_SHIFT)
  return np.maximum(linear(weights['opening'], describe(columns, shift)), 0)


def head_frame(landmarks: np.ndarray, mouth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
  """Expected position of the resting mouth, from points that speech does not move.

  Args:
    landmarks: [68, 2] pixels.
    mouth: [3, 2], linear map from (x, y of the nose tip, 1) to the mouth, both relative to the point between the eyes,
      in units.

  Returns:
    The position [2] in pixels, the face's right and down directions [2], and the size of a unit in pixels.
  """
  points = np.asarray(landmarks, np.float64)
  left, right = (points[36] + points[39]) / 2, (points[42] + points[45]) / 2
  across = right - left
  distance = np.linalg.norm(across)
  across = across / distance
  down = np.array([-across[1], across[0]])
  # Yaw shortens the distance between the eyes, but not the nose.
  unit = max(distance, 1.55 * np.linalg.norm(points[30] - points[27])) / EYE_DISTANCE
  nose = (points[30] - (left + right) / 2) / unit
  x, y = np.array([nose @ across, nose @ down, 1.0]) @ mouth
  return (left + right) / 2 + unit * (x * across + y * down), across, down, unit


def column(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
  """Smoothed, aligned pixels around a mouth, float32 [ROWS, COLUMNS, 3], sampled in units."""
  middle, across, down, unit = head_frame(landmarks, _weights()['mouth'])
  # The origin of landmarks is the image corner, that of OpenCV the centre of the first pixel.
  grid = middle - 0.5 + unit * (COLUMNS[None, :, None] * across + ROWS[:, None, None] * down)
  if unit > 1.5:  # samples are more than a pixel apart: low-pass first
    low = np.clip(np.floor(grid.min((0, 1))).astype(int) - 3, 0, np.array(frame.shape[1::-1]) - 1)
    high = np.ceil(grid.max((0, 1))).astype(int) + 4
    frame = cv2.GaussianBlur(
      frame[low[1] : max(high[1], low[1] + 1), low[0] : max(high[0], low[0] + 1)], (0, 0), 0.4 * unit
    )
    grid = grid - low
  pixels = cv2.remap(
    np.ascontiguousarray(frame), grid.astype(np.float32), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
  )
  return cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), SMOOTH)


def describe(columns: np.ndarray, shift: np.ndarray) -> np.ndarray:
  """Features [f, k] of the rows of columns [f, ROWS, COLUMNS, 3], read `shift` [f] units further down."""
  position = np.clip((shift[:, None] + DESCRIBED - ROWS[0]) / (ROWS[1] - ROWS[0]), 0, len(ROWS) - 1.001)
  above, fraction = position.astype(int), (position % 1)[..., None, None].astype(np.float32)
  frame = np.arange(len(columns))[:, None]
  middle = columns[:, :, MIDDLE]
  rows = middle[frame, above] * (1 - fraction) + middle[frame, above + 1] * fraction
  skin = np.median(rows[:, :5].reshape(len(rows), -1, 3), axis=1)[:, None, None]
  red, white = puppets.chroma(rows), (rows[..., 1] + rows[..., 2]) / (2 * rows[..., 0] + 30)
  bright = np.log((rows + 20) / (skin + 20))
  features = [np.clip((red - shade) / SHADE_WIDTH, 0, 1) for shade in RED_SHADES]
  features += [np.clip((white - shade) / SHADE_WIDTH, 0, 1) for shade in WHITE_SHADES]
  features += [bright[..., 0], bright[..., 1]]
  return np.concatenate([x.mean(2) for x in features], axis=1)


def linear(weights: np.ndarray, features: np.ndarray) -> np.ndarray:
  """Linear function of features [f, k] with weights [k + 1], the last the bias -> [f]."""
  return features.astype(np.float64) @ weights[:-1] + weights[-1]


@functools.cache
def _weights() -> dict[str, np.ndarray]:
  numbers = {k: np.array(v.split(), np.float64) for k, v in puppet_mouth_weights.WEIGHTS.items()}
  return numbers | {'mouth': numbers['mouth'].reshape(3, 2)}

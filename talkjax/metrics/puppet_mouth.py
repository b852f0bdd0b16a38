"""How far the mouth of a drawn puppet (data/puppets) is open, read from the pixels of one frame.

The landmarks given with a frame are those of the true video, whose mouth the frame's own need not resemble. So only
what speech does not move is taken from them: the corners of the eyes and the bridge of the nose, which tell where on
the frame a column over the mouth lies. Everything else is read from that column's pixels:
1. The column, 8 units wide (an eye distance is 26.6), is smoothed and described row by row: which share of a row is
   redder than each of some shades (lips, tongue, the crimson inside), which is whiter than some (teeth), and how bright
   the row is beside the skin above the lip.
2. A linear function of this tells where the line between the lips lies in the column, as people differ in this; the
   column is then described again from there.
3. Another one tells the opening.

Both functions were fitted to some thousand frames of drawn people who are not in the corpus, sharp ones and spoilt ones
(`tests/metrics/fit_puppet_mouth.py`); their numbers are in `puppet_mouth_weights.py`.
"""

import functools

import cv2
import numpy as np

from talkjax.faces import puppets
from talkjax.metrics import puppet_mouth_weights

EYE_DISTANCE = 26.6  # units
ROWS = np.arange(-12, 20.25, 0.5)  # units below the expected mouth, sampled
COLUMNS = np.arange(-8, 8.5, 1.0)  # units to the right of it, sampled
MIDDLE = slice(4, 13)  # columns that are described
DESCRIBED = np.arange(-8, 17)  # rows that are described
SMOOTH = 2.0  # samples either way
LARGEST_SHIFT = 4.0  # units
RED_SHADES = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55)
WHITE_SHADES = (0.5, 0.6, 0.7, 0.8)
SHADE_WIDTH = 0.1


def puppet_opening(frame: np.ndarray, landmarks: np.ndarray) -> float:
  """Mouth opening of a drawn puppet in one frame: inner-lip distance over face height, as `faces.mouth_opening`.

  Args:
    frame: uint8 [h, w, 3] RGB.
    landmarks: [68, 2] of the true video's face, pixels of this frame; only its eyes' corners and nose bridge are used.
  """
  return float(puppet_openings([frame], np.asarray(landmarks)[None])[0])


def puppet_openings(frames, landmarks: np.ndarray) -> np.ndarray:
  """As `puppet_opening`, for f frames and landmarks [f, 68, 2]: float64 [f]."""
  columns = np.stack([column(frame, points) for frame, points in zip(frames, landmarks, strict=True)])
  weights = _weights()
  shift = np.zeros(len(columns))
  shift = np.clip(linear(weights['line'], describe(columns, shift)), -LARGEST_SHIFT, LARGEST_SHIFT)
  return np.maximum(linear(weights['opening'], describe(columns, shift)), 0)


def head_frame(landmarks: np.ndarray, mouth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
  """Where the mouth of a resting face is expected, from points that speech does not move.

  Args:
    landmarks: [68, 2] pixels.
    mouth: [3, 2], from (nose bridge to tip across, along, 1) to the mouth from between the eyes, in units.

  Returns:
    That point [2] in pixels, the face's right and down [2], and a unit in pixels.
  """
  points = np.asarray(landmarks, np.float64)
  left, right = (points[36] + points[39]) / 2, (points[42] + points[45]) / 2
  across = right - left
  distance = np.linalg.norm(across)
  across = across / distance
  down = np.array([-across[1], across[0]])
  # Turning aside shortens the eyes' distance, but not the nose.
  unit = max(distance, 1.55 * np.linalg.norm(points[30] - points[27])) / EYE_DISTANCE
  nose = (points[30] - (left + right) / 2) / unit
  x, y = np.array([nose @ across, nose @ down, 1.0]) @ mouth
  return (left + right) / 2 + unit * (x * across + y * down), across, down, unit


def column(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
  """The smoothed pixels over a mouth, float32 [ROWS, COLUMNS, 3], upright, in units."""
  middle, across, down, unit = head_frame(landmarks, _weights()['mouth'])
  # Landmarks count from the picture's corner, OpenCV from the middle of its first pixel.
  grid = middle - 0.5 + unit * (COLUMNS[None, :, None] * across + ROWS[:, None, None] * down)
  if unit > 1.5:  # samples lie pixels apart: average what is between them
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
  """Columns [f, ROWS, COLUMNS, 3], read `shift` [f] units further down -> what each row shows, [f, k]."""
  at = np.clip((shift[:, None] + DESCRIBED - ROWS[0]) / (ROWS[1] - ROWS[0]), 0, len(ROWS) - 1.001)
  above, part = at.astype(int), (at % 1)[..., None, None].astype(np.float32)
  frame = np.arange(len(columns))[:, None]
  middle = columns[:, :, MIDDLE]
  rows = middle[frame, above] * (1 - part) + middle[frame, above + 1] * part
  skin = np.median(rows[:, :5].reshape(len(rows), -1, 3), axis=1)[:, None, None]
  red, white = puppets.chroma(rows), (rows[..., 1] + rows[..., 2]) / (2 * rows[..., 0] + 30)
  bright = np.log((rows + 20) / (skin + 20))
  shown = [np.clip((red - shade) / SHADE_WIDTH, 0, 1) for shade in RED_SHADES]
  shown += [np.clip((white - shade) / SHADE_WIDTH, 0, 1) for shade in WHITE_SHADES]
  shown += [bright[..., 0], bright[..., 1]]
  return np.concatenate([x.mean(2) for x in shown], axis=1)


def linear(weights: np.ndarray, described: np.ndarray) -> np.ndarray:
  """[k + 1] weights, the last a constant, on [f, k] -> [f]."""
  return described.astype(np.float64) @ weights[:-1] + weights[-1]


@functools.cache
def _weights() -> dict[str, np.ndarray]:
  numbers = {k: np.array(v.split(), np.float64) for k, v in puppet_mouth_weights.WEIGHTS.items()}
  return numbers | {'mouth': numbers['mouth'].reshape(3, 2)}

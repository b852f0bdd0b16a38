"""CPBD, the cumulative probability of blur detection (Narvekar and Karam 2011), with the parameters of python-cpbd.

Edges are detected twice: Canny edges select the 64x64 blocks that have edges, and the widths of thinned vertical Sobel
edges are measured. The wider an edge relative to the just noticeable blur, the more probably its blur is detected. The
score is the fraction of edges whose blur is not detected: 1 is sharp, 0 is blurred (or has no edges).
"""

import logging

import cv2
import numpy as np
from scipy import ndimage
from skimage.feature import canny

BLOCK = 64  # pixels
EDGE_SHARE = 0.002  # an edge block has more Canny edge pixels than this fraction of its pixels
BETA = 3.6
LOW_CONTRAST = 50  # grey levels; blocks of at most this contrast use the wider just noticeable blur
JNB_LOW, JNB_HIGH = 5, 3  # pixels, width of a just noticeable blur at low and at high contrast
MAX_WALK = 101  # most pixels searched on either side of an edge
UNDETECTED = 64  # bins of 1 % detection probability that count as undetected


def cpbd(picture: np.ndarray) -> float:
  """Sharpness in [0, 1], higher is sharper; 0 without edges; nan (with a warning) below 64x64 pixels.

  Args:
    picture: [h, w] grey or [h, w, 3] RGB, 0..255; RGB is converted to ITU-R 601 luma, rounded to 8 bits.
  """
  grey = to_grey(picture)
  if min(grey.shape) < BLOCK:
    height, width = grey.shape
    logging.getLogger(__name__).warning(
      'CPBD is nan: it needs a picture of at least %dx%d pixels, but got %dx%d', BLOCK, BLOCK, width, height
    )
    return float('nan')
  return _score(grey, canny_edges(grey), edge_widths(grey, sobel_edges(grey)))


def to_grey(picture: np.ndarray) -> np.ndarray:
  """[h, w] or uint8 [h, w, 3] RGB -> float64 [h, w] in 0..255."""
  picture = np.asarray(picture)
  if picture.ndim == 3:
    picture = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
  return picture.astype(np.float64)


def canny_edges(grey: np.ndarray) -> np.ndarray:
  """Canny edges (scikit-image's defaults, thresholds on the unscaled 0..255 range), bool [h, w]."""
  return canny(grey)


def sobel_edges(grey: np.ndarray) -> np.ndarray:
  """Thinned edges of the horizontal Sobel gradient of a float64 [h, w] picture, bool [h, w]."""
  kernel = np.outer([1, 2, 1], [1, 0, -1]) / 8
  strength = ndimage.convolve(grey, kernel) ** 2
  # As published, the squared strength is compared with a threshold for the unsquared strength.
  strength[strength <= 2 * np.sqrt(strength.mean())] = 0
  padded = np.pad(strength, 1)
  left, right = padded[1:-1, :-2], padded[1:-1, 2:]
  above, below = padded[:-2, 1:-1], padded[2:, 1:-1]
  return ((strength > left) & (strength > right)) | ((strength > above) & (strength > below))


def edge_widths(grey: np.ndarray, edges: np.ndarray) -> np.ndarray:
  """Width of every measurable edge in pixels (Marziliano et al. 2002), int16 [h, w], 0 elsewhere.

  An edge is measurable if it is not on the border and its gradient, rounded to 45 degrees, points right (brightening)
  or left (darkening). Its width is the distance between the local extrema on both sides, each at most `MAX_WALK` away.

  Args:
    grey: float64 [h, w], 0..255.
    edges: bool [h, w].
  """
  gradient_y, gradient_x = np.gradient(grey)
  # As published, vertical gradients count as angle 0, so their width is measured along the row.
  angle = np.where(gradient_x != 0, np.degrees(np.arctan2(gradient_y, gradient_x)), 0)
  widths = np.zeros(grey.shape, np.int16)
  if not angle.any():
    return widths  # as published: no widths for an image whose gradients all point right
  octant = np.abs(np.round(angle / 45))
  inner = np.zeros(grey.shape, bool)
  inner[1:-1, 1:-1] = True
  for sign, direction in ((1, 0), (-1, 4)):
    row, column = np.nonzero(edges & inner & (octant == direction))
    rising = sign * grey
    widths[row, column] = _climb(-rising, row, column, -1) + _climb(rising, row, column, 1)
  return widths


def _climb(height: np.ndarray, row: np.ndarray, column: np.ndarray, step: int) -> np.ndarray:
  """Pixels from each (row, column) in direction `step` to the end of the strictly increasing run."""
  width = height.shape[1]
  steps = np.ones(len(row), np.int16)
  climbing = np.arange(len(row))
  for margin in range(MAX_WALK - 1):
    near = column[climbing] + step * (1 + margin)
    far = near + step
    inside = (far >= 0) & (far < width)
    climbing, near, far = climbing[inside], near[inside], far[inside]
    higher = height[row[climbing], far] > height[row[climbing], near]
    climbing = climbing[higher]
    if not len(climbing):
      break
    steps[climbing] += 1
  return steps


def _score(grey: np.ndarray, edges: np.ndarray, widths: np.ndarray) -> float:
  histogram = np.zeros(101)
  for top in range(0, grey.shape[0] - BLOCK + 1, BLOCK):
    for left in range(0, grey.shape[1] - BLOCK + 1, BLOCK):
      block = np.s_[top : top + BLOCK, left : left + BLOCK]
      if np.count_nonzero(edges[block]) <= EDGE_SHARE * BLOCK * BLOCK:
        continue
      measured = widths[block][widths[block] > 0]
      noticeable = JNB_LOW if int(np.ptp(grey[block])) <= LOW_CONTRAST else JNB_HIGH
      probability = 1 - np.exp(-((measured / noticeable) ** BETA))
      histogram += np.bincount(np.round(100 * probability).astype(int), minlength=len(histogram))
  return float(histogram[:UNDETECTED].sum() / max(histogram.sum(), 1))

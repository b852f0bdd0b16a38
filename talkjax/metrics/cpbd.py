"""CPBD, the cumulative probability of blur detection (Narvekar and Karam 2011), with the numbers of python-cpbd.

Edges are found twice: Canny's tell which 64x64 blocks have edges at all, thinned vertical Sobel edges are measured in
width. The wider an edge is against the width at which blur is just noticeable, the likelier the blur is seen; the score
is the share of edges whose blur goes unseen: 1 is sharp, 0 is blurred (or without any edge).
"""

import logging

import cv2
import numpy as np
from scipy import ndimage
from skimage.feature import canny

BLOCK = 64  # pixels
EDGE_SHARE = 0.002  # a block with more Canny edges than this share of its pixels is an edge block
BETA = 3.6
LOW_CONTRAST = 50  # grey levels; a block of at most this contrast has the wider just noticeable blur
JNB_LOW, JNB_HIGH = 5, 3  # pixels, width of a just noticeable blur at low and at high contrast
MAX_WALK = 101  # pixels to either side of an edge
UNSEEN = 64  # buckets of 1 % of detection probability that count as unseen


def cpbd(picture: np.ndarray) -> float:
  """Sharpness in [0, 1], higher is sharper; 0 where there is no edge; nan (with a warning) under 64x64 pixels.

  Args:
    picture: [h, w] grey or [h, w, 3] RGB, 0..255; RGB becomes grey by ITU-R 601 luma, rounded to 8 bits.
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
  """Canny edges (scikit-image's defaults, thresholds on the 0..255 scale as it is), bool [h, w]."""
  return canny(grey)


def sobel_edges(grey: np.ndarray) -> np.ndarray:
  """Thinned edges of the horizontal Sobel gradient of a float64 [h, w] picture, bool [h, w]."""
  kernel = np.outer([1, 2, 1], [1, 0, -1]) / 8
  strength = ndimage.convolve(grey, kernel) ** 2
  # As published, the squared strength is held against a threshold of the unsquared scale.
  strength[strength <= 2 * np.sqrt(strength.mean())] = 0
  framed = np.pad(strength, 1)
  left, right = framed[1:-1, :-2], framed[1:-1, 2:]
  above, below = framed[:-2, 1:-1], framed[2:, 1:-1]
  return ((strength > left) & (strength > right)) | ((strength > above) & (strength > below))


def edge_widths(grey: np.ndarray, edges: np.ndarray) -> np.ndarray:
  """Width of every measurable edge in pixels (Marziliano et al. 2002), int16 [h, w], 0 elsewhere.

  Measurable are edges off the picture's border whose gradient, to the nearest 45 degrees, points right (brightening) or
  left (darkening). The width runs from the local extremum on one side to that on the other, each at most `MAX_WALK`
  away.

  Args:
    grey: float64 [h, w], 0..255.
    edges: bool [h, w].
  """
  gradient_y, gradient_x = np.gradient(grey)
  # A gradient straight up or down counts as angle 0, as published: it is measured along the row.
  angle = np.where(gradient_x != 0, np.degrees(np.arctan2(gradient_y, gradient_x)), 0)
  widths = np.zeros(grey.shape, np.int16)
  if not angle.any():
    return widths  # as published: a picture that only brightens to the right measures nothing
  octant = np.abs(np.round(angle / 45))
  inner = np.zeros(grey.shape, bool)
  inner[1:-1, 1:-1] = True
  for sign, direction in ((1, 0), (-1, 4)):
    row, column = np.nonzero(edges & inner & (octant == direction))
    rising = sign * grey
    widths[row, column] = _walk(-rising, row, column, -1) + _walk(rising, row, column, 1)
  return widths


def _walk(height: np.ndarray, row: np.ndarray, column: np.ndarray, step: int) -> np.ndarray:
  """Pixels from each (row, column) in direction `step` to the last one of a strict climb, from its neighbour on."""
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
      seen = 1 - np.exp(-((measured / noticeable) ** BETA))
      histogram += np.bincount(np.round(100 * seen).astype(int), minlength=len(histogram))
  return float(histogram[:UNSEEN].sum() / max(histogram.sum(), 1))

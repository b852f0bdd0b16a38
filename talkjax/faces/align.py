"""From a frame to a picture of the upright face, and back into the frame.

Transforms are [2, 3] float32 matrices of a similarity (turn, scale, shift) that take x, y in pixels of the frame to
pixels of the crop, as `cv2.warpAffine` understands them.
"""

import cv2
import numpy as np

from talkjax.faces.landmarks import MEAN_FACE, STABLE

SIZE = 128  # pixels, of a crop
# Where the mean face lies in a crop, as shares of its side: raised brows at 0.13, nose base at 0.50, lips at 0.61, the
# chin at 0.83 and at 0.93 when the mouth is wide open; the jaw is 0.65 wide.
EYES_X, EYES_Y, EYE_DISTANCE = 0.5, 0.30, 0.285
FEATHER = 0.05  # of the crop's side: how wide the soft edge of a put-back is, inside the mask
# The jaw's ends lie on the outline, where a turned head shows another part of the skull: they are left out.
FIT = slice(6, None)


def canonical_points(size: int = SIZE) -> np.ndarray:
  """[13, 2] float64: where nose and eye corners of the mean face lie in a crop of `size` pixels."""
  return (MEAN_FACE[FIT, :2] * EYE_DISTANCE + [EYES_X, EYES_Y]) * size


def canonical_transforms(landmarks: np.ndarray, size: int = SIZE, smooth: int = 7) -> np.ndarray:
  """Aligns the face of every frame to the canonical one (section 3.3.3 of Speech Driven Video Editing).

  The nose and the eyes' corners, averaged over `smooth` frames centred on each (fewer at the ends of the clip, as many
  before as after), are fitted by a similarity in the least-squares sense.

  Args:
    landmarks: [f, 68, 2] pixels of the frame.
    size: pixels of the crop's side.
    smooth: frames averaged, odd.

  Returns:
    [f, 2, 3] float32, pixels of the frame to pixels of the crop.
  """
  if smooth < 1 or smooth % 2 == 0:
    raise ValueError(f'smooth is {smooth}, expected an odd number')
  points = np.asarray(landmarks, np.float64)[:, STABLE[FIT]]
  return similarity(centred_mean(points, smooth), canonical_points(size)).astype(np.float32)


def centred_mean(values: np.ndarray, window: int) -> np.ndarray:
  """Mean of [f, ...] over `window` frames around each; near the ends the window shrinks evenly on both sides."""
  count = len(values)
  half = np.minimum(window // 2, np.minimum(np.arange(count), np.arange(count)[::-1]))
  total = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, 0)])
  index = np.arange(count)
  width = (2 * half + 1).reshape(-1, *[1] * (values.ndim - 1))
  return (total[index + half + 1] - total[index - half]) / width


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
  """The similarity without mirroring that takes [f, n, 2] nearest to [n, 2] in the least-squares sense: [f, 2, 3].

  In the plane Umeyama's solution is linear: with points as complex numbers, target = a * source + b.
  """
  z = source[..., 0] + 1j * source[..., 1]
  w = target[..., 0] + 1j * target[..., 1]
  z_mean, w_mean = z.mean(-1, keepdims=True), w.mean(-1, keepdims=True)
  a = ((w - w_mean) * np.conj(z - z_mean)).sum(-1) / np.maximum((np.abs(z - z_mean) ** 2).sum(-1), 1e-12)
  b = w_mean[..., 0] - a * z_mean[..., 0]
  return np.stack([np.stack([a.real, -a.imag, b.real], -1), np.stack([a.imag, a.real, b.imag], -1)], -2)


def scale_of(transform: np.ndarray) -> float:
  """Crop pixels per frame pixel."""
  return float(np.hypot(transform[0, 0], transform[1, 0]))


def invert(transform: np.ndarray) -> np.ndarray:
  """[..., 2, 3] -> [..., 2, 3], from the crop to the frame."""
  transform = np.asarray(transform)
  linear = np.linalg.inv(transform[..., :2].astype(np.float64))
  shift = -linear @ transform[..., 2:].astype(np.float64)
  return np.concatenate([linear, shift], -1).astype(transform.dtype)


def transform_points(points: np.ndarray, transform: np.ndarray) -> np.ndarray:
  """[..., n, 2] x, y through [..., 2, 3] (or one [2, 3] for all): [..., n, 2]."""
  transform = np.asarray(transform)
  moved = np.asarray(points) @ np.swapaxes(transform[..., :2], -1, -2) + transform[..., None, :, 2]
  return moved.astype(np.asarray(points).dtype)


def crop(frame: np.ndarray, transform: np.ndarray, size: int = SIZE) -> np.ndarray:
  """The face of a frame: uint8 [h, w, 3] -> uint8 [size, size, 3]; beyond the frame its edge is repeated.

  Where the frame is the finer of the two, its pixels are averaged, so that nothing flickers.
  """
  corners = transform_points(np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float64), invert(transform))
  height, width = frame.shape[:2]
  shrink = 1 / scale_of(transform)
  margin = int(np.ceil(2 * shrink)) + 2
  x0, y0 = np.clip(np.floor(corners.min(0)).astype(int) - margin, 0, [width - 1, height - 1])
  x1, y1 = np.clip(np.ceil(corners.max(0)).astype(int) + margin, [x0 + 1, y0 + 1], [width, height])
  piece = np.ascontiguousarray(frame[y0:y1, x0:x1])
  matrix = np.array(transform, np.float64)
  matrix[:, 2] += matrix[:, :2] @ [x0, y0]
  if shrink > 1:
    smaller = (max(1, round(piece.shape[1] / shrink)), max(1, round(piece.shape[0] / shrink)))
    ratio = np.array([piece.shape[1] / smaller[0], piece.shape[0] / smaller[1]])
    piece = cv2.resize(piece, smaller, interpolation=cv2.INTER_AREA)
    matrix[:, 2] += matrix[:, :2] @ (0.5 * ratio - 0.5)  # pixel centres move with the size
    matrix[:, :2] *= ratio
  return cv2.warpAffine(piece, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def paste(
  frame: np.ndarray, patch: np.ndarray, transform: np.ndarray, mask: np.ndarray, feather: float = FEATHER
) -> np.ndarray:
  """Puts a generated face back where its crop came from.

  Args:
    frame: uint8 [h, w, 3], is not changed.
    patch: uint8 [size, size, 3], the crop with the generated part.
    transform: [2, 3] that made the crop.
    mask: [size, size, 1], 1 where the patch replaces the frame; its edge is softened inwards, so that no pixel of the
      frame changes outside of it.
    feather: width of the soft edge, as a share of the crop's side.

  Returns:
    uint8 [h, w, 3]; outside the mask bit for bit the frame.
  """
  size, (height, width) = patch.shape[0], frame.shape[:2]
  alpha = soft_edge(mask, feather * size)
  inverse = invert(np.asarray(transform, np.float64))
  rows, columns = np.nonzero(alpha)
  if not len(rows):
    return frame.copy()
  ends = np.array([[x, y] for x in (columns.min(), columns.max()) for y in (rows.min(), rows.max())], np.float64)
  spread = transform_points(ends, inverse)
  margin = int(np.ceil(scale_of(inverse))) + 1
  x0, y0 = np.clip(np.floor(spread.min(0)).astype(int) - margin, 0, [width, height])
  x1, y1 = np.clip(np.ceil(spread.max(0)).astype(int) + margin + 1, 0, [width, height])
  if x0 >= x1 or y0 >= y1:
    return frame.copy()
  inverse[:, 2] -= [x0, y0]
  region = (int(x1 - x0), int(y1 - y0))
  shrink = scale_of(transform)
  if shrink > 1:  # the crop is the finer: average before every so-manieth pixel is taken
    patch = cv2.GaussianBlur(patch, (0, 0), 0.5 * np.sqrt(shrink**2 - 1) + 1e-3, borderType=cv2.BORDER_REPLICATE)
  warped = cv2.warpAffine(patch, inverse, region, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
  weight = cv2.warpAffine(alpha, inverse, region, flags=cv2.INTER_LINEAR, borderValue=0)[..., None]
  result = frame.copy()
  under = result[y0:y1, x0:x1]
  mixed = np.rint(under + weight * (warped.astype(np.float32) - under)).astype(np.uint8)
  result[y0:y1, x0:x1] = np.where(weight > 0, mixed, under)
  return result


def soft_edge(mask: np.ndarray, width: float) -> np.ndarray:
  """[size, size, 1] mask -> float32 [size, size] weight: 0 outside, rising smoothly to 1 within `width` pixels.

  The crop's own border counts as outside: there the patch ends.
  """
  inside = np.pad((np.asarray(mask)[..., 0] > 0.5).astype(np.uint8), 1)
  distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[1:-1, 1:-1] - 0.5
  ramp = np.clip(distance / max(width, 1e-3), 0, 1)
  return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)

"""Face alignment: crops the upright face from a frame, and pastes it back.

Transforms are [2, 3] float32 matrices of a similarity (rotation, scale, translation) from pixels x, y of the frame to
pixels of the crop, in the convention of `cv2.warpAffine`.
"""

import cv2
import numpy as np

from talkjax.faces.measures import MEAN_FACE, STABLE

SIZE = 128  # side of a crop in pixels
# Position of the mean face in a crop, as fractions of its side: raised brows at 0.13, nose base at 0.50, lips at 0.61,
# the chin at 0.83 and at 0.93 with the mouth wide open; the jaw is 0.65 wide.
EYES_X, EYES_Y, EYE_DISTANCE = 0.5, 0.30, 0.285
FEATHER = 0.05  # width of the soft edge of a pasted crop, inside the mask, as a fraction of the crop's side
# The ends of the jaw are not used: they are on the outline, which is another part of the skull when the head turns.
FIT = slice(6, None)


def canonical_points(size: int = SIZE) -> np.ndarray:
  """[13, 2] float64: positions of nose and eye corners of the mean face in a crop of `size` pixels."""
  return (MEAN_FACE[FIT, :2] * EYE_DISTANCE + [EYES_X, EYES_Y]) * size


def canonical_transforms(landmarks: np.ndarray, size: int = SIZE, smooth: int = 7) -> np.ndarray:
  """Aligns the face of every frame to the canonical face (section 3.3.3 of Speech Driven Video Editing).

  Nose and eye corners are averaged over a centred window of `smooth` frames, which shrinks symmetrically at the ends of
  the clip. A least-squares similarity maps them to the canonical face.

  Args:
    landmarks: [f, 68, 2] pixels of the frame.
    size: side of the crop in pixels.
    smooth: number of frames averaged, odd.

  Returns:
    [f, 2, 3] float32, from pixels of the frame to pixels of the crop.
  """
  if smooth < 1 or smooth % 2 == 0:
    raise ValueError(f'smooth is {smooth}, expected an odd number')
  points = np.asarray(landmarks, np.float64)[:, STABLE[FIT]]
  return similarity(centred_mean(points, smooth), canonical_points(size)).astype(np.float32)


def centred_mean(values: np.ndarray, window: int) -> np.ndarray:
  """Moving average of [f, ...] over `window` frames; near the ends the window shrinks symmetrically."""
  count = len(values)
  half = np.minimum(window // 2, np.minimum(np.arange(count), np.arange(count)[::-1]))
  total = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, 0)])
  index = np.arange(count)
  width = (2 * half + 1).reshape(-1, *[1] * (values.ndim - 1))
  return (total[index + half + 1] - total[index - half]) / width


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
  """The least-squares similarity without reflection from [f, n, 2] to [n, 2]: [f, 2, 3].

  In two dimensions Umeyama's solution is linear: with points as complex numbers, target = a * source + b.
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
  """Inverse transforms, from the crop to the frame: [..., 2, 3] -> [..., 2, 3]."""
  transform = np.asarray(transform)
  linear = np.linalg.inv(transform[..., :2].astype(np.float64))
  shift = -linear @ transform[..., 2:].astype(np.float64)
  return np.concatenate([linear, shift], -1).astype(transform.dtype)


def transform_points(points: np.ndarray, transform: np.ndarray) -> np.ndarray:
  """Applies [..., 2, 3] (or one [2, 3]) to points x, y [..., n, 2]: [..., n, 2]."""
  transform = np.asarray(transform)
  transformed = np.asarray(points) @ np.swapaxes(transform[..., :2], -1, -2) + transform[..., None, :, 2]
  return transformed.astype(np.asarray(points).dtype)


def crop(frame: np.ndarray, transform: np.ndarray, size: int = SIZE) -> np.ndarray:
  """Crops the face of a frame: uint8 [h, w, 3] -> uint8 [size, size, 3]; the frame's edge is replicated outside it.

  If the frame has the higher resolution, it is area-averaged first to prevent aliasing.
  """
  corners = transform_points(np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float64), invert(transform))
  height, width = frame.shape[:2]
  shrink = 1 / scale_of(transform)
  margin = int(np.ceil(2 * shrink)) + 2
  x0, y0 = np.clip(np.floor(corners.min(0)).astype(int) - margin, 0, [width - 1, height - 1])
  x1, y1 = np.clip(np.ceil(corners.max(0)).astype(int) + margin, [x0 + 1, y0 + 1], [width, height])
  region = np.ascontiguousarray(frame[y0:y1, x0:x1])
  matrix = np.array(transform, np.float64)
  matrix[:, 2] += matrix[:, :2] @ [x0, y0]
  if shrink > 1:
    smaller = (max(1, round(region.shape[1] / shrink)), max(1, round(region.shape[0] / shrink)))
    ratio = np.array([region.shape[1] / smaller[0], region.shape[0] / smaller[1]])
    region = cv2.resize(region, smaller, interpolation=cv2.INTER_AREA)
    matrix[:, 2] += matrix[:, :2] @ (0.5 * ratio - 0.5)  # pixel centres move with the size
    matrix[:, :2] *= ratio
  return cv2.warpAffine(region, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def paste(
  frame: np.ndarray, patch: np.ndarray, transform: np.ndarray, mask: np.ndarray, feather: float = FEATHER
) -> np.ndarray:
  """Pastes a generated face back into the frame it was cropped from.

  Args:
    frame: uint8 [h, w, 3], not modified.
    patch: uint8 [size, size, 3], the crop with the generated part.
    transform: [2, 3], the transform of the crop.
    mask: [size, size, 1], 1 where the patch replaces the frame. Its edge is softened inwards, so pixels outside the
      mask do not change.
    feather: width of the soft edge, as a fraction of the crop's side.

  Returns:
    uint8 [h, w, 3], identical to the frame outside the mask.
  """
  size, (height, width) = patch.shape[0], frame.shape[:2]
  alpha = soft_edge(mask, feather * size)
  inverse = invert(np.asarray(transform, np.float64))
  rows, columns = np.nonzero(alpha)
  if not len(rows):
    return frame.copy()
  corners = np.array([[x, y] for x in (columns.min(), columns.max()) for y in (rows.min(), rows.max())], np.float64)
  bounds = transform_points(corners, inverse)
  margin = int(np.ceil(scale_of(inverse))) + 1
  x0, y0 = np.clip(np.floor(bounds.min(0)).astype(int) - margin, 0, [width, height])
  x1, y1 = np.clip(np.ceil(bounds.max(0)).astype(int) + margin + 1, 0, [width, height])
  if x0 >= x1 or y0 >= y1:
    return frame.copy()
  inverse[:, 2] -= [x0, y0]
  region = (int(x1 - x0), int(y1 - y0))
  shrink = scale_of(transform)
  if shrink > 1:  # the crop has the higher resolution: low-pass before subsampling
    patch = cv2.GaussianBlur(patch, (0, 0), 0.5 * np.sqrt(shrink**2 - 1) + 1e-3, borderType=cv2.BORDER_REPLICATE)
  warped = cv2.warpAffine(patch, inverse, region, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
  weight = cv2.warpAffine(alpha, inverse, region, flags=cv2.INTER_LINEAR, borderValue=0)[..., None]
  result = frame.copy()
  original = result[y0:y1, x0:x1]
  blended = np.rint(original + weight * (warped.astype(np.float32) - original)).astype(np.uint8)
  result[y0:y1, x0:x1] = np.where(weight > 0, blended, original)
  return result


def soft_edge(mask: np.ndarray, width: float) -> np.ndarray:
  """[size, size, 1] mask -> float32 [size, size] weights: 0 outside, rising smoothly to 1 within `width` pixels.

  The border of the crop counts as outside, because the patch ends there.
  """
  inside = np.pad((np.asarray(mask)[..., 0] > 0.5).astype(np.uint8), 1)
  distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[1:-1, 1:-1] - 0.5
  ramp = np.clip(distance / max(width, 1e-3), 0, 1)
  return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)

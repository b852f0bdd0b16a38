"""V-Kps, three keypoints of a face (left eye, right eye, tip of the nose): drawing, retargeting, reading from files.

Left and right are as seen in the image. Sequences are [f, 3, 2] float32, x and y in pixels.
"""

import os
import pathlib

import cv2
import numpy as np

from talkjax.errors import UserError

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]])  # of the left eye, the right eye, the nose
STRATEGIES = ('fix_face', 'none', 'offset', 'naive')
COMPAT = ('paper', 'published')


def of_landmarks(landmarks: np.ndarray) -> np.ndarray:
  """V-Kps of landmarks, [..., 68, 2] -> [..., 3, 2]: the centres of the eyes and the tip of the nose."""
  points = np.asarray(landmarks, np.float32)
  eyes = points[..., 36:42, :].mean(-2), points[..., 42:48, :].mean(-2)
  return np.stack([*eyes, points[..., 30, :]], axis=-2)


def mirrored(keypoints: np.ndarray, width: float) -> np.ndarray:
  """Keypoints [..., 3, 2] of the mirrored image: left and right eye swap, and so do their colours."""
  return np.stack([width - keypoints[..., [1, 0, 2], 0], keypoints[..., [1, 0, 2], 1]], axis=-1).astype(np.float32)


def draw(keypoints: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """The V-Kps image (V-Express figure 1): a disc per keypoint, a line from each eye to the nose in 0.6 of its colour.

  The widths of lines and discs in pixels do not depend on the size.

  Args:
    keypoints: [3, 2] pixels.
    size: (h, w).

  Returns:
    uint8 [h, w, 3].
  """
  canvas = np.zeros((*size, 3), np.uint8)
  for eye in (0, 1):
    ends = np.asarray(keypoints[[eye, 2]], np.float64)
    across, down = ends[0] - ends[1]
    middle = tuple(int(v) for v in ends.mean(0))
    half = int(np.hypot(across, down) / 2)
    outline = cv2.ellipse2Poly(middle, (half, 4), int(np.degrees(np.arctan2(down, across))), 0, 360, 1)
    cv2.fillConvexPoly(canvas, outline, (0.6 * COLOURS[eye]).astype(int).tolist())
  for point, colour in zip(keypoints, COLOURS, strict=True):
    cv2.circle(canvas, (int(point[0]), int(point[1])), 4, colour.tolist(), -1)
  return canvas


def draw_all(keypoints: np.ndarray, size: int, canvas: int) -> np.ndarray:
  """V-Kps images for small frames: drawn on a square of `canvas` pixels and downsampled.

  Args:
    keypoints: [f, 3, 2] in pixels of the frame.
    size: side of the frame in pixels.
    canvas: side of the drawing in pixels; with canvas = size the result is as published.

  Returns:
    uint8 [f, size, size, 3].
  """
  drawn = [draw(k * (canvas / size), (canvas, canvas)) for k in np.asarray(keypoints, np.float32)]
  if canvas != size:
    drawn = [cv2.resize(d, (size, size), interpolation=cv2.INTER_AREA) for d in drawn]
  return np.stack(drawn)


def fit_length(keypoints: np.ndarray, count: int) -> np.ndarray:
  """[f, 3, 2] -> [count, 3, 2]: truncates longer sequences and stretches shorter ones (V-Express section 2.5).

  Stretching interpolates linearly between the centres of frames; the ends are held.
  """
  keypoints = np.asarray(keypoints, np.float32)
  if len(keypoints) >= count:
    return keypoints[:count]
  position = np.clip((np.arange(count) + 0.5) * (len(keypoints) / count) - 0.5, 0, len(keypoints) - 1)
  before = np.floor(position).astype(int)
  fraction = (position - before)[:, None, None].astype(np.float32)
  return keypoints[before] * (1 - fraction) + keypoints[np.minimum(before + 1, len(keypoints) - 1)] * fraction


def retarget(
  keypoints: np.ndarray, reference: np.ndarray, count: int, strategy: str, compat: str = 'paper'
) -> np.ndarray:
  """Retargets the keypoints of a driving video to another face.

  The scale is measured at the driving frame most similar to the portrait, by the ratio of the eyes' distances to the
  nose: horizontally by the distance of the eyes, vertically by that of the nose from the line between the eyes
  (V-Express section 2.5).

  Args:
    keypoints: [f, 3, 2] of the driving video.
    reference: [3, 2] of the portrait.
    count: number of output frames, see `fit_length`.
    strategy: 'fix_face' repeats the portrait's keypoints; 'none' returns the driving keypoints unchanged; 'naive'
      rescales them and moves them so that the first nose is at the portrait's nose; 'offset' moves the portrait's
      keypoints by half the motion of the rescaled nose.
    compat: 'paper', or 'published', which reproduces two bugs of the released code: the search for the most similar
      frame compares with the best frame's ratio instead of its difference, and 'offset' moves in the wrong direction.

  Returns:
    [count, 3, 2] float32.

  Raises:
    UserError: unknown strategy, or a degenerate face (coinciding or collinear points).
  """
  reference = np.asarray(reference, np.float32)
  if strategy not in STRATEGIES or compat not in COMPAT:
    raise UserError(
      f'retargeting {strategy!r} ({compat!r}): expected one of {", ".join(STRATEGIES)} ({" or ".join(COMPAT)})'
    )
  if strategy == 'fix_face':
    return np.repeat(reference[None], count, axis=0)
  keypoints = fit_length(keypoints, count)
  if strategy == 'none':
    return keypoints
  similar = keypoints[_most_similar(keypoints, reference, compat)]
  with np.errstate(divide='ignore', invalid='ignore'):
    scale_x, scale_y = (_extent(reference) / _extent(similar)).tolist()
  if not np.isfinite([scale_x, scale_y]).all() or min(scale_x, scale_y) <= 0:
    raise UserError('retargeting: the eyes and the nose lie in one line, so sizes cannot be compared: use fix_face')
  scaled = keypoints * np.array([scale_x, scale_y], np.float32)
  motion = scaled - scaled[:1, 2:]
  if strategy == 'naive':
    return motion + reference[2]
  return reference + motion[:, 2:] * (-0.5 if compat == 'published' else 0.5)


def _most_similar(keypoints, reference, compat) -> int:
  with np.errstate(divide='ignore', invalid='ignore'):
    ratio = _ratio(keypoints)
    difference = np.abs(ratio - _ratio(reference))
  if compat != 'published':
    return int(np.argmin(np.nan_to_num(difference, nan=np.inf)))
  best, least = 0, np.inf
  for i, value in enumerate(difference):
    if value < least:
      best, least = i, ratio[i]
  return best


def _ratio(keypoints):
  """Distance from left eye to nose divided by distance from right eye to nose."""
  left, right = (np.linalg.norm(keypoints[..., i, :] - keypoints[..., 2, :], axis=-1) for i in (0, 1))
  return left / right


def _extent(face) -> np.ndarray:
  """Size of a face [3, 2]: the distance between the eyes, and that of the nose from the segment between them."""
  left, right, nose = np.asarray(face, np.float64)
  eyes = right - left
  with np.errstate(divide='ignore', invalid='ignore'):
    fraction = np.clip((nose - left) @ eyes / (eyes @ eyes), 0, 1)
  return np.array([np.linalg.norm(eyes), np.linalg.norm(nose - left - fraction * eyes)])


def read(path: str | pathlib.Path) -> np.ndarray:
  """Reads keypoints from a .npy file, or from a `torch.save` file of an array or a list of arrays.

  No code in the file is executed. If frames have more than three points, the first three are used.

  Returns:
    [f, 3, 2] float32.

  Raises:
    UserError: the file cannot be read or does not contain keypoints.
  """
  from talkjax.media import arrays, files
  from talkjax.weights.read import read_pickle

  path = pathlib.Path(path)
  if os.path.lexists(path):
    files.open_regular(path, 'a .npy or .pth file').close()  # reading a FIFO would not end
  values = arrays.read_npy(path, f'keypoints {path}') if path.suffix == '.npy' else read_pickle(path)
  try:
    points = np.array(values, np.float32) if np.asarray(values).dtype.kind in 'fiu' else np.zeros(0)
  except (TypeError, ValueError, OverflowError):
    points = np.zeros(0)
  if points.ndim != 3 or not len(points) or points.shape[1] < 3 or points.shape[2] != 2:
    shape = list(points.shape) if points.size else type(values).__name__
    raise UserError(f'keypoints {path}: expected an array [frames, 3, 2] of pixels, found {shape}')
  if not np.isfinite(points[:, :3]).all():
    raise UserError(f'keypoints {path}: some values are not finite: remove or interpolate those frames')
  return points[:, :3]

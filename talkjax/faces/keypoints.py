"""Three keypoints of a face (V-Kps: left eye, right eye, tip of the nose): drawn, retargeted, read from files.

Left and right are as seen in the picture. Sequences are [f, 3, 2] float32, x and y in pixels.
"""

import os
import pathlib

import cv2
import numpy as np

from talkjax.errors import UserError
from talkjax.media import files
from talkjax.weights.read import read_pickle

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]])  # of the left eye, the right eye, the nose
STRATEGIES = ('fix_face', 'none', 'offset', 'naive')
COMPAT = ('paper', 'published')


def of_landmarks(landmarks: np.ndarray) -> np.ndarray:
  """[..., 68, 2] -> [..., 3, 2]: the eyes' middles and the tip of the nose."""
  points = np.asarray(landmarks, np.float32)
  eyes = points[..., 36:42, :].mean(-2), points[..., 42:48, :].mean(-2)
  return np.stack([*eyes, points[..., 30, :]], axis=-2)


def mirrored(keypoints: np.ndarray, width: float) -> np.ndarray:
  """[..., 3, 2] in the mirrored picture: the right eye is the left one there, and so has its colour."""
  return np.stack([width - keypoints[..., [1, 0, 2], 0], keypoints[..., [1, 0, 2], 1]], axis=-1).astype(np.float32)


def draw(keypoints: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """The V-Kps image (V-Express figure 1): a stick from each eye to the nose in 0.6 of its colour, a disc on each.

  Sticks and discs are as wide at every size.

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
  """V-Kps images for small pictures: drawn on a square of `canvas` pixels and shrunk.

  Args:
    keypoints: [f, 3, 2] in pixels of the picture.
    size: of the picture.
    canvas: of what is drawn; the picture's own size draws as published.

  Returns:
    uint8 [f, size, size, 3].
  """
  drawn = [draw(k * (canvas / size), (canvas, canvas)) for k in np.asarray(keypoints, np.float32)]
  if canvas != size:
    drawn = [cv2.resize(d, (size, size), interpolation=cv2.INTER_AREA) for d in drawn]
  return np.stack(drawn)


def fit_length(keypoints: np.ndarray, count: int) -> np.ndarray:
  """[f, 3, 2] -> [count, 3, 2]: cut where there are more, stretched where there are fewer (V-Express section 2.5).

  Stretched is interpolated linearly between the frames' middles; the ends are held.
  """
  keypoints = np.asarray(keypoints, np.float32)
  if len(keypoints) >= count:
    return keypoints[:count]
  place = np.clip((np.arange(count) + 0.5) * (len(keypoints) / count) - 0.5, 0, len(keypoints) - 1)
  before = np.floor(place).astype(int)
  share = (place - before)[:, None, None].astype(np.float32)
  return keypoints[before] * (1 - share) + keypoints[np.minimum(before + 1, len(keypoints) - 1)] * share


def retarget(
  keypoints: np.ndarray, reference: np.ndarray, count: int, strategy: str, compat: str = 'paper'
) -> np.ndarray:
  """Keypoints of a driving video for another face.

  The driving frame that is most like the portrait, by the ratio of the eyes' distances to the nose, tells how much
  larger the portrait's face is: across by the distance of the eyes, down by that of the nose from the line between them
  (V-Express section 2.5).

  Args:
    keypoints: [f, 3, 2] of the driving video.
    reference: [3, 2] of the portrait.
    count: frames wanted, see `fit_length`.
    strategy: 'fix_face' holds the portrait's; 'none' takes the driving ones as they are; 'naive' rescales them and
      starts at the portrait's nose, whose trace they follow; 'offset' moves the portrait's keypoints by half of what
      the rescaled nose moves.
    compat: 'paper', or 'published', which has two slips of the released code: the frame that is kept as the most alike
      is compared by its ratio instead of its difference, and 'offset' moves the other way.

  Returns:
    [count, 3, 2] float32.

  Raises:
    UserError: no such strategy, or a degenerate face (two points in one).
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
  like = keypoints[_most_alike(keypoints, reference, compat)]
  with np.errstate(divide='ignore', invalid='ignore'):
    across, down = (_extent(reference) / _extent(like)).tolist()
  if not np.isfinite([across, down]).all() or min(across, down) <= 0:
    raise UserError('retargeting: the eyes and the nose lie in one line, so sizes cannot be compared: use fix_face')
  scaled = keypoints * np.array([across, down], np.float32)
  moves = scaled - scaled[:1, 2:]
  if strategy == 'naive':
    return moves + reference[2]
  return reference + moves[:, 2:] * (-0.5 if compat == 'published' else 0.5)


def _most_alike(keypoints, reference, compat) -> int:
  with np.errstate(divide='ignore', invalid='ignore'):
    ratio = _ratio(keypoints)
    difference = np.abs(ratio - _ratio(reference))
  if compat != 'published':
    return int(np.argmin(np.nan_to_num(difference, nan=np.inf)))
  chosen, least = 0, np.inf
  for i, off in enumerate(difference):
    if off < least:
      chosen, least = i, ratio[i]
  return chosen


def _ratio(keypoints):
  """The left eye's distance from the nose over the right eye's."""
  left, right = (np.linalg.norm(keypoints[..., i, :] - keypoints[..., 2, :], axis=-1) for i in (0, 1))
  return left / right


def _extent(face) -> np.ndarray:
  """How large a face [3, 2] is: the distance of the eyes, and of the nose from the segment between them."""
  left, right, nose = np.asarray(face, np.float64)
  eyes = right - left
  with np.errstate(divide='ignore', invalid='ignore'):
    share = np.clip((nose - left) @ eyes / (eyes @ eyes), 0, 1)
  return np.array([np.linalg.norm(eyes), np.linalg.norm(nose - left - share * eyes)])


def read(path: str | pathlib.Path) -> np.ndarray:
  """Keypoints that were saved: a .npy file, or what `torch.save` made of an array or a list of arrays.

  Nothing in the file is run. Of more than three points a frame the first three are taken.

  Returns:
    [f, 3, 2] float32.

  Raises:
    UserError: the file cannot be read, or holds something else.
  """
  path = pathlib.Path(path)
  if os.path.lexists(path):
    files.open_regular(path, 'a .npy or .pth file').close()  # reading a FIFO would not end
  if path.suffix == '.npy':
    try:
      found = np.load(path, mmap_mode='r', allow_pickle=False)  # mapped: no memory for more than it has
    except (OSError, ValueError, EOFError) as error:
      raise UserError(f'keypoints {path}: not a readable .npy file ({error}): save it with numpy.save') from error
  else:
    found = read_pickle(path)
  try:
    points = np.array(found, np.float32)
  except (TypeError, ValueError):
    points = np.zeros(0)
  if points.ndim != 3 or not len(points) or points.shape[1] < 3 or points.shape[2] != 2:
    shape = list(points.shape) if points.size else type(found).__name__
    raise UserError(f'keypoints {path}: expected an array [frames, 3, 2] of pixels, found {shape}')
  if not np.isfinite(points[:, :3]).all():
    raise UserError(f'keypoints {path}: some are not finite numbers: leave those frames out or fill them')
  return points[:, :3]

"""Geometry of a drawn head: its 68 landmarks, deformation by speech, and projection.

Canonical coordinates are x right, y down, z towards the viewer, with the origin on the nose bridge; one unit is one
pixel of a 128-pixel frame when the head is at scale 1. Everything is vectorised over the frames f of a clip.
"""

import dataclasses

import numpy as np

FOCAL = 420.0  # units from the viewer to the head: a mild perspective
PIVOT = (0.0, 16.0, -4.0)  # the head rotates about the top of the neck
OPENING = 11.5  # units between the inner lips at jaw = 1

# Right half (x < 0 is the left of the image) of a mean face in the iBUG order; the other half is its mirror image.
_JAW = [(-29.5, -10), (-29.3, -2), (-28.4, 6), (-26.6, 14), (-23.4, 21.5), (-18.8, 28), (-13.2, 33), (-6.8, 36.4)]
_BROW = [(-22.8, -20.4), (-19.3, -22.7), (-14.8, -23.3), (-10, -22.2), (-5.8, -20.2)]
_EYE = [(-18.9, -10.9), (-15.6, -13.8), (-11.2, -13.7), (-7.5, -10.4), (-11, -8.7), (-15.2, -8.6)]
MIRROR_EYE = [3, 2, 1, 0, 5, 4]  # the other eye's points, in the order that mirrors 36..41


@dataclasses.dataclass(frozen=True)
class Shape:
  """Differences of a head's geometry from the mean; every number is a factor or an offset in units."""

  width: float = 1.0
  jaw: float = 1.0  # width at the jaw corners; below 1 is a narrow chin
  chin: float = 0.0  # lower (+) or higher (-) chin
  eye_size: float = 1.0
  eye_height: float = 1.0
  eye_spacing: float = 0.0
  eye_tilt: float = 0.0  # outer corner up (+)
  brow_height: float = 0.0
  brow_arch: float = 1.0
  nose_width: float = 1.0
  nose_length: float = 0.0
  nose_depth: float = 1.0
  mouth_width: float = 1.0
  mouth_height: float = 0.0
  smile: float = 0.8  # units by which the corners of the mouth are above its middle
  upper_lip: float = 1.0
  lower_lip: float = 1.0


@dataclasses.dataclass(frozen=True)
class Face:
  """A Shape's anchor points in canonical units."""

  shape: Shape
  landmarks: np.ndarray  # [68, 2] at rest, mouth closed
  eye: np.ndarray  # [2] centre of the eye on the right of the image; the other is its mirror image
  nose: np.ndarray  # [2] under the tip
  mouth: np.ndarray  # [2] centre of the mouth line
  mouth_half: float  # half the width of the closed mouth
  chin: float  # y of the chin


def face(shape: Shape) -> Face:
  """Adapts the landmarks of the mean face to a shape."""
  p = np.zeros((68, 2))
  jaw = np.array(_JAW, float)
  low = np.clip((jaw[:, 1] - 4) / 30, 0, 1)
  jaw[:, 0] *= shape.width * (1 + (shape.jaw - 1) * low)
  jaw[:, 1] += shape.chin * low
  p[:8], p[9:17] = jaw, _mirror(jaw[::-1])
  p[8] = 0, 37.5 + shape.chin

  brow = np.array(_BROW, float)
  brow[:, 1] = -20.4 + (brow[:, 1] + 20.4) * shape.brow_arch - shape.brow_height
  brow[:, 0] = brow[:, 0] * (0.5 + 0.5 * shape.width) - shape.eye_spacing
  p[17:22], p[22:27] = brow, _mirror(brow[::-1])

  tip = 10.4 + shape.nose_length
  p[27:31, 1] = np.linspace(-12, tip - 5.9, 4)
  side = np.array([(-6.0, -1.8), (-3.2, -0.8)]) * (shape.nose_width, 1) + (0, tip)
  p[31:33], p[33], p[34:36] = side, (0, tip), _mirror(side[::-1])

  eye = np.array(_EYE, float)
  centre = np.array([-13.3, -11.0])
  eye = (eye - centre) * (shape.eye_size, shape.eye_size * shape.eye_height)
  eye[:, 1] += eye[:, 0] * 0.12 * shape.eye_tilt
  centre[0] = centre[0] * (0.5 + 0.5 * shape.width) - shape.eye_spacing
  p[36:42] = eye + centre
  p[42:48] = _mirror(p[36:42])[MIRROR_EYE]

  mouth = np.array([0, 20.2 + shape.mouth_height + 0.35 * shape.chin + 0.4 * shape.nose_length])
  half = 10.9 * shape.mouth_width
  anchors = Face(shape, p, np.array([-centre[0], centre[1]]), p[33].copy(), mouth, half, 37.5 + shape.chin)
  outer, inner = lips(anchors, np.zeros((1, len(CHANNELS))))
  p[48:68] = _mouth_landmarks(outer, inner)[0]
  return anchors


CHANNELS = ('jaw', 'wide', 'round', 'closed', 'teeth', 'tongue')  # of the mouth, in the order of articulation.py


def opening(mouth: np.ndarray) -> np.ndarray:
  """Distance [f] in units between the inner lips, from mouth channels [f, 6]."""
  jaw, _, _, closed, teeth, _ = np.moveaxis(mouth, -1, 0)
  gap = OPENING * np.clip(jaw, 0, 1.1)
  gap = np.maximum(gap, 2.2 * teeth) * (1 - np.clip(closed, 0, 1))
  return np.where(gap < 0.35, 0, gap)


def lips(anchors: Face, mouth: np.ndarray, points: int = 17) -> tuple[np.ndarray, np.ndarray]:
  """Lip contours in canonical units from mouth channels [f, 6].

  Returns:
    outer, inner [f, 2 * points - 2, 2]: closed contours from the left corner along the upper lip, back along the lower.
  """
  jaw, wide, rounded, closed, teeth, _ = np.moveaxis(mouth[..., None], -2, 0)
  gap = opening(mouth)[:, None]
  shape = anchors.shape
  half = anchors.mouth_half * (1 + 0.17 * wide - 0.40 * rounded - 0.05 * gap / OPENING)
  t = np.linspace(-1, 1, points)[None]
  # An open, rounded mouth is an ellipse; a wide one is flatter, with sharp corners.
  bulge = (1 - t**2) ** (0.62 - 0.10 * rounded + 0.10 * wide)
  corner = anchors.mouth[1] + 0.12 * gap - (1.2 * wide + shape.smile) * (1 - rounded)
  middle = anchors.mouth[1]
  line = corner + (middle - corner) * (1 - t**2) + 0.35 * np.exp(-((t / 0.16) ** 2)) * (1 - gap / OPENING)
  up = line - 0.24 * gap * bulge
  down = line + 0.76 * gap * bulge
  thin = (1 - 0.38 * closed) * (1 - 0.10 * gap / OPENING) * (1 - 0.10 * wide + 0.20 * rounded)
  bow = 1 - 0.22 * np.exp(-((t / 0.13) ** 2)) + 0.10 * np.exp(-(((np.abs(t) - 0.26) / 0.16) ** 2))
  top = up - 3.1 * shape.upper_lip * thin * (1 - np.abs(t) ** 2.2) ** 0.9 * bow - 0.15
  bottom = down + 4.3 * shape.lower_lip * thin * (1 - 0.35 * teeth * (1 - jaw)) * (1 - t**2) ** 0.75 + 0.15
  x = half * t
  inner = _ring(0.93 * x, up, down)
  outer = _ring(x, top, bottom)
  return outer, inner


def depth(anchors: Face, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Depth of the head's surface towards the viewer at canonical x, y, in units."""
  base = 25 - (5 / 36 * x) ** 2 - (5 / 58 * (y + 6)) ** 2
  tip = float(anchors.nose[1]) - 4.5  # a numpy scalar would promote everything to float64
  along = np.clip((y + 16) / (tip + 16), 0, 1)
  along = np.minimum(along * (0.72 + 0.28 * along), np.clip((tip + 7.5 - y) / 7.5, 0, 1))
  wide = 5.2 * anchors.shape.nose_width
  return base + 9.0 * anchors.shape.nose_depth * along * np.exp(x * x * (-1 / wide**2))


def deform(anchors: Face, x: np.ndarray, y: np.ndarray, mouth: np.ndarray, brow: np.ndarray):
  """Moves skin points x, y of the resting face according to mouth [f, 6] and brows [f] (0 rest, 1 raised)."""
  dtype, extra = np.asarray(x).dtype, (1,) * (x.ndim - 1)
  jaw, wide, rounded = (mouth[:, i].reshape(-1, *extra).astype(dtype) for i in range(3))
  gap = opening(mouth).reshape(-1, *extra).astype(dtype)
  brow = brow.reshape(-1, *extra).astype(dtype)
  xx, down = x * x, y - float(anchors.mouth[1])
  across = 1 / (1 + (xx * (1 / 25**2)) ** 3)
  drop = gap * across * _smooth((down + 3) / 9) * (0.76 - 0.09 * _smooth((down - 8) / 10))
  lift = 0.20 * gap * np.exp((down + 4) ** 2 * (-1 / 5**2) + xx * (-1 / 11**2))
  pull = x * (0.13 * wide - 0.22 * rounded - 0.05 * jaw) * np.exp(down**2 * (-1 / 11**2) + xx * (-1 / 22**2))
  cheek = 1.2 * wide * np.exp((np.abs(x) - 17) ** 2 * (-1 / 7**2) + (y - 6) ** 2 * (-1 / 9**2))
  raised = 3.0 * brow * np.exp((y - float(anchors.landmarks[19, 1])) ** 2 * (-1 / 6**2) - (xx * (1 / 30**2)) ** 3)
  return x + pull, y + drop - lift - cheek - raised


@dataclasses.dataclass(frozen=True)
class Pose:
  """Pose of a head per frame."""

  angles: np.ndarray  # [f, 3] yaw (turned to the right of the image +), pitch (up +), roll (clockwise +), degrees
  centre: np.ndarray  # [f, 2] position of the origin at angles 0, in pixels of a 128-pixel frame
  scale: np.ndarray  # [f]


def project(points: np.ndarray, pose: Pose) -> np.ndarray:
  """Canonical points [f, n, 3] -> pixels [f, n, 2] of a 128-pixel frame."""
  matrix = _rotation(pose.angles)[:, :2], _rotation(pose.angles)[:, 2]
  centred = points - np.asarray(PIVOT)
  flat = np.einsum('fij,fnj->fni', matrix[0], centred)
  near = FOCAL / (FOCAL - np.einsum('fj,fnj->fn', matrix[1], centred) - PIVOT[2])
  flat = flat * near[..., None] + np.asarray(PIVOT[:2])
  return flat * pose.scale[:, None, None] + pose.centre[:, None]


def on_face(anchors: Face, points: np.ndarray, raised: float = 0.0) -> np.ndarray:
  """Canonical x, y [..., 2] -> x, y, z [..., 3] on the head's surface, `raised` units above it."""
  return np.concatenate([points, depth(anchors, points[..., 0], points[..., 1])[..., None] + raised], axis=-1)


def inverse_grid(anchors: Face, pose: Pose, mouth: np.ndarray, brow: np.ndarray, pixels: np.ndarray, rounds: int = 7):
  """The point of the resting face visible at each pixel: inverts `deform` and `project` by fixed-point iteration.

  Args:
    pixels: [n, 2] in pixels of a 128-pixel frame.

  Returns:
    [f, n, 2] canonical x, y of the resting face.
  """
  frames, count = len(mouth), len(pixels)
  matrix = _rotation(pose.angles).astype(np.float32)
  target = ((pixels[None] - pose.centre[:, None]) / pose.scale[:, None, None]).astype(np.float32)
  pivot = np.asarray(PIVOT, np.float32)
  goal = target - pivot[:2]
  a, b, c, d, e, g = (matrix[:, i, j][:, None] for i in range(2) for j in range(3))
  h, k, l = (matrix[:, 2, j][:, None] for j in range(3))
  determinant = a * e - b * d
  # 1. Invert the projection: the point of the deformed surface at each pixel.
  x, y = target[..., 0], target[..., 1]
  for _ in range(rounds):
    z = depth(anchors, x, y) - pivot[2]
    near = (FOCAL - pivot[2] - h * (x - pivot[0]) - k * (y - pivot[1]) - l * z) / FOCAL
    left, top = goal[..., 0] * near - c * z, goal[..., 1] * near - g * z
    x = (e * left - b * top) / determinant + pivot[0]
    y = (a * top - d * left) / determinant + pivot[1]
    x, y = np.clip(x, -64, 64), np.clip(y, -84, 84)  # far from the head the iteration may not converge
  # 2. Invert the deformation: the point of the resting face.
  u, v = x, y
  for _ in range(rounds):
    to_x, to_y = deform(anchors, u, v, mouth, brow)
    u, v = u + 0.8 * (x - to_x), v + 0.55 * (y - to_y)  # damped: an open mouth stretches the skin 2.5 times
  return np.stack([u, v], axis=-1).reshape(frames, count, 2)


def landmarks(anchors: Face, pose: Pose, mouth: np.ndarray, brow: np.ndarray, blink: np.ndarray) -> np.ndarray:
  """The 68 landmarks [f, 68, 2] in pixels of a 128-pixel frame; blink [f] is 0 open, 1 shut."""
  frames = len(mouth)
  still = np.repeat(anchors.landmarks[None], frames, 0)
  x, y = deform(anchors, still[..., 0], still[..., 1], mouth, brow)
  now = np.stack([x, y], axis=-1)
  for top, low in ((37, 41), (38, 40), (43, 47), (44, 46)):
    shut = still[:, low] + 0.15 * (still[:, top] - still[:, low])
    now[:, top] = still[:, top] + blink[:, None] * (shut - still[:, top])
  now[:, 36:37], now[:, 39:40], now[:, 42:43], now[:, 45:46] = (still[:, i : i + 1] for i in (36, 39, 42, 45))
  now[:, 40:42], now[:, 46:48] = still[:, 40:42], still[:, 46:48]
  now[:, 48:68] = _mouth_landmarks(*lips(anchors, mouth))
  return project(on_face(anchors, now), pose).astype(np.float32)


def _mouth_landmarks(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
  # 17 points along each lip: corners at 0 and 16, the middle at 8 (upper) and 24 (lower).
  outside = [0, 3, 6, 8, 10, 13, 16, 19, 22, 24, 26, 29]
  inside = [0, 5, 8, 11, 16, 21, 24, 27]
  return np.concatenate([outer[:, outside], inner[:, inside]], axis=1)


def _rotation(angles: np.ndarray) -> np.ndarray:
  yaw, pitch, roll = np.radians(np.moveaxis(np.asarray(angles, float), -1, 0))
  zero, one = np.zeros_like(yaw), np.ones_like(yaw)
  stack = lambda rows: np.stack([np.stack(r, -1) for r in rows], -2)  # noqa: E731
  turn = stack([[np.cos(yaw), zero, np.sin(yaw)], [zero, one, zero], [-np.sin(yaw), zero, np.cos(yaw)]])
  nod = stack([[one, zero, zero], [zero, np.cos(pitch), -np.sin(pitch)], [zero, np.sin(pitch), np.cos(pitch)]])
  tilt = stack([[np.cos(roll), -np.sin(roll), zero], [np.sin(roll), np.cos(roll), zero], [zero, zero, one]])
  return tilt @ turn @ nod


def _ring(x: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
  up = np.stack([x, upper], -1)
  down = np.stack([x, lower], -1)
  # Both lips share the corners, so that the contour is closed.
  up[:, [0, -1], 1] = down[:, [0, -1], 1] = (up[:, [0, -1], 1] + down[:, [0, -1], 1]) / 2
  return np.concatenate([up, down[:, -2:0:-1]], axis=1)


def _mirror(points: np.ndarray) -> np.ndarray:
  return points * (-1, 1)


def _smooth(t: np.ndarray) -> np.ndarray:
  t = np.clip(t, 0, 1)
  return t * t * (3 - 2 * t)

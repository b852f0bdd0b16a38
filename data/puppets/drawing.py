"""Renders clips: warps a person's textures by pose and expression, then draws eyes, mouth and glasses over them."""

import dataclasses
import functools

import cv2
import numpy as np

from talkjax.faces.puppets import MOUTH_INSIDE, TEETH, TONGUE

from . import backdrop, geometry, head
from .articulation import Motion
from .canvas import fixed, spline
from .geometry import Face, Pose
from .identities import Identity

SIZE = 128
_WORK = 256  # frames are composited at twice the size (work pixels), then downsampled
_STEP = 6  # work pixels between the nodes at which the warp is computed
_SPARE = 4  # margin of the grid of nodes on each side, work pixels
_BODY_TOP = 72  # work row above which there is neither body nor back hair
_SHIFT = 4  # fractional bits of coordinates in OpenCV
_EDGE = 0.5  # units by which OpenCV's antialiased polygons are too high: one work pixel


@dataclasses.dataclass(frozen=True)
class Puppet:
  """The textures of a person."""

  person: Identity
  anchors: Face
  head: np.ndarray  # uint8 RGBA on head.GRID, premultiplied
  body: np.ndarray  # uint8 RGBA on backdrop.BODY, premultiplied
  wall: np.ndarray  # uint8 [256, 256, 3]


@functools.lru_cache(maxsize=64)
def make_puppet(person: Identity) -> Puppet:
  """Paints a person's textures (about 0.1 s; cached for the last 64 people)."""
  anchors = geometry.face(person.shape)
  full = lambda image: np.round(image * 255).clip(0, 255).astype(np.uint8)  # noqa: E731
  return Puppet(
    person,
    anchors,
    full(head.paint(person, anchors)),
    full(backdrop.body(person, anchors)),
    full(backdrop.wall(person)),
  )


def draw(puppet: Puppet, motion: Motion) -> list[np.ndarray]:
  """Draws a clip: f frames, uint8 [128, 128, 3] RGB."""
  maps = _maps(puppet, motion)
  bodies = _body_transforms(motion.pose)
  eyes = _eyes(puppet, motion)
  mouths = _mouths(puppet, motion)
  glasses = _glasses(puppet, motion)
  frames = []
  for i in range(len(motion.mouth)):
    image = puppet.wall.copy()
    low = cv2.warpAffine(puppet.body, bodies[i], (_WORK, _WORK - _BODY_TOP), flags=cv2.INTER_LINEAR)
    image[_BODY_TOP:] = _composite(image[_BODY_TOP:], low)
    nodes = maps[i]
    full = nodes.shape[0] * _STEP
    dense = cv2.resize(nodes, (full, full), interpolation=cv2.INTER_LINEAR)
    dense = dense[_SPARE : _SPARE + _WORK, _SPARE : _SPARE + _WORK]
    image = _composite(image, cv2.remap(puppet.head, dense, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT))
    for side in range(2):
      _draw_eye(image, puppet.person, eyes, i, side)
    _draw_mouth(image, puppet.person, mouths, i)
    if glasses is not None:
      _draw_glasses(image, puppet.person, glasses[i])
    frames.append(cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
  return frames


def _composite(under: np.ndarray, over: np.ndarray) -> np.ndarray:
  """Premultiplied RGBA over RGB."""
  clear = cv2.cvtColor(255 - over[..., 3], cv2.COLOR_GRAY2RGB)
  return cv2.add(cv2.multiply(under, clear, scale=1 / 255), cv2.cvtColor(over, cv2.COLOR_RGBA2RGB))


def _maps(puppet: Puppet, motion: Motion) -> np.ndarray:
  """Texture coordinates in pixels at the nodes of a coarse grid, [f, n, n, 2] float32."""
  count = -(-(_WORK + 2 * _SPARE) // _STEP)
  at = ((np.arange(count) + 0.5) * _STEP - _SPARE) / 2  # in pixels of the frame, from its edge
  nodes = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)
  seen = geometry.inverse_grid(puppet.anchors, motion.pose, motion.mouth, motion.brow, nodes)
  texture = (seen - (head.GRID.left, head.GRID.top)) * head.GRID.density - 0.5
  return texture.reshape(-1, count, count, 2).astype(np.float32)


def _body_transforms(pose: Pose) -> np.ndarray:
  """Affine maps [f, 2, 3] from body texture to work pixels: the shoulders follow the head a little."""
  middle, scale = pose.centre.mean(0), float(pose.scale.mean())
  centre = middle + 0.45 * (pose.centre - middle)
  centre[:, 0] += 0.05 * pose.angles[:, 2]
  g = backdrop.BODY
  out = np.zeros((len(centre), 2, 3), np.float32)
  out[:, 0, 0] = out[:, 1, 1] = 2 * scale / g.density
  corner = 2 * (centre + np.array([g.left, g.top]) * scale)
  out[:, :, 2] = corner + 0.5 * (2 * scale / g.density) - 0.5
  out[:, 1, 2] -= _BODY_TOP
  return out


def _work(anchors: Face, points: np.ndarray, pose: Pose, raised: float = 0.0) -> np.ndarray:
  """Canonical points [f, n, 2] on the face -> work pixels [f, n, 2]."""
  return geometry.project(geometry.on_face(anchors, points, raised), pose) * 2 - 0.5


def _eyes(puppet: Puppet, motion: Motion) -> dict[str, np.ndarray]:
  anchors, frames = puppet.anchors, len(motion.mouth)
  sets = {'upper': [], 'lower': [], 'iris': []}
  for first in (36, 42):
    p = anchors.landmarks[first : first + 6]
    upper = spline([p[0], p[1] + (0, 0.1), p[2] + (0, 0.1), p[3]], False, 5)
    lower = spline([p[0], p[5], p[4], p[3]], False, 5)
    shut = lower - 0.10 * (lower - upper)
    lid = upper + motion.blink[:, None, None] * (shut - upper)
    sets['upper'].append(lid)
    sets['lower'].append(np.repeat(lower[None], frames, 0))
    size = anchors.shape.eye_size
    middle = (upper.mean(0) + lower.mean(0)) / 2 + (0, -0.25)
    sets['iris'].append((middle + motion.gaze * (2.6 * size, 1.3 * size))[:, None])
  return {
    **{k: np.stack([_work(anchors, v, motion.pose) for v in sides], axis=1) for k, sides in sets.items()},
    'radius': 3.15 * anchors.shape.eye_size * motion.pose.scale * 2,
    'blink': motion.blink,
  }


def _roi(image: np.ndarray, points: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
  """A view of the image around some points, and the position of its corner."""
  low = np.clip(np.floor(points.min(0)).astype(int) - margin, 0, _WORK - 2)
  high = np.clip(np.ceil(points.max(0)).astype(int) + margin, low + 2, _WORK)
  return image[low[1] : high[1], low[0] : high[0]], low


def _blend(roi: np.ndarray, layer: np.ndarray, mask: np.ndarray):
  m = mask[..., None].astype(np.uint16)
  roi[:] = ((layer * m + roi * (255 - m) + 127) // 255).astype(np.uint8)


def _tone(color, factor: float = 1.0) -> tuple[int, int, int]:
  return tuple(int(np.clip(c * factor, 0, 255)) for c in color)


def _draw_eye(image: np.ndarray, person: Identity, eyes: dict, i: int, side: int):
  upper, lower = eyes['upper'][i, side], eyes['lower'][i, side]
  ring = np.concatenate([upper, lower[::-1]])
  roi, corner = _roi(image, ring, 7)
  upper, lower, ring = upper - corner, lower - corner, ring - corner
  radius = float(eyes['radius'][i])
  blink = float(eyes['blink'][i])
  skin = np.array(person.skin)
  if blink < 0.93:
    layer = np.empty_like(roi)
    layer[:] = _tone((240, 235, 230), 0.86 + 0.14 * skin[0] / 250)
    # Shadow of the lid on the eyeball, and a pink corner.
    cv2.polylines(layer, [fixed(upper)], False, (196, 186, 186), 5, cv2.LINE_AA, _SHIFT)
    inner = ring[len(upper) - 1]
    cv2.circle(layer, fixed(inner), round(1.6 * 16), (214, 160, 152), -1, cv2.LINE_AA, _SHIFT)
    middle = eyes['iris'][i, side, 0] - corner
    at = fixed(middle)
    cv2.circle(layer, at, round(radius * 16), _tone(person.eyes, 0.52), -1, cv2.LINE_AA, _SHIFT)
    cv2.circle(layer, at, round(radius * 0.82 * 16), _tone(person.eyes, 0.92), -1, cv2.LINE_AA, _SHIFT)
    glow = cv2.RotatedRect((float(middle[0]), float(middle[1]) + 0.4 * radius), (radius * 1.05, radius * 0.62), 0)
    cv2.ellipse(layer, glow, _tone(np.array(person.eyes) * 0.7 + 70), -1, cv2.LINE_AA)
    cv2.circle(layer, at, round(radius * 0.46 * 16), (18, 14, 14), -1, cv2.LINE_AA, _SHIFT)
    layer = cv2.GaussianBlur(layer, (3, 3), 0)
    spark = fixed(middle + radius * np.array([0.36 * np.sign(person.light[0]), -0.40]))
    cv2.circle(layer, spark, round(radius * 0.26 * 16), (255, 255, 255), -1, cv2.LINE_AA, _SHIFT)
    mask = np.zeros(roi.shape[:2], np.uint8)
    cv2.fillPoly(mask, [fixed(ring)], 255, cv2.LINE_AA, _SHIFT)
    _blend(roi, layer, mask)
  # Lids: a soft line below, lashes above.
  rim = _tone(skin * (0.66, 0.50, 0.46))
  cv2.polylines(roi, [fixed(lower)], False, rim, 1, cv2.LINE_AA, _SHIFT)
  dark = (34, 24, 24) if person.makeup or skin[0] < 180 else (58, 40, 36)
  cv2.polylines(roi, [fixed(upper)], False, dark, 2, cv2.LINE_AA, _SHIFT)
  if person.makeup:
    cv2.polylines(roi, [fixed(upper + (0, -0.8))], False, dark, 2, cv2.LINE_AA, _SHIFT)
    outer = upper[0] if side == 0 else upper[-1]
    way = -1 if side == 0 else 1
    wing = np.array([outer, outer + (way * (1.6 + 2.2 * person.makeup), -1.0 - 1.6 * person.makeup * (1 - blink))])
    cv2.polylines(roi, [fixed(wing)], False, dark, 2, cv2.LINE_AA, _SHIFT)


def _mouths(puppet: Puppet, motion: Motion) -> dict[str, np.ndarray]:
  anchors, mouth = puppet.anchors, motion.mouth
  outer, inner = geometry.lips(anchors, mouth)
  n = outer.shape[1] // 2 + 1
  gap = geometry.opening(mouth)
  teeth, tongue = mouth[:, 4], mouth[:, 5]
  upper_in = inner[:, :n]
  lower_in = np.concatenate([inner[:, :1], inner[:, : n - 2 : -1]], axis=1)
  # Upper teeth appear as the mouth opens, and fill it in sounds anchors with the teeth.
  shown = gap * (0.26 * np.clip((gap - 1) / 5, 0, 1) + 0.66 * np.clip(teeth * 1.5 - mouth[:, 0] * 2.0, 0, 1))
  edge = upper_in + _share(shown, gap) * (lower_in - upper_in)
  # The tongue rests at the bottom or rises to the teeth.
  raised = gap * (0.14 * np.clip((gap - 3) / 4, 0, 1) + 0.46 * tongue)
  arch = np.sin(np.linspace(0, np.pi, n))[None, :, None] ** 0.5
  top = lower_in + _share(raised, gap) * arch * (upper_in - lower_in)
  k = slice(3, n - 3)
  mid_low = (lower_in + np.concatenate([outer[:, :1], outer[:, : n - 2 : -1]], axis=1)) / 2
  sets = {
    'outer': outer,
    'inner': inner,
    'upper': np.concatenate([outer[:, :n], inner[:, n - 1 :: -1]], axis=1),
    'teeth': np.concatenate([upper_in[:, 2:-2], edge[:, -3:1:-1]], axis=1),
    'tongue': np.concatenate([top[:, k], lower_in[:, k][:, ::-1]], axis=1),
    'shine': mid_low[:, 5 : n - 5],
    'line': inner[:, :n],
  }
  points = {name: _work(anchors, p, motion.pose, 1.2) for name, p in sets.items()}
  faint = lambda height: np.clip(height / _EDGE, 0, 1)  # noqa: E731
  return {**points, 'gap': gap, 'bare': faint(shown), 'up': faint(raised)}


def _share(height: np.ndarray, gap: np.ndarray) -> np.ndarray:
  """Fraction [f, 1, 1] of the opening for a polygon that appears `height` units high, including its soft edge."""
  return (np.maximum(height - _EDGE, 0) / np.maximum(gap, 0.1))[:, None, None]


def _draw_mouth(image: np.ndarray, person: Identity, mouths: dict, i: int):
  at = {k: v[i] for k, v in mouths.items()}
  roi, corner = _roi(image, at['outer'], 6)
  at = {k: v - corner if v.ndim else v for k, v in at.items()}
  lips = np.array(person.lips)
  # 1. Lips: the upper one turns away from the light, the lower one shines.
  layer = np.empty_like(roi)
  layer[:] = _tone(lips)
  cv2.fillPoly(layer, [fixed(at['upper'])], _tone(lips * (0.86, 0.80, 0.80)), cv2.LINE_AA, _SHIFT)
  shine = _tone(lips + (255 - lips) * (0.22 + 0.16 * (person.makeup > 0.5)))
  cv2.polylines(layer, [fixed(at['shine'])], False, shine, 3, cv2.LINE_AA, _SHIFT)
  layer = cv2.GaussianBlur(layer, (5, 5), 0)
  mask = np.zeros(roi.shape[:2], np.uint8)
  cv2.fillPoly(mask, [fixed(at['outer'])], 255, cv2.LINE_AA, _SHIFT)
  mask = cv2.GaussianBlur(mask, (5, 5), 0)
  if person.gender == 'male':
    mask = (mask * np.float32(0.86)).astype(np.uint8)
  _blend(roi, layer, mask)
  # 2. The line between the lips, darker in the corners.
  line = _tone(lips * (0.50, 0.42, 0.42))
  cv2.polylines(roi, [fixed(at['line'])], False, line, 2, cv2.LINE_AA, _SHIFT)
  if at['gap'] <= 0:
    return
  # 3. The inside.
  layer = np.empty_like(roi)
  layer[:] = MOUTH_INSIDE
  for part, strength, color in (('tongue', at['up'], TONGUE), ('teeth', at['bare'], TEETH)):
    if strength > 0:
      tone = strength * np.array(color) + (1 - strength) * np.array(MOUTH_INSIDE)
      cv2.fillPoly(layer, [fixed(at[part])], _tone(tone), cv2.LINE_AA, _SHIFT)
  layer = cv2.GaussianBlur(layer, (3, 3), 0)
  mask = np.zeros(roi.shape[:2], np.uint8)
  cv2.fillPoly(mask, [fixed(at['inner'])], 255, cv2.LINE_AA, _SHIFT)
  _blend(roi, layer, mask)


def _glasses(puppet: Puppet, motion: Motion) -> np.ndarray | None:
  kind = puppet.person.glasses
  if not kind:
    return None
  anchors = puppet.anchors
  x, y = anchors.eye
  angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
  power = {'round': 1.0, 'square': 0.55, 'thin': 0.7}[kind]
  wide, high = {'round': (9.4, 8.6), 'square': (10.2, 7.4), 'thin': (10.0, 7.0)}[kind]
  bend = lambda v: np.sign(v) * np.abs(v) ** power  # noqa: E731
  lens = np.stack([x + wide * bend(np.cos(angle)), y + 1.4 + high * bend(np.sin(angle))], axis=-1)
  w = anchors.shape.width
  bridge = np.array([(x - wide, y - 0.4), (0, y - 2.2), (wide - x, y - 0.4)])
  arm = np.array([(x + wide, y - 1.2), (29.0 * w, y - 2.0)])
  points = np.concatenate([lens, lens * (-1, 1), spline(bridge, False, 4), arm, arm * (-1, 1)])
  flat = geometry.on_face(anchors, points)
  level = float(geometry.depth(anchors, np.array(x), np.array(y)))
  flat[:57, 2] = level + 3.5 - 0.05 * (np.abs(points[:57, 0]) - x)
  flat[[57, 59], 2], flat[[58, 60], 2] = level + 2.5, level - 12
  return geometry.project(np.repeat(flat[None], len(motion.mouth), 0), motion.pose) * 2 - 0.5


def _draw_glasses(image: np.ndarray, person: Identity, points: np.ndarray):
  color = person.glasses_color
  thick = 1 if person.glasses == 'thin' else 2
  lenses = [fixed(points[:24]), fixed(points[24:48])]
  lines = [fixed(points[48:57]), fixed(points[57:59]), fixed(points[59:61])]
  cv2.polylines(image, lenses, True, color, thick, cv2.LINE_AA, _SHIFT)
  cv2.polylines(image, lines, False, color, thick, cv2.LINE_AA, _SHIFT)

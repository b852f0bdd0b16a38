"""The static part of a head, painted once per person: skin, nose, ears, brows and beard as one RGBA texture."""

import cv2
import numpy as np

from . import hair
from .canvas import Grid, light, noise, over, rgb, smooth, spline
from .geometry import Face
from .identities import Identity

GRID = Grid(left=-54, top=-72, width=108, height=146, density=2.5)


def outline(anchors: Face) -> np.ndarray:
  """Closed contour [n, 2] of the face and skull."""
  left = anchors.landmarks[:9]
  w = anchors.shape.width
  skull = [(-29.4 * w, -19), (-28.2 * w, -30), (-24.5 * w, -41), (-17 * w, -50), (-7 * w, -54.5)]
  half = np.concatenate([np.array(skull[::-1]), left[:8]])
  return spline(np.concatenate([half, left[8:9], half[::-1] * (-1, 1)]))


def paint(person: Identity, anchors: Face) -> np.ndarray:
  """The head texture, RGBA float32 [h, w, 4] in 0 to 1, colour premultiplied by alpha, on GRID."""
  rng = np.random.default_rng([person.number, 2])
  contour = outline(anchors)
  face = GRID.fill(contour)
  relief = _relief(anchors, face)
  shade = light(relief, GRID.density, person.light)
  color = _skin(person, anchors, shade, rng)
  color, ears = _ears(person, anchors, color)
  color = _features(person, anchors, color, shade)
  color = _brows(person, anchors, color, rng)
  alpha = np.maximum(face, ears * (1 - face))
  if person.beard:
    color = hair.beard(GRID, person, anchors, color, face, rng)
  color, alpha = hair.front(GRID, person, anchors, color, alpha, contour, rng)
  return np.dstack([np.clip(color, 0, 1) * alpha[..., None], alpha]).astype(np.float32)


def _relief(anchors: Face, face: np.ndarray) -> np.ndarray:
  """Height of the face in units [h, w]."""
  g, s = GRID, anchors.shape
  x, y = g.xy
  inside = cv2.distanceTransform((face > 0.5).astype(np.uint8), cv2.DIST_L2, 5) / g.density
  rim = 1 - np.clip(inside / 22, 0, 1)
  height = 13 * np.sqrt(np.clip(1 - rim**2.2, 0, 1)) + 12 * (1 - (x / 36) ** 2 - ((y + 8) / 60) ** 2)
  ex, ey = anchors.eye
  tip = anchors.nose[1] - 4.6
  height += 1.5 * g.pair(ex, ey - 8.4, 9.5, 3.4, 0.05)
  height -= 3.4 * g.pair(ex - 0.8, ey - 0.8, 7.2, 4.8)
  height -= 1.2 * g.pair(4.6, ey - 2.6, 3.0, 4.0)
  height += 2.2 * g.pair(ex, ey, 5.2, 3.6)
  height += 2.2 * g.pair(17.5, 2.5, 8.5, 7.0, -0.2)
  bridge = np.where(y < tip, np.clip((y + 16) / (tip + 16), 0, 1) ** 1.2, np.exp(-(((y - tip) / 3.0) ** 2)))
  height += 3.9 * s.nose_depth * bridge * np.exp(-((x / (3.7 * s.nose_width)) ** 2))
  height += 2.8 * g.bump(0, tip + 0.8, 3.9 * s.nose_width, 3.6)
  height += 2.3 * g.pair(4.9 * s.nose_width, tip + 2.4, 2.0, 2.0)
  mouth = anchors.mouth[1]
  height += 1.8 * g.bump(0, mouth - 1, 12, 7.5)
  height -= 0.6 * g.bump(0, mouth - 6.5, 1.2, 2.6)
  height += 2.2 * g.bump(0, anchors.chin - 5.5, 6.5, 4.4)
  height -= 1.5 * g.bump(0, mouth + 7.8, 7.5, 1.9)
  return cv2.GaussianBlur(height.astype(np.float32), (0, 0), 0.9 * g.density)


def tones(person: Identity, shade: np.ndarray) -> np.ndarray:
  """Skin colour [h, w, 3] for shading [h, w]: warm in shadows, slightly shiny where it faces the light."""
  base = rgb(person.skin)
  # Shading 0.72 gives the base colour of the skin.
  dark = smooth((0.80 - shade) / 0.75)[..., None]
  color = base * (1 - dark) + base * np.float32((0.56, 0.42, 0.38)) * dark
  bright = smooth((shade - 0.80) / 0.24)[..., None]
  return color + bright * (0.30 * (np.float32((1.0, 0.965, 0.91)) - color))


def _skin(person: Identity, anchors: Face, shade: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  g = GRID
  color = tones(person, shade)
  # Cheeks, nose and chin are redder, eye sockets browner.
  warmth = (
    0.62 * g.pair(17, 6.5, 7.5, 6.0)
    + 0.45 * g.bump(0, anchors.nose[1] - 4, 5.5, 4.5)
    + 0.22 * g.bump(0, anchors.chin - 6, 7, 5)
  )
  color = color * (1 - warmth[..., None] * np.float32((0.02, 0.15, 0.13)))
  socket = (
    g.pair(anchors.eye[0] - 0.5, anchors.eye[1] - 1.0, 8.0, 5.2) * 0.16
    + g.pair(anchors.eye[0] - 1, anchors.eye[1] + 5.4, 5.5, 1.8) * 0.10
  )
  color = color * (1 - socket[..., None] * np.float32((0.7, 1.0, 0.95)))
  grain = noise(rng, g.size, (3, 3)) * 0.008 + noise(rng, g.size, (14, 14)) * 0.010
  color = color * (1 + grain[..., None])
  spots = []
  if person.freckles:
    for _ in range(60):
      spots.append((rng.normal(0, 12), rng.normal(1.5, 4.5), rng.uniform(0.35, 0.65), rng.uniform(0.25, 0.6)))
  if person.mole:
    spots.append((rng.choice([-1, 1]) * rng.uniform(9, 17), rng.uniform(8, 15), 0.75, 0.9))
  for x, y, radius, strength in spots:
    color = over(color, g.bump(x, y, radius, radius) * strength, rgb(person.skin) * (0.62, 0.44, 0.36))
  return color


def _ears(person: Identity, anchors: Face, color: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  g, w = GRID, anchors.shape.width
  ear = np.array(
    [(27.5, -14), (30.6, -17.5), (34.4, -15.8), (35.2, -10), (33.4, -3.5), (31.4, 3.4), (28.6, 4.6), (27, 0)]
  )
  shell = np.array([(29.8, -12.5), (31.6, -14.2), (33.2, -11.6), (32.4, -6.5), (30.8, -2.2), (29.4, -3.5)])
  both = [spline(p * (w, 1) * (side, 1)) for p in (ear,) for side in (-1, 1)]
  inner = [spline(p * (w, 1) * (side, 1)) for p in (shell,) for side in (-1, 1)]
  mask = g.fill(*both)
  x, _ = g.xy
  lit = 0.74 - 0.20 * smooth((np.abs(x) - 30 * w) / 6) + 0.10 * person.light[0] * np.sign(x)
  ears = tones(person, lit.astype(np.float32)) * np.float32((1.0, 0.90, 0.88))
  ears = over(ears, g.fill(*inner, blur=0.6) * 0.45, rgb(person.skin) * (0.62, 0.42, 0.36))
  face = g.fill(outline(anchors))
  color = over(ears, face, color)
  if person.earrings:
    for side in (-1, 1):
      drop = g.bump(side * 31.0 * w, 6.2, 1.5, 1.7) > 0.38
      mask = np.maximum(mask, cv2.GaussianBlur(drop.astype(np.float32), (0, 0), 0.8))
      color = over(color, cv2.GaussianBlur(drop.astype(np.float32), (0, 0), 0.8), (0.93, 0.78, 0.42))
      color = over(color, g.bump(side * 31.0 * w - 0.4, 5.7, 0.6, 0.6), (1.0, 0.96, 0.80))
  return color, mask


def _features(person: Identity, anchors: Face, color: np.ndarray, shade: np.ndarray) -> np.ndarray:
  g, s = GRID, anchors.shape
  tip = anchors.nose[1]
  skin = rgb(person.skin)
  dark, deep = skin * (0.55, 0.38, 0.33), skin * (0.30, 0.17, 0.15)
  # Under the nose, beside it, and the nostrils.
  color = over(color, 0.42 * g.bump(1.6 * -person.light[0], tip + 0.6, 6.2 * s.nose_width, 1.9), dark)
  side = -np.sign(person.light[0])
  color = over(color, 0.20 * g.bump(side * 4.9 * s.nose_width, tip - 8.0, 2.6, 7.5), dark)
  for k in (-1, 1):
    wing = spline(
      [(k * 5.6 * s.nose_width, tip - 5.0), (k * 6.9 * s.nose_width, tip - 2.6), (k * 6.0 * s.nose_width, tip - 0.9)],
      False,
    )
    color = over(color, 0.55 * g.stroke([wing], 0.8, 0.45), dark)
    hole = spline(
      [
        (k * 1.7, tip - 0.6),
        (k * 3.2 * s.nose_width, tip - 1.7),
        (k * 4.6 * s.nose_width, tip - 1.0),
        (k * 3.0 * s.nose_width, tip - 0.1),
      ]
    )
    color = over(color, 0.85 * g.fill(hole, blur=0.35), deep)
  # A highlight on the tip and along the bridge.
  color = over(color, 0.30 * g.bump(0.9 * person.light[0], tip - 5.6, 1.7, 1.5) * (shade > 0), (1, 0.97, 0.92))
  color = over(color, 0.08 * g.bump(0.6 * person.light[0], tip - 13, 1.3, 6.0), (1, 0.97, 0.92))
  # Folds from nose to mouth, and wrinkles.
  mouth = anchors.mouth[1]
  half = anchors.mouth_half
  for k in (-1, 1):
    fold = spline(
      [
        (k * 7.2, tip - 2.5),
        (k * (half + 0.2), tip + 4.0),
        (k * (half + 3.2), mouth - 1.5),
        (k * (half + 3.4), mouth + 2),
      ],
      False,
    )
    color = over(color, (0.16 + 0.34 * person.wrinkles) * g.stroke([fold], 0.9, 0.8), dark)
    if person.wrinkles > 0.4:
      ex, ey = anchors.eye
      bag = spline([(k * (ex - 5), ey + 4.2), (k * ex, ey + 6.2), (k * (ex + 5.2), ey + 4.6)], False)
      feet = [np.array([(k * (ex + 7.4), ey + i), (k * (ex + 10.5), ey + 1.9 * i - 0.6)]) for i in (-1.5, 0.4, 2.2)]
      color = over(color, 0.30 * person.wrinkles * g.stroke([bag, *feet], 0.5, 0.35), dark)
  if person.wrinkles > 0.4:
    lines = [spline([(-13, y), (-5, y - 1.2), (5, y - 1.2), (13, y)], False) for y in (-29.5, -33.5)]
    color = over(color, 0.26 * person.wrinkles * g.stroke(lines, 0.5, 0.5), dark)
  # Under the lower lip, and the upper lid's crease.
  color = over(color, 0.26 * g.bump(0, mouth + 7.0 + 0.5 * s.lower_lip, 6.4, 1.5), dark)
  eye = anchors.landmarks[36:42]
  crease = np.array([eye[0] + (0.2, -1.4), eye[1] + (-0.2, -2.3), eye[2] + (0.2, -2.3), eye[3] + (-0.4, -2.0)])
  both = [spline(crease * (k, 1), False) for k in (-1, 1)]
  color = over(color, 0.52 * g.stroke(both, 0.6, 0.35), dark)
  if person.makeup > 0.55:
    lid = np.concatenate([spline(crease, False), spline(eye[[3, 2, 1, 0]], False)])
    tint = skin * 0.45 + np.float32((0.42, 0.26, 0.30)) * 0.5
    color = over(color, 0.55 * person.makeup * g.fill(lid, lid * (-1, 1), blur=0.7), tint)
  return color


def _brows(person: Identity, anchors: Face, color: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  g = GRID
  base = rgb(person.hair)
  if person.hair_style == 'scarf' or base.mean() > 0.62:
    base = base * 0.62
  tone = base * 0.78
  strokes, body = [], []
  for side in (anchors.landmarks[17:22], anchors.landmarks[22:27][::-1]):
    ridge = spline(side, False, 8)
    k = np.sign(ridge[-1, 0] - ridge[0, 0])  # towards the nose
    t = np.linspace(0, 1, len(ridge))  # 0 at the temple
    thick = person.brow * 2.5 * (0.22 + 0.78 * smooth(t * 1.7)) * (1 - 0.25 * smooth((t - 0.75) * 4))
    top, low = ridge - np.c_[0 * t, thick * 0.5], ridge + np.c_[0 * t, thick * 0.5]
    body.append(np.concatenate([top, low[::-1]]))
    for i in np.linspace(1, len(ridge) - 2, int(34 * person.brow)).astype(int):
      root = ridge[i] + (rng.normal(0, 0.3), rng.uniform(-0.1, 0.62) * thick[i])
      lean = np.array([-k * (0.55 + 0.9 * (1 - t[i])), -1.1 * (0.25 + t[i])])
      strokes.append(np.array([root, root + lean * rng.uniform(0.9, 1.6)]))
  color = over(color, 0.60 * g.fill(*body, blur=0.55), tone)
  return over(color, 0.55 * np.clip(g.stroke(strokes, 0.4), 0, 1), tone * 0.8)


def neck_half(person: Identity, anchors: Face) -> float:
  """Half the width of the neck in units."""
  return (15.2 if person.gender == 'male' else 12.2) * (0.4 + 0.6 * anchors.shape.width)

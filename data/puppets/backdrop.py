"""Background, neck and shoulders, painted once per person."""

import cv2
import numpy as np

from . import hair, head
from .canvas import Grid, light, noise, over, rgb, smooth, spline
from .geometry import Face
from .identities import Identity

DENSITY = 2.0  # pixels per unit, the resolution at which frames are composited
WALL = Grid(left=-64, top=-64, width=128, height=128, density=DENSITY)
BODY = Grid(left=-76, top=-30, width=152, height=108, density=DENSITY)


def wall(person: Identity) -> np.ndarray:
  """The background, RGB float32 [256, 256, 3] in 0 to 1."""
  rng = np.random.default_rng([person.number, 3])
  g = WALL
  x, y = g.xy
  base = rgb(person.wall)
  color = np.broadcast_to(base, (*g.size, 3)).astype(np.float32)
  pale, deep = base + (1 - base) * 0.35, base * 0.84
  match person.wall_pattern:
    case 'stripes':
      color = over(color, smooth((np.sin(x * 2 * np.pi / 16) + 0.12) / 0.24) * 0.45, deep)
    case 'dots':
      row = np.floor(y / 11)
      dx, dy = (x + 5.5 * (row % 2)) % 11 - 5.5, y % 11 - 5.5
      color = over(color, smooth((2.3 - np.hypot(dx, dy)) / 0.8) * 0.55, pale)
    case 'diamonds':
      d = np.abs((x + y) % 18 - 9) * np.abs((x - y) % 18 - 9)
      color = over(color, smooth((5.5 - d) / 4) * 0.45, pale)
    case 'panels':
      for left in (-60, -18, 24):
        box = np.array([(left, -52), (left + 34, -52), (left + 34, 80), (left, 80), (left, -52)])
        color = over(color, 0.35 * g.stroke([box], 1.2, 0.3), deep * 0.9)
        color = over(color, 0.35 * g.stroke([box + 1.1], 0.8, 0.3), pale)
    case 'window':
      side = -1 if person.light[0] < 0 else 1
      sky = np.float32((0.80, 0.90, 0.98)) * (0.92 + 0.08 * smooth((20 - y) / 80))[..., None]
      frame = np.array([(18, -58), (58, -58), (58, 14), (18, 14)]) * (side, 1)
      color = over(color, g.fill(frame * 1.0, blur=0.4), rgb((246, 242, 234)))
      for a, b in ((21, 37), (39.5, 55)):
        for c, d in ((-55, -23), (-20.5, 11)):
          pane = np.array([(a, c), (b, c), (b, d), (a, d)]) * (side, 1)
          color = over(color, g.fill(pane, blur=0.3), sky)
      hills = np.array([(21, 11), (21, 2), (30, -3), (40, 1), (48, -4), (55, 0), (55, 11)]) * (side, 1)
      color = over(
        color,
        0.8
        * g.fill(spline(hills), blur=1.2)
        * g.fill(np.array([(21, -55), (55, -55), (55, 11), (21, 11)]) * (side, 1)),
        rgb((150, 186, 140)),
      )
      color = over(
        color,
        g.stroke(
          [np.array([(38.2, -56), (38.2, 12)]) * (side, 1), np.array([(20, -21.8), (56, -21.8)]) * (side, 1)], 2.2
        ),
        rgb((246, 242, 234)),
      )
    case 'shelf':
      for level in (-28, 10):
        board = np.array([(-70, level), (70, level), (70, level + 3), (-70, level + 3)])
        at = -66.0
        while at < 66:
          width, tall = rng.uniform(4, 8), rng.uniform(14, 24)
          book = np.array([(at, level - tall), (at + width, level - tall), (at + width, level), (at, level)])
          if rng.random() < 0.85:
            tone = np.array(
              [(0.66, 0.36, 0.32), (0.34, 0.48, 0.56), (0.78, 0.66, 0.44), (0.42, 0.54, 0.42), (0.86, 0.82, 0.74)][
                int(rng.integers(5))
              ]
            )
            color = over(color, 0.75 * g.fill(book, blur=0.3), tone * 0.7 + base * 0.3)
            color = over(
              color,
              0.4
              * g.fill(
                book * (1, 0) + np.array([(0, level - tall * 0.8)] * 2 + [(0, level - tall * 0.7)] * 2), blur=0.2
              ),
              pale,
            )
          at += width + 0.6
        color = over(color, g.fill(board, blur=0.3), base * (0.62, 0.54, 0.46))
      color = cv2.GaussianBlur(color, (0, 0), 2.2)
    case 'bokeh':
      color = color * 0.62
      for _ in range(22):
        spot = smooth((rng.uniform(5, 11) - np.hypot(x - rng.uniform(-64, 64), y - rng.uniform(-64, 40))) / 1.6)
        tone = np.array([(1.0, 0.88, 0.62), (1.0, 0.76, 0.60), (0.78, 0.90, 1.0)][int(rng.integers(3))])
        color = over(color, spot * rng.uniform(0.10, 0.32), tone)
    case 'plant':
      for side, count in ((-1, 7), (1, 5)):
        for _ in range(count):
          root = np.array([side * rng.uniform(46, 60), 66.0])
          lean, tall = rng.uniform(-0.3, 0.3), rng.uniform(40, 84)
          tip = root + (lean * tall, -tall)
          wide = rng.uniform(4, 7)
          leaf = spline([root, (root + tip) / 2 + (-wide, 0), tip, (root + tip) / 2 + (wide, 0)])
          green = np.float32((0.36, 0.52, 0.34)) * rng.uniform(0.75, 1.2)
          color = over(color, 0.80 * g.fill(leaf, blur=0.4), green)
          color = over(color, 0.35 * g.stroke([np.array([root, tip])], 0.6, 0.3), green * 1.3)
      color = cv2.GaussianBlur(color, (0, 0), 1.6)
  glow = smooth(0.62 + 0.006 * (x * person.light[0] * 1.3 + y * person.light[1]) * 1.2 - (np.hypot(x, y) / 190) ** 2)
  color = color * (0.80 + 0.24 * glow)[..., None] * np.float32((1.0, 0.995, 0.985))
  # The person's soft shadow on the wall.
  color = color * (1 - 0.16 * g.bump(-10 * person.light[0], 6, 48, 62)[..., None])
  return np.clip(color, 0, 1)


def body(person: Identity, anchors: Face) -> np.ndarray:
  """Neck, shoulders and hair behind them, RGBA float32 on BODY, colour premultiplied by alpha."""
  rng = np.random.default_rng([person.number, 4])
  g = BODY
  x, y = g.xy
  man = person.gender == 'male'
  half = head.neck_half(person, anchors)
  wide = 56 if man else 48
  slope = 52.5 if man else 55
  behind, behind_mask = hair.back(g, person, anchors)
  neck = spline(
    [
      (-half, -10),
      (-half, 30),
      (-half - 0.8, 42),
      (-half - 7, 52),
      (0, 74),
      (half + 7, 52),
      (half + 0.8, 42),
      (half, 30),
      (half, -10),
    ]
  )
  neck_mask = g.fill(neck)
  turned = np.clip(x / (half + 2), -1, 1)
  lit = 0.80 - 0.24 * turned**2 + 0.16 * turned * person.light[0]
  skin = head.tones(person, lit.astype(np.float32))
  # Shadow of the chin, and collar bones.
  skin = skin * (
    1 - 0.46 * (smooth((anchors.chin + 13 - y) / 13) * np.float32(1))[..., None] * np.float32((0.75, 1.0, 1.0))
  )
  bones = [spline([(k * 3, 57), (k * 9, 54.5), (k * 20, 53)], False) for k in (-1, 1)]
  skin = over(skin, 0.25 * g.stroke(bones, 1.0, 0.7), rgb(person.skin) * (0.6, 0.45, 0.4))
  color, alpha = behind, behind_mask
  color, alpha = over(color, neck_mask, skin), np.maximum(alpha, neck_mask)
  shoulders = _garment(person.garment, half, wide, slope)
  cloth_mask = g.fill(shoulders)
  inside = cv2.distanceTransform((cloth_mask > 0.5).astype(np.uint8), cv2.DIST_L2, 5) / g.density
  puff = 12 * np.sqrt(np.clip(1 - (1 - np.clip(inside / 20, 0, 1)) ** 2, 0, 1)) + 0.5 * noise(rng, g.size, (9, 14))
  shade = light(cv2.GaussianBlur(puff.astype(np.float32), (0, 0), 2), g.density, person.light)
  base = rgb(person.cloth)
  cloth = np.broadcast_to(base, (*g.size, 3)).astype(np.float32)
  if person.cloth_pattern == 'stripes':
    cloth = over(cloth, smooth((np.sin(y * 2 * np.pi / 7.0 + 0.0006 * x * x) + 0.15) / 0.3) * 0.7, base * 0.35 + 0.6)
  elif person.cloth_pattern == 'knit':
    cloth = cloth * (1 + 0.08 * np.sin(x * 2.3) * np.cos(y * 1.9 + np.abs(x % 2.73 - 1.36) * 2))[..., None]
  cloth = cloth * (0.58 + 0.50 * smooth(shade))[..., None]
  color, alpha = over(color, cloth_mask, cloth), np.maximum(alpha, cloth_mask)
  color = _collar(g, person, color, half, base)
  return np.dstack([np.clip(color, 0, 1) * alpha[..., None], alpha]).astype(np.float32)


def _garment(kind: str, half: float, wide: float, slope: float) -> np.ndarray:
  neck = {
    'crew': [(half + 6.5, slope - 6), (half - 1, slope + 2.5), (0, slope + 5.5)],
    'hoodie': [(half + 8, slope - 8), (half + 1, slope + 0), (0, slope + 6.5)],
    'vneck': [(half + 6, slope - 7), (half - 3, slope + 5), (0, slope + 20)],
    'turtleneck': [(half + 1.5, 33), (half * 0.6, 36.5), (0, 38)],
    'shirt': [(half + 4.5, slope - 11), (half - 3, slope + 2), (0, slope + 9)],
    'blazer': [(half + 6, slope - 8), (half - 4, slope + 6), (0, slope + 24)],
  }[kind]
  edge = [(half + 14, slope - 3.5), (wide - 8, slope + 5.5), (wide, slope + 14), (wide + 4, 90)]
  if kind == 'turtleneck':
    edge = [(half + 2.2, 42), (half + 7, slope - 5), *edge]
  right = np.array(neck[::-1] + edge, float)
  return np.concatenate([spline(right, False), spline(right * (-1, 1), False)[::-1]])


def _collar(g: Grid, person: Identity, color: np.ndarray, half: float, base: np.ndarray) -> np.ndarray:
  slope = 52.5 if person.gender == 'male' else 55
  pale = base * 0.4 + 0.58
  match person.garment:
    case 'crew':
      rim = spline(
        [
          (-half - 6, slope - 5.4),
          (-half + 1, slope + 3.2),
          (0, slope + 6.2),
          (half - 1, slope + 3.2),
          (half + 6, slope - 5.4),
        ],
        False,
      )
      return over(color, 0.75 * g.stroke([rim], 1.8, 0.25), base * 0.78)
    case 'vneck':
      rim = spline(
        [
          (-half - 5.6, slope - 6.4),
          (-half + 3, slope + 5.6),
          (0, slope + 21),
          (half - 3, slope + 5.6),
          (half + 5.6, slope - 6.4),
        ],
        False,
        6,
      )
      return over(color, 0.75 * g.stroke([rim], 1.6, 0.25), base * 0.78)
    case 'hoodie':
      for k in (-1, 1):
        hood = spline(
          [
            (k * (half + 1), slope - 10),
            (k * (half + 12), slope - 8),
            (k * (half + 10), slope + 4),
            (k * 6, slope + 13),
            (k * 2, slope + 9),
            (k * (half - 2), slope + 2),
          ]
        )
        color = over(color, g.fill(hood, blur=0.4), base * 0.86)
        color = over(color, 0.5 * g.stroke([hood], 0.8, 0.4), base * 0.6)
        cord = np.array([(k * 4.5, slope + 10), (k * 5.2, 90)])
        color = over(color, g.stroke([cord], 1.0), pale)
    case 'turtleneck':
      rim = spline([(-half - 1, 35), (0, 39.5), (half + 1, 35)], False)
      fold = spline([(-half - 2, 44), (0, 48), (half + 2, 44)], False)
      return over(color, 0.5 * g.stroke([rim, fold], 1.0, 0.5), base * 0.6)
    case 'shirt' | 'blazer':
      if person.garment == 'blazer':
        shirt = spline([(-half - 3, slope - 8), (0, slope + 26), (half + 3, slope - 8), (0, slope + 6)])
        vee = np.array(
          [
            (-half - 5, slope - 8),
            (-half + 2, slope + 5),
            (0, slope + 9),
            (half - 2, slope + 5),
            (half + 5, slope - 8),
            (10, 90),
            (-10, 90),
          ]
        )
        color = over(color, g.fill(vee, blur=0.3) * (1 - g.fill(shirt) * 0), rgb((236, 234, 230)) * (0.5 + 0.5 * pale))
      tone = rgb((240, 238, 234)) if person.garment == 'blazer' else base * 0.72 + 0.26
      for k in (-1, 1):
        wing = np.array(
          [
            (k * (half + 3), slope - 12),
            (k * (half + 7), slope - 5),
            (k * 7.5, slope + 12),
            (k * 1.0, slope + 8),
            (k * (half - 2), slope + 1),
          ]
        )
        color = over(color, g.fill(wing, blur=0.3), tone)
        color = over(color, 0.5 * g.stroke([wing[[1, 2, 3]]], 0.6, 0.3), tone * 0.6)
        if person.garment == 'blazer':
          lapel = np.array(
            [
              (k * (half + 8), slope - 6),
              (k * (half + 15), slope + 4),
              (k * 10, 82),
              (k * 4, 82),
              (k * (half - 1), slope + 8),
            ]
          )
          color = over(color, g.fill(lapel, blur=0.3), base * 0.82)
          color = over(color, 0.5 * g.stroke([lapel[1:4]], 0.6, 0.3), base * 0.5)
  return color

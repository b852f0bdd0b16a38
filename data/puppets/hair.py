"""Hair styles, scarves and beards, with strands along the direction of growth."""

import cv2
import numpy as np

from .canvas import Grid, light, mirrored, noise, over, rgb, smooth, spline

# Contours of the right half of the head (x > 0), mirrored unless a style gives both sides. Outer contours run from the
# lowest point up to the crown, inner ones (the hairline) from the lowest point up to the middle.
_CAP = [(31, -4), (32, -18), (31, -30), (27, -42), (19, -51), (9, -56), (0, -57.5)]
_HAIRLINE = [(28.4, -3), (27.4, -13), (26.2, -22), (23.6, -29.5), (19.5, -35), (11, -38.2), (0, -39)]
_CURTAIN = [(25.6, -12), (24.4, -20), (21, -28.5), (14.5, -35), (6, -39.5), (1.0, -43)]


def _raised(thickness: float, top: float | None = None) -> np.ndarray:
  top = thickness if top is None else top
  cap = np.array(_CAP, float)
  away = np.array([0.25, 0.6, 0.85, 1.0, 1.0, 0.7, 0.2])[:, None]
  up = np.array([0, 0, 0.1, 0.35, 0.7, 1.0, 1.1])[:, None]
  return cap + away * (thickness, 0) - up * (0, top)


def _contours(style: str) -> list[np.ndarray]:
  """Polygons [n, 2] of the front hair of a style."""
  closed = lambda outer, inner: spline(np.concatenate([mirrored(outer), mirrored(inner)[::-1]]), steps=8)  # noqa: E731
  sides = lambda outer, right, left: spline(  # noqa: E731
    np.concatenate([mirrored(outer), (np.array(left) * (-1, 1)), np.array(right)[::-1]]), steps=8
  )
  match style:
    case 'short':
      return [closed(_raised(2.4, 3.0), _HAIRLINE)]
    case 'buzz':
      return [closed(_raised(0.9), _HAIRLINE)]
    case 'parted':
      right = [(28.4, -2), (27.2, -13), (25.6, -22), (22.4, -27.5), (14, -31), (4, -35.5), (-6, -40), (-12, -45)]
      left = [(28.4, -2), (27.2, -13), (25.8, -22), (23.8, -30), (20, -36), (15.5, -41)]
      return [sides(_raised(3.4, 5.5), right, left)]
    case 'quiff':
      right = [(28.2, -3), (27.0, -14), (26.0, -23), (23.5, -31), (18, -36), (8, -35), (-4, -37)]
      left = [(28.2, -3), (27.0, -14), (26.0, -23), (23.5, -31), (19, -37), (12, -38)]
      tuft = spline(
        [
          (-19, -38),
          (-22, -48),
          (-17, -58),
          (-6, -65),
          (8, -67),
          (19, -62),
          (23, -53),
          (20, -42),
          (12, -35),
          (0, -36),
          (-10, -37),
        ]
      )
      return [sides(_raised(1.6, 4.0), right, left), tuft]
    case 'fringe':
      inner = [(28.4, 0), (27.2, -12), (25, -20), (21, -25.5), (14, -27.5), (7, -27), (0, -28.2)]
      return [closed(_raised(4.2, 5.0), inner)]
    case 'curly':
      inner = [(28.2, -6), (27.0, -15), (25.2, -22), (21.6, -28), (15, -32), (7, -32.5), (0, -33.5)]
      return [
        closed(_raised(4.5, 6.0), inner),
        *_blobs(_raised(4.5, 6.0), 4.6, 0.5),
        *_blobs(np.array(inner), 3.2, 0.55),
      ]
    case 'waves':
      outer = np.concatenate([[(31, 14), (36.5, 8), (37.5, -4)], _raised(5.0, 5.5)[1:]])
      inner = [(29, 13), (28.8, 2), (27.2, -10), *_CURTAIN[1:]]
      return [closed(outer, inner)]
    case 'bald':
      patch = spline([(30.2, -2), (32.6, -12), (32.4, -24), (30.0, -32), (27.4, -33), (28.4, -24), (28.6, -12)])
      return [patch, patch * (-1, 1)]
    case 'long' | 'wavy' | 'bangs' | 'bob':
      wide = {'long': 5.0, 'wavy': 7.0, 'bangs': 5.0, 'bob': 5.5}[style]
      top = _raised(wide, 5.2)
      if style == 'bob':
        lower = [(25.4, 27), (31, 30), (37.5, 27), (40.0, 16), (39.0, 0)]
        side = [(24.2, 26), (26.6, 16), (27.6, 2)]
      else:
        lower = [(23, 70), (33, 71), (41, 64), (43, 44), (42.0, 24), (40.0, 4)]
        side = [(21.5, 69), (22.8, 48), (25.4, 28), (28.0, 14), (27.8, 0)]
      if style == 'wavy':
        wave = lambda pts, a: [(x + a * np.sin(y * 0.26), y) for x, y in pts]  # noqa: E731
        lower = wave(
          [(24, 71), (34, 71), (43, 64), (44.5, 54), (45, 44), (44.5, 34), (44.0, 24), (43, 14), (41.0, 4)], 1.8
        )
        side = wave([(22.5, 69), (23.4, 58), (24.0, 48), (25, 38), (26.4, 28), (28.2, 14), (28.0, 0)], 1.2)
      outer = np.concatenate([lower, top[1:]])
      if style == 'bangs':
        inner = [*side, (26.2, -12), (24.2, -19.5), (19, -23.6), (12, -24.6), (6, -24.0), (0, -24.8)]
        return [closed(outer, inner)]
      if style == 'wavy':  # a parting off the middle
        right = [*side, (25.6, -10), (24.4, -20), (20, -29), (11, -36), (2, -40), (-7, -45)]
        left = [*side, (25.8, -12), (25, -21), (22.4, -31), (17, -39), (10, -45)]
        return [sides(outer, right, left)]
      return [closed(outer, [*side, *_CURTAIN])]
    case 'bun':
      knot = spline([(-10, -62), (-7, -71), (0, -73.5), (7, -71), (10, -62), (0, -56)])
      return [knot, closed(_raised(2.6, 3.0), [(28.4, -8), *_HAIRLINE[1:]])]
    case 'pony':
      right = [(28.4, -5), (27.2, -14), (25.4, -22), (21, -29), (12, -35), (2, -38.5), (-8, -42)]
      left = [(28.4, -5), (27.4, -14), (26.0, -23), (23, -31), (18, -38), (12, -42)]
      return [sides(_raised(2.8, 3.6), right, left)]
    case 'pixie':
      right = [(28.8, 1), (27.4, -9), (26.0, -17), (22, -23), (14, -26), (5, -29.5), (-4, -34), (-12, -40)]
      left = [(28.8, 1), (27.4, -9), (26.0, -19), (23.8, -28), (19, -36), (15, -41)]
      return [sides(_raised(4.0, 5.0), right, left)]
    case 'curls':
      outer = np.concatenate([[(31, 14), (40, 12), (44, 0)], _raised(13, 8.5)[1:]])
      inner = [(29, 12), (28.4, 0), (27, -12), (24.6, -21), (20.5, -28), (12, -32.5), (0, -34)]
      return [closed(outer, inner), *_blobs(outer, 5.2, 0.35), *_blobs(np.array(inner), 2.8, 0.5)]
    case 'scarf':
      outer = [
        (46, 71),
        (38, 50),
        (33.5, 34),
        (35.4, 16),
        (36.6, -4),
        (36.0, -22),
        (32, -38),
        (23, -51),
        (11, -58.5),
        (0, -60.5),
      ]
      inner = [
        (2, 43.5),
        (13, 38.5),
        (21.5, 29),
        (25.6, 15),
        (27.0, 0),
        (26.2, -14),
        (23.4, -25),
        (17, -33),
        (9, -36.5),
        (0, -37.5),
      ]
      return [spline(mirrored(outer)), spline(mirrored(inner))]  # the second is the opening
  raise ValueError(style)


def _blobs(line: np.ndarray, radius: float, spread: float) -> list[np.ndarray]:
  """Circles along a contour and its mirror image: the edge of curly hair."""
  path = spline(line, False, 10)
  along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
  at = np.arange(0, along[-1], radius * 1.25)
  angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
  circles = []
  for i, distance in enumerate(at):
    middle = [np.interp(distance, along, path[:, k]) for k in (0, 1)]
    size = radius * (1 + spread * (((i * 7) % 5) / 4 - 0.5))
    circles += [np.c_[np.cos(angle), np.sin(angle)] * size + np.array(middle) * (k, 1) for k in (1, -1)]
  return circles


def strands(grid: Grid, style: str, rng: np.random.Generator) -> np.ndarray:
  """Brightness variation along the direction of growth [h, w], about unit variance."""
  x, y = grid.xy
  if style in ('curly', 'curls'):
    ring = noise(rng, grid.size, (2.4, 2.4))
    ring = np.cos(ring * 3.0) + 0.6 * noise(rng, grid.size, (4.5, 4.5))
    return (ring - ring.mean()) / ring.std()
  if style in ('buzz', 'stubble'):
    return noise(rng, grid.size, (0.7, 0.9))
  crown = {'parted': (-15, -62), 'quiff': (-4, -20), 'wavy': (-9, -64), 'pixie': (-15, -62), 'pony': (-10, -60)}
  cx, cy = crown.get(style, (0.0, -68.0))
  dx, dy = x - cx, y - cy
  radius = np.sqrt(dx * dx + (1.25 * dy) ** 2 + 4)
  angle = np.arctan2(dx, dy + 1e-3)
  if style in ('wavy', 'waves', 'quiff'):
    angle = angle + 0.10 * np.sin(radius * 0.22 + 1.0)
  table = 1.0 * noise(rng, (64, 700), (1.0, 9)) + 0.8 * noise(rng, (64, 700), (4.0, 14))
  across = ((angle / (2 * np.pi) + 0.5) * 699).astype(np.float32)
  down = np.clip(radius / 110 * 63, 0, 63).astype(np.float32)
  out = cv2.remap(table, across, down, cv2.INTER_LINEAR)
  return out / out.std()


def tint(grid: Grid, base: np.ndarray, mask: np.ndarray, flow: np.ndarray, towards, gloss: float = 1.0) -> np.ndarray:
  """Hair colour [h, w, 3]: shading, streaks along the strands, and a band of shine."""
  x, y = grid.xy
  inside = cv2.distanceTransform((mask > 0.5).astype(np.uint8), cv2.DIST_L2, 5) / grid.density
  puff = 5 * np.sqrt(np.clip(1 - (1 - np.clip(inside / 9, 0, 1)) ** 2, 0, 1)) + 16 * (
    1 - (x / 44) ** 2 - ((y + 12) / 70) ** 2
  )
  puff = cv2.GaussianBlur(puff.astype(np.float32), (0, 0), 1.2 * grid.density)
  shade = light(puff, grid.density, towards)
  level = 0.52 + 0.62 * smooth((shade - 0.05) / 0.95) + 0.085 * flow
  radius = np.hypot(x - 10 * towards[0], 1.15 * (y + 32))
  shine = np.exp(-(((radius - 21) / 5.0) ** 2)) * smooth((-y - 8) / 26) * np.clip(0.55 + 0.45 * flow, 0, 1.6)
  color = base * level[..., None]
  warm = np.clip(base * 1.5 + np.float32((0.16, 0.14, 0.12)), 0, 1)
  return color + (0.30 * gloss * shine * np.clip(shade, 0, 1))[..., None] * (warm - color)


def front(grid: Grid, person, anchors, color, alpha, contour, rng):
  """Composites the front hair over a head's colour [h, w, 3] and coverage [h, w]."""
  style = person.hair_style
  scale = np.array([anchors.shape.width, 1.0])
  polygons = [p * scale for p in _contours(style)]
  base = rgb(person.hair)
  if style == 'scarf':
    return _scarf(grid, person, color, alpha, polygons, rng)
  soft = {'buzz': 0.9, 'short': 0.55, 'bald': 0.9}.get(style, 0.32)
  mask = np.clip(grid.fill(*polygons, blur=soft) * 1.08, 0, 1)
  flow = strands(grid, style, rng)
  # Strand ends fray the edge.
  fray = cv2.GaussianBlur(mask, (0, 0), 1.1 * grid.density)
  mask = np.where(
    style in ('curly', 'curls'),
    mask,
    np.clip(smooth((fray + 0.10 * flow - 0.30) / 0.34), 0, 1) * np.maximum(mask, 0.35 * (fray > 0.3)),
  )
  if style in ('buzz', 'bald'):
    mask = mask * (0.80 + 0.06 * flow).clip(0, 0.95)
  # Hair casts a shadow on the skin.
  shadow = cv2.GaussianBlur(mask, (0, 0), 2.2 * grid.density)
  shift = np.float32([[1, 0, -1.2 * person.light[0] * grid.density], [0, 1, 1.9 * grid.density]])
  shadow = cv2.warpAffine(shadow, shift, (grid.size[1], grid.size[0]))
  color = color * (1 - 0.42 * (shadow * (1 - mask))[..., None] * np.float32((0.75, 1.0, 1.0)))
  painted = tint(
    grid,
    base,
    np.clip(mask * 1.3, 0, 1),
    flow,
    person.light,
    0.5 if style in ('curly', 'curls', 'buzz', 'bald') else 1.0,
  )
  color = over(color, mask, painted)
  if style == 'bun':
    color = over(
      color, 0.5 * grid.stroke([spline([(-9, -57.5), (0, -55.5), (9, -57.5)], False)], 1.2, 0.5), base * 0.45
    )
  return color, np.maximum(alpha, mask)


def _scarf(grid: Grid, person, color, alpha, polygons, rng):
  whole, opening = grid.fill(polygons[0]), grid.fill(polygons[1], blur=0.3)
  mask = whole * (1 - opening)
  cloth = rgb(person.cloth) * 0.55 + rgb((236, 222, 206)) * 0.45
  x, y = grid.xy
  inside = cv2.distanceTransform((opening < 0.5).astype(np.uint8), cv2.DIST_L2, 5) / grid.density
  folds = np.sin(inside * 0.95 + 0.06 * x + 0.9 * noise(rng, grid.size, (22, 22))) * smooth(inside / 5)
  puff = 4 * smooth(inside / 6) + 18 * (1 - (x / 44) ** 2 - ((y + 8) / 70) ** 2) + 0.35 * folds
  shade = light(puff.astype(np.float32), grid.density, person.light)
  painted = cloth * (0.62 + 0.50 * smooth(shade))[..., None] * np.float32((1, 0.98, 0.97))
  shadow = cv2.GaussianBlur(mask, (0, 0), 1.6 * grid.density)
  color = color * (1 - 0.5 * (shadow * (1 - mask))[..., None] * np.float32((0.75, 1.0, 1.0)))
  return over(color, mask, painted), np.maximum(alpha * opening, mask)


def back(grid: Grid, person, anchors) -> tuple[np.ndarray, np.ndarray]:
  """Hair behind the neck: colour [h, w, 3] and coverage [h, w] on the body's grid."""
  rng = np.random.default_rng([person.number, 5])
  w = anchors.shape.width
  shapes = {
    'long': [(30, -20), (36, 40), (33, 66), (0, 68)],
    'wavy': [(31, -20), (39, 40), (36, 66), (0, 68)],
    'bangs': [(30, -20), (36, 40), (33, 66), (0, 68)],
    'bob': [(30, -16), (34, 10), (31, 26), (0, 30)],
    'waves': [(30, -10), (32, 14), (22, 24), (0, 26)],
    'curls': [(34, -12), (34, 8), (24, 20), (0, 22)],
    'fringe': [(24, 4), (22, 16), (12, 22), (0, 23)],
  }
  if person.hair_style == 'pony':
    tail = spline([(20, -18), (36, -8), (41, 14), (38, 38), (33, 52), (30, 40), (31, 18), (24, 4)])
    polygons = [tail]
  elif person.hair_style in shapes:
    polygons = [spline(mirrored(np.array(shapes[person.hair_style][::-1]) * (w, 1)))]
  else:
    return np.zeros((*grid.size, 3), np.float32), np.zeros(grid.size, np.float32)
  mask = grid.fill(*polygons, blur=0.5)
  flow = strands(grid, person.hair_style, rng)
  dim = 0.85 if person.hair_style == 'pony' else 0.68
  return tint(grid, rgb(person.hair) * dim, mask, flow, person.light, 0.4), mask


def beard(grid: Grid, person, anchors, color, face, rng):
  """Composites stubble, a moustache, a goatee or a full beard over a face's colour [h, w, 3]."""
  chin, mouth, half = anchors.chin, anchors.mouth[1], anchors.mouth_half
  nose = anchors.nose[1]
  jaw = anchors.landmarks[:9] * (-1, 1)
  flow = strands(grid, 'stubble', rng)
  moustache = spline(
    mirrored(
      [
        (half + 2.6, mouth + 1.0),
        (half + 1.4, mouth - 3.0),
        (half * 0.62, nose + 2.8),
        (2.4, nose + 1.6),
        (0, nose + 2.6),
      ][::1]
    )
  )
  under = [(half + 2.8, mouth + 0.5), (half + 2.2, mouth + 5)]
  full = spline(
    np.concatenate(
      [
        mirrored([(28.5 * anchors.shape.width, -6), (jaw[2, 0] + 0.5, 6), *(jaw[4:8] + (0.6, 0.9)), (0, chin + 2.2)]),
        mirrored(
          [
            (26.6 * anchors.shape.width, -6),
            (25 * anchors.shape.width, 8),
            (20, mouth - 3),
            (half + 4.2, mouth - 4),
            *under,
            (7, mouth + 7.4),
            (0, mouth + 8.6),
          ]
        )[::-1],
      ]
    )
  )
  goatee = spline(mirrored([(half + 3.0, mouth + 0), (half + 2.6, mouth + 8), (8, chin + 0.8), (0, chin + 2.0)]))
  hole = spline(mirrored([(half - 0.2, mouth + 0.6), (half - 1.2, mouth + 5.2), (4.5, mouth + 7.6), (0, mouth + 8)]))
  match person.beard:
    case 'stubble':
      mask = np.clip(grid.fill(full, moustache, blur=1.8) - grid.fill(hole, blur=1.0), 0, 1) * (0.34 + 0.13 * flow)
    case 'moustache':
      mask = grid.fill(moustache, blur=0.45) * (0.90 + 0.08 * flow)
    case 'goatee':
      mask = np.maximum(
        grid.fill(moustache, blur=0.5), np.clip(grid.fill(goatee, blur=0.6) - grid.fill(hole, blur=0.6), 0, 1)
      )
      mask = mask * (0.86 + 0.10 * flow)
    case _:
      mask = np.maximum(grid.fill(full, blur=0.7), grid.fill(moustache, blur=0.6)) * (0.90 + 0.09 * flow)
  base = rgb(person.hair) * (0.86, 0.82, 0.80)
  x, y = grid.xy
  streak = noise(rng, grid.size, (0.9, 3.2))
  level = (
    0.86 + 0.12 * streak + 0.20 * smooth(0.5 + 0.5 * person.light[0] * x / 20) - 0.16 * smooth((y - mouth - 6) / 14)
  )
  return over(color, np.clip(mask, 0, 1) * face, base * level[..., None])

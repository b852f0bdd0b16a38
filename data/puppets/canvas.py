"""Painting with numpy and OpenCV: soft-edged shapes, splines and strands on a float canvas in canonical units."""

import dataclasses
import functools

import cv2
import numpy as np

_SHIFT = 4  # fractional bits of coordinates in OpenCV: 1/16 pixel


@dataclasses.dataclass(frozen=True)
class Grid:
  """A raster of `density` pixels per unit whose top left corner is at (left, top)."""

  left: float
  top: float
  width: float
  height: float
  density: float

  @property
  def size(self) -> tuple[int, int]:
    """Height and width in pixels."""
    return round(self.height * self.density), round(self.width * self.density)

  @functools.cached_property
  def xy(self) -> tuple[np.ndarray, np.ndarray]:
    """Canonical x, y [h, w] of pixel centres."""
    height, width = self.size
    x = (np.arange(width, dtype=np.float32) + 0.5) / self.density + self.left
    y = (np.arange(height, dtype=np.float32) + 0.5) / self.density + self.top
    return np.broadcast_to(x[None], (height, width)), np.broadcast_to(y[:, None], (height, width))

  def pixels(self, points) -> np.ndarray:
    """Canonical points [n, 2] -> pixels [n, 2], with pixel centres at integers."""
    return (np.asarray(points, float) - (self.left, self.top)) * self.density - 0.5

  def fill(self, *polygons, blur: float = 0.0) -> np.ndarray:
    """Coverage [h, w] float32 of the union of polygons [n, 2]; `blur` in units."""
    mask = np.zeros(self.size, np.uint8)
    for polygon in polygons:
      cv2.fillPoly(mask, [fixed(self.pixels(polygon))], 255, cv2.LINE_AA, _SHIFT)
    return self._finish(mask, blur)

  def stroke(self, lines, width: float, blur: float = 0.0) -> np.ndarray:
    """Coverage [h, w] float32 of polylines, `width` in units."""
    mask = np.zeros(self.size, np.uint8)
    for line in lines:
      cv2.polylines(
        mask, [fixed(self.pixels(line))], False, 255, max(1, round(width * self.density)), cv2.LINE_AA, _SHIFT
      )
    return self._finish(mask, blur)

  def _finish(self, mask: np.ndarray, blur: float) -> np.ndarray:
    out = mask.astype(np.float32) / 255
    return cv2.GaussianBlur(out, (0, 0), blur * self.density) if blur else out

  def bump(self, x: float, y: float, wide: float, high: float, tilt: float = 0.0) -> np.ndarray:
    """A Gaussian bump [h, w] of height 1 at (x, y)."""
    dx, dy = self.xy[0] - x, self.xy[1] - y
    if tilt:
      dy = dy - tilt * dx
    return np.exp(-((dx / wide) ** 2) - (dy / high) ** 2)

  def pair(self, x: float, y: float, wide: float, high: float, tilt: float = 0.0) -> np.ndarray:
    """Two bumps, mirrored at x = 0."""
    return self.bump(x, y, wide, high, tilt) + self.bump(-x, y, wide, high, -tilt)


def fixed(pixels: np.ndarray) -> np.ndarray:
  """Pixels [n, 2] as fixed-point numbers for OpenCV's drawing functions."""
  return np.round(np.asarray(pixels) * (1 << _SHIFT)).astype(np.int32)


def spline(points, closed: bool = True, steps: int = 10) -> np.ndarray:
  """A Catmull-Rom curve through points [n, 2]."""
  p = np.asarray(points, float)
  p = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([p[:1], p, p[-1:]])
  t = np.linspace(0, 1, steps, endpoint=False)[:, None]
  parts = []
  for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:]):
    parts.append(b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))))
  if not closed:
    parts.append(p[-1:])
  return np.concatenate(parts)


def mirrored(points) -> np.ndarray:
  """A symmetric contour: points of one side, then their mirror images in reverse order."""
  p = np.asarray(points, float)
  return np.concatenate([p, p[::-1] * (-1, 1)])


def over(image: np.ndarray, mask: np.ndarray, color) -> np.ndarray:
  """Composites a colour ([3] or [h, w, 3], 0 to 1) over an image with coverage [h, w]."""
  return image + mask[..., None] * (np.asarray(color, np.float32) - image)


def noise(rng: np.random.Generator, size: tuple[int, int], blur: tuple[float, float]) -> np.ndarray:
  """Smooth noise [h, w] of about unit variance, correlated over `blur` pixels (x, y)."""
  out = cv2.GaussianBlur(rng.standard_normal(size).astype(np.float32), (0, 0), blur[0], sigmaY=blur[1])
  return out / max(float(out.std()), 1e-6)


def light(height: np.ndarray, density: float, towards: tuple[float, float], relief: float = 1.0) -> np.ndarray:
  """Shading [h, w] of a height map in units: about 1 where it faces the light, less where it faces away."""
  dx = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=density / 8) * relief
  dy = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=density / 8) * relief
  x, y = towards
  z = 1.15
  length = np.sqrt(x * x + y * y + z * z)
  return (-dx * x - dy * y + z) / (length * np.sqrt(1 + dx * dx + dy * dy))


def smooth(t):
  """Smoothstep: 0 below 0, 1 above 1."""
  t = np.clip(t, 0, 1)
  return t * t * (3 - 2 * t)


def rgb(color) -> np.ndarray:
  """RGB 0 to 255 as float32 0 to 1."""
  return np.asarray(color, np.float32) / 255

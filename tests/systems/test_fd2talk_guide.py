"""What small frame networks are helped with: the drawing of a face."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from talkjax.systems.fd2talk import guide
from talkjax.systems.portrait.overlay import pixel_centres

SIZE = 32


def points(seed: int = 1) -> np.ndarray:
  return np.random.default_rng(seed).uniform(0.3, 0.7, (1, 68, 2)).astype(np.float32)


def test_distances_from_an_outline_are_those_of_opencv():
  outline = np.array([[5.2, 4.1], [25.7, 8.3], [14.0, 15.5], [27.9, 26.2], [6.5, 22.8]], np.float32)
  grid = pixel_centres(SIZE)
  made = np.asarray(guide.outline_distance(grid, outline[None] / SIZE))[0] * SIZE
  inside = lambda p: -cv2.pointPolygonTest(outline, (float(p[0]), float(p[1])), True)
  expected = np.array([inside(p) for p in np.asarray(grid) * SIZE])
  np.testing.assert_allclose(made, expected, atol=1e-3)


def test_a_drawing_shows_where_mouth_and_eyes_are_open():
  face = np.full((1, 68, 2), 0.9, np.float32)
  circle = lambda n: np.stack([np.cos(a := np.linspace(0, 2 * np.pi, n, endpoint=False)), np.sin(a)], -1)
  face[0, 60:68] = [0.5, 0.7] + 0.1 * circle(8)
  face[0, 36:42] = [0.3, 0.3] + 0.06 * circle(6)
  drawn = np.asarray(guide.face_map(face, SIZE)[0])
  assert drawn.shape == (SIZE, SIZE, guide.CHANNELS) and drawn.min() >= 0 and drawn.max() <= 1
  assert drawn[22, 16, 0] > 0.99 and drawn[10, 10, 0] < 0.01 and drawn[9, 9, 2] > 0.9 and drawn[22, 16, 2] < 0.01
  area = drawn[..., 0].sum() / SIZE**2
  assert abs(area - 0.5 * 8 * 0.01 * np.sin(np.pi / 4)) < 0.005  # of a regular octagon


def test_the_drawing_of_a_closed_mouth_has_finite_gradients():
  closed = np.repeat(points()[:, :1], 68, axis=1)
  gradient = jax.grad(lambda p: jnp.sum(guide.face_map(p, 8)))(jnp.asarray(closed))
  assert np.isfinite(gradient).all()

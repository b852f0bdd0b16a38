"""Pictures of a mesh: what is nearer hides what is farther, light comes from above, and rows move what they should."""

import dataclasses

import numpy as np
import pytest

from talkjax.faces import mesh_drawing, morphable

SIZES = morphable.Sizes(vertices=8, triangles=4, mouth=1, rigid=1, identity=1, expression=1)


def square(half: float, depth: float, tilt: float = 0.0) -> np.ndarray:
  """Corners of a square that faces the viewer; with `tilt`, its upper edge is farther away."""
  return np.array([[x, y, depth - tilt * y] for y in (-half, half) for x in (-half, half)])


@pytest.fixture
def model():
  """A small square in front of a large one, which `expression` moves to the right, and behind with z."""
  mean = np.concatenate([square(1, 0), square(0.4, 0.5)]).astype(np.float32)
  moves = np.zeros((8, 3, 1), np.float32)
  moves[4:, 0] = 1
  triangles = np.array([[0, 1, 2], [1, 3, 2], [4, 5, 6], [5, 7, 6]], np.int32)
  camera = np.array([2.0, 10.0, 0], np.float32)
  arrays = {'mean': mean, 'expression': moves, 'triangles': triangles, 'camera': camera}
  return dataclasses.replace(morphable.blank('mesh_pca', SIZES), **arrays)


def row(expression=0.0, pitch=0.0) -> np.ndarray:
  return np.array([0, expression, pitch, 0, 0, 0, 0, 0], np.float32)


def draw(model, *rows, **options):
  return list(mesh_drawing.draw(model, np.stack(rows), (100, 100), **options))


def test_the_mesh_is_where_the_model_projects_it(model):
  (picture,) = draw(model, row())
  drawn = (picture != mesh_drawing.PAPER).any(-1)
  y, x = np.nonzero(drawn)
  assert (x.min(), x.max(), y.min(), y.max()) == pytest.approx((30, 69, 30, 69), abs=1)  # 20 pixels per unit
  assert drawn[31:69, 31:69].all() and picture.dtype == np.uint8


def test_what_is_nearer_hides_what_is_farther(model):
  tilted = dataclasses.replace(model, mean=np.concatenate([square(1, 0, 0.8), square(0.4, 0.5)]).astype(np.float32))
  (picture,) = draw(tilted, row())
  assert (picture[50, 50] != picture[35, 35]).any()  # of another direction, so of another brightness
  hidden = dataclasses.replace(tilted, mean=np.concatenate([square(1, 0, 0.8), square(0.4, -2)]).astype(np.float32))
  (picture,) = draw(hidden, row())
  assert (picture[50, 50] == picture[35, 35]).all()


def test_rows_move_the_mesh_and_its_light(model):
  still, moved, up, down = draw(model, row(), row(expression=2.0), row(pitch=-0.6), row(pitch=0.6))
  assert (moved[50, 90] != mesh_drawing.PAPER).any() and (still[50, 90] == mesh_drawing.PAPER).all()
  assert up[50, 50].sum() > down[50, 50].sum()  # the light comes from above


def test_triangles_that_face_away_are_not_drawn(model):
  back = dataclasses.replace(model, triangles=model.triangles[:, ::-1])
  (picture,) = draw(back, row())
  assert (picture == mesh_drawing.PAPER).all()


def test_a_wireframe_is_drawn_on_pictures(model):
  frames = np.full((1, 100, 100, 3), 90, np.uint8)
  (picture,) = draw(model, row(), style='wireframe', frames=frames)
  changed = (picture != 90).any(-1)
  assert changed[50, 29:32].any() and not changed[40, 33] and (frames == 90).all()
  with pytest.raises(ValueError, match="style is 'painted', expected one of shaded, wireframe"):
    draw(model, row(), style='painted')

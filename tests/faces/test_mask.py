"""Masks hide what speech moves and do not tell how far the mouth is open."""

import numpy as np
import pytest

from talkjax.faces import align, mask, measures


def _points():
  """[68, 2] of a 128 px crop: the mean face, eyes, mouth and chin where they lie on average."""
  points = np.zeros((68, 2))
  points[measures.STABLE] = measures.MEAN_FACE[:, :2]
  points[36:42, 1], points[42:48, 1] = 0, 0
  points[36:42, 0], points[42:48, 0] = np.linspace(-0.72, -0.28, 6), np.linspace(0.28, 0.72, 6)
  points[3:14] = np.stack([np.linspace(-1.0, 1.0, 11), 1.9 - np.linspace(-1, 1, 11) ** 2], -1)
  points[48:68] = np.stack([np.linspace(-0.4, 0.4, 20), np.full(20, 1.1)], -1)
  return (points * align.EYE_DISTANCE + [align.EYES_X, align.EYES_Y]) * 128


def _open(points):
  moved = points.copy()
  moved[3:14, 1] += 12  # the chin falls
  moved[55:60, 1] += 10
  moved[65:68, 1] += 10
  return moved


@pytest.mark.parametrize('kind', mask.KINDS)
def test_the_mask_hides_mouth_and_jaw_and_not_the_eyes(kind):
  points = _points()
  region = mask.jaw_mask(points, 128, kind)
  assert region.shape == (128, 128, 1) and region.dtype == np.float32 and set(np.unique(region)) == {0, 1}
  for shape in (points, _open(points)):
    x, y = np.clip(np.rint(shape[[4, 6, 8, 10, 12, 48, 51, 54, 57]]).astype(int), 0, 127).T
    assert (region[y, x] == 1).all()
  x, y = np.rint(points[17:48]).astype(int)[[0, 9, 19, 25, 30]].T
  assert (region[y, x] == 0).all()


@pytest.mark.parametrize('kind', mask.KINDS)
def test_the_mask_does_not_tell_the_opening(kind):
  assert (mask.jaw_mask(_points(), 128, kind) == mask.jaw_mask(_open(_points()), 128, kind)).all()


def test_the_rectangle_is_upright_and_begins_below_the_nose():
  points = _points()
  region = mask.jaw_mask(points, 128, 'rectangle')[..., 0]
  rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
  assert region.sum() == len(rows) * len(columns)
  assert points[33, 1] < rows[0] < points[51, 1]
  assert columns[0] < points[:17, 0].min() and columns[-1] > points[:17, 0].max()


def test_the_published_one_reaches_the_bottom():
  points = np.full((68, 2), 40.7)
  points[1], points[15] = [20.9, 50.9], [99.9, 50.2]
  region = mask.jaw_mask(points, 128)[..., 0]
  wanted = np.zeros((128, 128))
  wanted[50:, 20:100] = 1  # truncated, borders included
  assert (region == wanted).all()


def test_points_outside_the_picture_are_cut():
  for kind in mask.KINDS:
    assert mask.jaw_mask(_points() + [90, 70], 128, kind).shape == (128, 128, 1)
    assert mask.jaw_mask(_points() - [400, 400], 128, kind).shape == (128, 128, 1)


def test_an_unknown_kind_is_refused():
  with pytest.raises(ValueError, match='unknown'):
    mask.jaw_mask(_points(), 128, 'oval')

import logging
import math

import numpy as np
import pytest
from scipy import ndimage

from talkjax.metrics import cpbd


def stripes(h=128, w=192, softness=0.3):
  """Upright edges of one width, none quite between two pixels (a tie of two equal gradients is no edge)."""
  y, x = np.mgrid[:h, :w]
  return np.round(128 + 60 * np.tanh(np.sin((x + 0.07 * y + 0.3) / 6) / softness))


def test_blur_lowers_the_score():
  scores = [cpbd.cpbd(stripes(softness=b)) for b in (0.05, 0.2, 0.5, 1)]
  assert scores == sorted(scores, reverse=True)
  assert scores[0] > 0.9
  assert scores[-1] < 0.2


def width_by_walking(line, column, brightening):
  """Strict climb or fall on either side, one pixel at a time."""
  sign = 1 if brightening else -1
  width = 0
  for step in (-1, 1):
    near = column + step
    count = 1
    while count < 101 and 0 <= near + step < len(line) and sign * step * (line[near + step] - line[near]) > 0:
      near, count = near + step, count + 1
    width += count
  return width


def test_widths_are_those_of_a_walk():
  rng = np.random.default_rng(0)
  picture = ndimage.gaussian_filter(rng.random((64, 300)) * 255, (1, 3))
  picture[40:] = np.linspace(0, 250, 300)  # a ramp longer than any walk
  picture[40:] += np.linspace(0, 1, 24)[:, None]
  edges = np.ones(picture.shape, bool)
  widths = cpbd.edge_widths(picture, edges)
  dy, dx = np.gradient(picture)
  checked = 0
  for y in range(1, 63):
    for x in range(1, 299):
      angle = abs(math.degrees(math.atan2(dy[y, x], dx[y, x])))
      if angle < 22.5 or angle > 157.5:
        assert widths[y, x] == width_by_walking(picture[y], x, angle < 90)
        checked += 1
      else:
        assert widths[y, x] == 0
  assert checked > 1000
  assert widths.max() == 202
  assert not widths[0].any()
  assert not widths[:, -1].any()


def test_pictures_without_edges():
  assert cpbd.cpbd(np.full((64, 64), 128, np.uint8)) == 0
  assert cpbd.cpbd(np.full((64, 64, 3), 128, np.uint8)) == 0


def test_what_no_block_covers_is_ignored():
  whole = stripes(128, 192)
  larger = np.pad(whole, ((0, 30), (0, 40)), mode='edge')
  edges, widths = (np.pad(np.full(whole.shape, v, np.int16), ((0, 30), (0, 40)), constant_values=9) for v in (1, 2))
  assert cpbd._score(larger, edges, widths) == 1


def test_small_pictures_are_nan_with_the_reason(caplog):
  with caplog.at_level(logging.WARNING):
    assert math.isnan(cpbd.cpbd(np.zeros((63, 200, 3), np.uint8)))
  assert 'at least 64x64 pixels, but got 200x63' in caplog.text


@pytest.mark.parametrize('channel, luma', [(0, 76), (1, 150), (2, 29)])
def test_colour_becomes_luma(channel, luma):
  picture = np.zeros((4, 4, 3), np.uint8)
  picture[..., channel] = 255
  assert (cpbd.to_grey(picture) == luma).all()

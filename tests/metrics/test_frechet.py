import numpy as np
import pytest
import scipy.linalg

from talkjax.errors import UserError
from talkjax.metrics import frechet


def features(count, width, seed, shift=0.0):
  r = np.random.default_rng(seed)
  return r.normal(size=(count, width)) @ r.normal(size=(width, width)) + shift


@pytest.mark.parametrize(('n', 'm', 'd'), [(80, 90, 6), (7, 90, 12), (5, 6, 12), (30, 40, 1)])
def test_against_the_matrix_square_root(n, m, d):
  a, b = features(n, d, 0), features(m, d, 1, 0.5)
  c1, c2 = (np.cov(x, rowvar=False).reshape(d, d) for x in (a, b))
  root = np.real(scipy.linalg.sqrtm(c1 @ c2 + 1e-12 * np.eye(d))) if d > 1 else np.sqrt(c1 * c2)
  wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * root)
  assert frechet.distance(a, b) == pytest.approx(wanted, rel=1e-3)


def test_both_ways_of_the_trace_are_one():
  """Equal rows repeated: more features than dimensions, and the same covariance from fewer."""
  a, b = features(9, 10, 2), features(40, 10, 3)
  scale = np.sqrt((2 * len(a) - 1) / (2 * (len(a) - 1)))
  assert frechet.sqrt_trace(a, b) == pytest.approx(frechet.sqrt_trace(np.repeat(a, 2, 0), b) * scale, rel=1e-6)


def test_no_distance_to_itself_and_the_square_of_a_shift():
  a = features(50, 8, 4)
  assert frechet.distance(a, a) == pytest.approx(0, abs=1e-9)
  assert frechet.distance(a, a + 3) == pytest.approx(8 * 9)


def test_what_has_no_distance():
  a = features(5, 3, 0)
  for b in (a[:1], a[:, :2]):
    with pytest.raises(UserError, match='two or more features of the same width'):
      frechet.distance(a, b)
  with pytest.raises(UserError, match='finite'):
    frechet.distance(a, np.full((4, 3), np.nan))

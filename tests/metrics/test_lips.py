import math

import numpy as np
import pytest

from talkjax.errors import UserError
from talkjax.metrics import lips


def correlation(x, y):
  mx, my = sum(x) / len(x), sum(y) / len(y)
  top = sum((a - mx) * (b - my) for a, b in zip(x, y))
  return top / math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))


def test_lip_score_is_the_correlation():
  rng = np.random.default_rng(0)
  true = rng.random(30)
  generated = 0.3 * true + 0.1 * rng.random(30)
  assert lips.lip_score(generated, true) == pytest.approx(correlation(list(generated), list(true)))
  assert lips.lip_score(5 * true + 2, true) == pytest.approx(1)
  assert lips.lip_score(-true, true) == pytest.approx(-1)


def test_what_has_no_correlation_is_defined():
  moving, still = np.sin(np.arange(20.0)), np.full(20, 0.1, np.float32)
  assert lips.lip_score(still, moving) == 0
  assert math.isnan(lips.lip_score(moving, still))
  assert math.isnan(lips.lip_score(still, still))
  assert math.isnan(lips.lip_score([0.1], [0.2]))
  assert math.isnan(lips.lip_score([], []))


def test_frames_without_a_face_are_left_out():
  true, generated = np.array([0.0, 1, 2, 3, np.nan]), np.array([0.0, 1, np.nan, 3, 7])
  assert lips.lip_score(generated, true) == pytest.approx(1)


def test_different_lengths_are_an_error():
  with pytest.raises(UserError, match='same frames'):
    lips.lip_score(np.zeros(3), np.zeros(4))
  with pytest.raises(UserError, match='1 generated clips'):
    lips.summary([np.zeros(3)], [])


def test_summary_means_what_is_defined_and_pools_the_frames():
  a, b = np.array([0.0, 1, 2]), np.array([10.0, 11, 10])
  still = np.full(3, 4.0)
  result = lips.summary([a, -b, a], [a, b, still])
  assert result['lip_score'] == pytest.approx(0)  # 1 and -1
  assert (result['clips'], result['undefined']) == (2, 1)
  assert result['lip_score_pooled'] == pytest.approx(correlation([*a, *-b, *a], [*a, *b, *still]))
  assert math.isnan(lips.summary([], [])['lip_score'])


@pytest.mark.parametrize('num', [2, 3, 10, 57])
def test_other_speech_is_a_fixed_derangement(num):
  pairs = lips.other_speech(range(num))
  assert sorted(pairs) == list(range(num))
  assert (pairs != np.arange(num)).all()
  assert (pairs == lips.other_speech(range(num))).all()
  if num > 3:
    assert (pairs != lips.other_speech(range(num), seed=1)).any()


def test_other_speech_says_something_else():
  texts = ['bin blue'] * 4 + ['lay red'] * 2 + ['set white', 'place green']
  for seed in range(20):
    pairs = lips.other_speech(texts, seed)
    assert sorted(pairs) == list(range(8))
    assert all(texts[i] != texts[j] for i, j in enumerate(pairs))


@pytest.mark.parametrize('texts', [[], ['a'], ['a', 'a'], ['a', 'a', 'b']])
def test_other_speech_that_does_not_exist_is_an_error(texts):
  with pytest.raises(UserError, match='other speech needs at least two clips'):
    lips.other_speech(texts)


def test_real_opening_grows_with_the_inner_lips():
  face = np.zeros((3, 68, 2), np.float32)
  face[:, :17, 1] = np.linspace(0, 100, 17)  # the jaw line down to the chin
  face[:, :17, 0] = np.linspace(0, 60, 17)
  face[:, 27, 1] = 10
  face[:, 8] = [50, 110]
  face[:, 60:68] = [[30, 80], [40, 80], [50, 80], [60, 80], [70, 80], [60, 80], [50, 80], [40, 80]]
  face[1, 65:68, 1] += 10
  face[2, 65:68, 1] += 20
  opening = lips.real_opening(face)
  assert opening.shape == (3,)
  assert opening[0] == pytest.approx(0, abs=1e-6)
  assert opening[2] == pytest.approx(2 * opening[1], rel=1e-5)
  assert lips.real_opening(face * 3 + 7) == pytest.approx(opening, rel=1e-5)

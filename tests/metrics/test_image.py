import math

import numpy as np
import pytest

from talkjax.errors import UserError
from talkjax.metrics import image


def pair(h=20, w=24, channels=3, seed=0):
  rng = np.random.default_rng(seed)
  a = rng.integers(0, 256, (h, w, channels), dtype=np.uint8)
  return a, np.clip(a + rng.integers(-40, 41, a.shape), 0, 255).astype(np.uint8)


def ssim_by_hand(a, b, y, x, channel):
  """SSIM at one pixel, from the formula of Wang et al. 2004 over an 11x11 Gaussian window."""
  total = mean_a = mean_b = aa = bb = ab = 0.0
  for dy in range(-5, 6):
    for dx in range(-5, 6):
      weight = math.exp(-(dy * dy + dx * dx) / (2 * 1.5**2))
      p, q = float(a[y + dy, x + dx, channel]), float(b[y + dy, x + dx, channel])
      total += weight
      mean_a, mean_b = mean_a + weight * p, mean_b + weight * q
      aa, bb, ab = aa + weight * p * p, bb + weight * q * q, ab + weight * p * q
  mean_a, mean_b, aa, bb, ab = (v / total for v in (mean_a, mean_b, aa, bb, ab))
  c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
  top = (2 * mean_a * mean_b + c1) * (2 * (ab - mean_a * mean_b) + c2)
  return top / ((mean_a**2 + mean_b**2 + c1) * (aa - mean_a**2 + bb - mean_b**2 + c2))


def test_ssim_is_the_formula():
  a, b = pair()
  expected = np.mean([ssim_by_hand(a, b, y, x, c) for y in range(5, 15) for x in range(5, 19) for c in range(3)])
  assert image.ssim(a, b) == pytest.approx(expected, abs=1e-9)


def test_psnr_is_the_formula():
  a = np.zeros((2, 2, 3), np.uint8)
  b = a.copy()
  b[0, 0] = 10  # mse 25
  assert image.psnr(a, b) == pytest.approx(10 * math.log10(255**2 / 25))
  assert image.psnr(a, a) == math.inf


def test_inside_a_mask():
  a, b = pair(40, 48)
  mask = np.zeros((40, 48, 1))
  mask[20:30, 10:26] = 1
  mse = ((a.astype(float) - b)[20:30, 10:26] ** 2).mean()
  assert image.psnr(a, b, mask) == pytest.approx(10 * math.log10(255**2 / mse))
  pasted = np.where(mask > 0, b, a)
  by_hand = np.mean([ssim_by_hand(a, pasted, y, x, c) for y in range(20, 30) for x in range(10, 26) for c in range(3)])
  assert image.ssim(a, b, mask) == pytest.approx(by_hand, abs=1e-9)


def test_a_mask_ignores_what_is_generated_outside():
  a, b = pair(40, 48)
  mask = np.zeros((40, 48))
  mask[5:25, :20] = 1
  spoiled = np.where(mask[..., None] > 0, b, 255 - b)
  assert image.psnr(a, b, mask) == image.psnr(a, spoiled, mask)
  assert image.ssim(a, b, mask) == image.ssim(a, spoiled, mask)
  assert image.ssim(a, np.where(mask[..., None] > 0, a, b), mask) == pytest.approx(1)
  assert image.psnr(a, np.where(mask[..., None] > 0, a, b), mask) == math.inf


def test_a_soft_mask_weighs_pixels():
  a, b = pair(16, 16, seed=3)
  soft = np.random.default_rng(1).random((16, 16))
  mse = sum(soft[y, x] * ((a[y, x].astype(float) - b[y, x]) ** 2).mean() for y in range(16) for x in range(16))
  assert image.psnr(a, b, soft) == pytest.approx(10 * math.log10(255**2 * soft.sum() / mse))


def test_one_pixel_at_the_corner_is_enough():
  a, b = pair()
  mask = np.zeros((20, 24))
  mask[0, 0] = 1
  assert -1 <= image.ssim(a, b, mask) <= 1


def test_video_means_survive_identical_frames():
  a, b = pair()
  assert image.mean_psnr([math.inf, 20.0]) == 60.0
  assert math.isnan(image.mean_psnr([]))
  mask = np.ones((20, 24))
  scores = image.video_scores(iter([a, a]), iter([a, b]), iter([mask, mask]))
  assert scores['identical_frames'] == 1
  assert scores['psnr'] == pytest.approx((image.PSNR_CAP + image.psnr(a, b)) / 2)
  assert scores['psnr_mask'] == pytest.approx(scores['psnr'])
  assert scores['ssim'] == pytest.approx((1 + image.ssim(a, b)) / 2)


def test_errors_name_the_thing():
  a, b = pair()
  with pytest.raises(UserError, match='reference is 24x20 with 3 channels, the generated one 24x19'):
    image.psnr(a, b[1:])
  with pytest.raises(UserError, match='mask is empty'):
    image.ssim(a, b, np.zeros((20, 24)))
  with pytest.raises(UserError, match='mask is 23x20'):
    image.psnr(a, b, np.ones((20, 23)))
  with pytest.raises(UserError, match='at least 11x11 pixels, but got 24x10'):
    image.ssim(a[:10], b[:10])
  with pytest.raises(UserError, match='numbers of frames'):
    image.video_scores([a, a], [a])
  with pytest.raises(UserError, match='no frames'):
    image.video_scores([], [])

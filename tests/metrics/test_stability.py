"""Blur, trembling and flicker, each made to a known amount."""

import cv2
import numpy as np
import pytest

from talkjax.metrics import stability
from tests.faces_given import face_track, landmarks


def texture(seed, size=96):
  return np.random.default_rng(seed).integers(0, 256, (size, size, 3)).astype(np.uint8)


def test_blur_lowers_the_gradients_of_the_part_that_is_blurred():
  frames, faces = [texture(0)] * 2, face_track(landmarks(2))
  x0, y0, x1, y1 = stability.bounds(faces.landmarks[0][stability.MOUTH], 0.25).round().astype(int)
  mouth = frames[0].copy()
  mouth[y0 - 2 : y1 + 2, x0 - 2 : x1 + 2] = cv2.GaussianBlur(mouth, (0, 0), 2)[y0 - 2 : y1 + 2, x0 - 2 : x1 + 2]
  sharp, soft = (stability.sharpness(f, faces) for f in (frames, [mouth] * 2))
  assert soft['mouth'] < 0.1 * sharp['mouth'] and 0.5 * sharp['face'] < soft['face'] < sharp['face']
  # By the definition, written out.
  box = faces.box[0].round().astype(int)
  grey = cv2.cvtColor(frames[0], cv2.COLOR_RGB2GRAY).astype(float)[box[1] : box[3], box[0] : box[2]]
  across = (grey[1:-1, 2:] - grey[1:-1, :-2]) / 2
  down = (grey[2:, 1:-1] - grey[:-2, 1:-1]) / 2
  assert sharp['face'] == pytest.approx((across**2 + down**2).mean(), rel=1e-5)


def test_a_face_outside_the_frame_has_no_sharpness():
  outside = face_track(landmarks(1) + 500)
  assert np.isnan(list(stability.sharpness([texture(0)], outside).values())).all()


def test_even_motion_is_no_jitter_and_noise_is():
  still = landmarks(200)
  moving = still + np.arange(200)[:, None, None] * np.array([0.3, 0.1])
  assert stability.jitter(moving) == pytest.approx(0, abs=1e-9)
  noise = np.random.default_rng(1).normal(size=still.shape)
  small, large = (stability.jitter(still + scale * noise) for scale in (0.05, 0.1))
  assert large == pytest.approx(2 * small, rel=0.01)
  # A second difference of independent noise has sqrt(6) times its deviation, a length in two dimensions sqrt(pi / 2).
  height = stability.measures.face_height(still)[0]
  assert small == pytest.approx(0.05 * np.sqrt(6 * np.pi / 2) / height, rel=0.02)
  assert np.isnan(stability.jitter(still[:2]))


def test_flicker_is_that_of_the_background():
  faces = face_track(landmarks(5))
  where = stability.background((96, 96), faces)
  assert where[:5].all() and not where[48, 48] and not where[90, 48]  # neither the face nor what is below it
  quiet = [texture(0)] * 5
  inside = [np.where(where[..., None], f, 255 - f if i % 2 else f) for i, f in enumerate(quiet)]
  assert stability.flicker(inside, where) == 0
  flat = [np.full((96, 96, 3), 100 + 7 * (i % 2), np.uint8) for i in range(5)]
  assert stability.flicker(flat, where) == 7
  assert np.isnan(stability.flicker(flat, np.zeros((96, 96), bool))) and np.isnan(stability.flicker(flat[:1], where))


def test_ratios():
  assert stability.ratio(3, 2) == 1.5 and np.isnan(stability.ratio(3, 0))

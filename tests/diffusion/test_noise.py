"""Noise keyed by seed, frame and sampling step."""

import jax
import numpy as np

from talkjax.diffusion.noise import keyed_normal

SHAPE = (3, 2)


def test_noise_is_that_of_the_folded_key():
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), 5), 2)
  np.testing.assert_array_equal(keyed_normal(np.uint32(7), 5, 2, SHAPE), jax.random.normal(key, SHAPE))


def test_noise_does_not_depend_on_the_batch_or_the_other_frames():
  seeds, frames = np.array([3, 7, 3], np.uint32), np.arange(4, 9)
  together = keyed_normal(seeds[:, None], frames[None], 1, SHAPE)
  assert together.shape == (3, 5, *SHAPE) and together.dtype == np.float32
  np.testing.assert_array_equal(together[1, 2], keyed_normal(seeds[1], frames[2], 1, SHAPE))
  np.testing.assert_array_equal(together[:, 1:3], keyed_normal(seeds[:, None], frames[None, 1:3], 1, SHAPE))
  np.testing.assert_array_equal(together[0], together[2])  # the same seed


def test_noise_differs_by_seed_frame_and_step():
  draws = [keyed_normal(np.uint32(seed), frame, step, SHAPE) for seed, frame, step in np.ndindex(3, 3, 3)]
  assert len({np.asarray(draw).tobytes() for draw in draws}) == 27


def test_noise_is_standard_normal():
  noise = np.asarray(keyed_normal(np.arange(100, dtype=np.uint32), 0, 0, (100,)))
  assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03

"""Overlapping windows: which frames they have, and the mean of their predictions."""

import jax
import numpy as np
import pytest

from talkjax.diffusion import samplers, schedules, windows
from talkjax.diffusion.noise import keyed_normal


@pytest.mark.parametrize(('count', 'size', 'overlap'), [(2, 12, 4), (12, 12, 4), (13, 12, 4), (137, 24, 4), (31, 8, 0)])
def test_windows_have_every_frame_and_overlap_enough(count, size, overlap):
  frames = windows.frames_of_windows(count, size, overlap)
  assert frames.shape[1] == size and frames.max() == max(count, size) - 1
  np.testing.assert_array_equal(np.diff(frames), 1)
  assert set(range(count)) <= set(frames.ravel().tolist())
  shared = [np.intersect1d(a, b).size for a, b in zip(frames, frames[1:])]
  assert all(n >= overlap for n in shared) and all(n == overlap for n in shared[:-1])
  assert len(frames) == max(1, -(-(count - overlap) // (size - overlap)))


def test_a_plan_concatenates_videos_and_knows_where_windows_begin():
  plan = windows.plan([9, 3], 4, 1)
  assert plan.sizes == (9, 4) and plan.count == 13 and plan.offsets.tolist() == [0, 9]
  assert plan.starts(0) == [3, 5] and plan.starts(1) == []
  np.testing.assert_array_equal(plan.frames - plan.local, plan.offsets[plan.videos][:, None] + np.zeros((1, 4)))
  assert sorted(set(plan.frames.ravel().tolist())) == list(range(13))


def test_predictions_are_averaged():
  frames = windows.frames_of_windows(6, 4, 2)
  predictions = np.arange(8.0).reshape(2, 4, 1)
  np.testing.assert_array_equal(windows.coverage(frames, 6), [1, 1, 2, 2, 1, 1])
  np.testing.assert_allclose(windows.merge(predictions, frames, 6)[:, 0], [0, 1, (2 + 4) / 2, (3 + 5) / 2, 6, 7])


def test_groups_have_every_window_and_few_sizes():
  for count in range(1, 40):
    for devices in (1, 2):
      groups = windows.groups(count, 4, devices)
      sizes = {len(g) for g in groups}
      assert len(sizes) == 1 and sizes <= {devices * n for n in (1, 2, 4)}
      assert np.concatenate(groups)[:count].tolist() == list(range(count))
      assert sum(len(g) for g in groups) - count < devices * 4


def test_sampling_averages_the_predictions_of_all_windows_at_every_step():
  """Against the same arithmetic in NumPy, of two videos whose windows do not fill their groups."""
  plan = windows.plan([11, 5], 4, 2)
  groups = windows.groups(len(plan.frames), 4)
  assert sum(map(len, groups)) > len(plan.frames)
  table = samplers.ddim(schedules.linear(20, 1e-3, 0.2), 3)
  seeds, shape, calls = [3, 4], (2,), []

  @jax.jit
  def noise(x, seeds, numbers, index):
    return keyed_normal(seeds, numbers, index, shape)

  @jax.jit
  def step(prediction, x, seeds, numbers, row, index):
    draw = lambda _: noise(x, seeds, numbers, index)
    return samplers.sample(lambda *_: prediction, x, row, draw, target='epsilon')

  def predict(number, window, level):  # depends on where in its window a frame is
    calls.append((number, window.shape))
    return window * np.arange(1.0, 5.0)[:, None] + plan.videos[groups[number]][:, None, None]

  found = windows.sample(shape, plan, groups, table, seeds, windows.Functions(noise, predict, step))
  assert calls == 3 * [(i, (4, 4, 2)) for i in range(len(groups))]
  assert len(found) == windows.padded_count(plan.count) == 16

  every = np.repeat(np.asarray(seeds, np.uint32), plan.sizes)
  numbers = np.concatenate([np.arange(n, dtype=np.uint32) for n in plan.sizes])
  x = np.asarray(noise(None, every, numbers, len(table)))
  for index in range(len(table)):
    predictions = x[plan.frames] * np.arange(1.0, 5.0)[:, None] + plan.videos[:, None, None]
    mean = windows.merge(predictions, plan.frames, plan.count)
    x = np.asarray(step(mean, x, every, numbers, table.rows(np.array([index])), index))
  np.testing.assert_allclose(found[: plan.count], x, rtol=1e-5, atol=1e-5)


def test_frames_are_padded_to_few_numbers():
  counts = [windows.padded_count(n) for n in range(1, 2000)]
  assert all(n <= padded <= max(1.5 * n, 2) for n, padded in enumerate(counts, 1))
  assert len(set(counts)) <= 22

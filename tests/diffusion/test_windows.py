"""Overlapping windows: which frames they have, and the mean of their predictions."""

import numpy as np
import pytest

from talkjax.diffusion import windows


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


def test_the_mean_prediction_is_of_all_windows():
  plan = windows.plan([11, 5], 4, 2)
  x = np.random.default_rng(0).normal(size=(plan.count, 3)).astype(np.float32)
  calls = []

  def predict(number, window):
    calls.append((number, window.shape))
    return window + plan.videos[groups[number]][:, None, None]

  groups = windows.groups(len(plan.frames), 2)
  mean = windows.mean_prediction(x, plan, groups, predict)
  np.testing.assert_allclose(mean, x + np.repeat([0, 1], plan.sizes)[:, None], rtol=1e-6)
  assert calls == [(i, (2, 4, 3)) for i in range(len(groups))]


def test_chunks_are_of_one_size():
  sizes = []

  def double(a, b):
    sizes.append((len(a), len(b)))
    return 2 * a + b

  a, b = np.arange(11.0), np.ones(11)
  np.testing.assert_array_equal(windows.in_chunks(4, double, a, b), 2 * a + 1)
  assert sizes == [(4, 4)] * 3

import numpy as np
import pytest

from talkjax.metrics import beats


def test_a_head_that_stops_every_second():
  frame = np.arange(150)
  swing = 10 * np.sin(np.pi * frame / 25)[:, None, None]  # turns at 12.5, 37.5, ... where its speed is least
  found = beats.motion_beats(swing)
  np.testing.assert_allclose(found, [12, 37, 62, 87, 112, 137], atol=1)
  assert beats.align(found, found) == 1
  assert beats.align(found + 3, found) == pytest.approx(np.exp(-0.5))


def test_no_beats():
  still = np.zeros((50, 1, 3))
  assert len(beats.motion_beats(still)) == 0 and len(beats.motion_beats(still[:1])) == 0
  assert beats.align(np.array([3, 9]), beats.motion_beats(still)) == 0
  assert np.isnan(beats.align(np.array([]), np.array([4])))
  assert len(beats.onsets(np.zeros(16_000, np.float32), 25, 25)) == 0
  assert len(beats.onsets(np.zeros(0, np.float32), 25, 25)) == 0


def test_onsets_of_bursts():
  sound = np.zeros(32_000, np.float32)
  tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(3200) / 16_000) * np.minimum(1, np.arange(3200)[::-1] / 2000)
  for second in (0.4, 1.0, 1.6):
    sound[int(second * 16_000) :][:3200] = tone
  np.testing.assert_allclose(beats.onsets(sound, 25, 50), [10, 25, 40], atol=1)
  np.testing.assert_allclose(beats.onsets(sound, 25, 30), [10, 25], atol=1)

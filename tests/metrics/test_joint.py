"""Sound and mouths that are made to belong together, or not."""

import numpy as np
import pytest

from talkjax.metrics import footage, joint, pairs
from talkjax.metrics.suites import Context, SuiteRun
from tests.faces_given import face_track, landmarks, with_face

FRAMES = 50


def curve(seed):
  """A level in [0, 1] that rises and falls, another one for each seed."""
  r = np.random.default_rng(seed)
  return np.clip(0.5 + np.convolve(r.normal(size=FRAMES + 8), np.ones(9) / 3, 'valid') / 2, 0, 1)


def sound_of(level, fps=25.0):
  noise = np.random.default_rng(0).normal(size=round(FRAMES / fps * 16_000))
  return (0.1 * 10 ** (np.repeat(level, len(noise) // FRAMES) - 1) * noise).astype(np.float32)


def talking(opening, sound, name='clip'):
  """A video whose inner lips are as far apart as a curve says."""
  points = landmarks(FRAMES)
  points[:, [67, 66, 65]] = points[:, [61, 62, 63]]
  points[:, [65, 66, 67], 1] += 4 * opening[:, None]
  frames = [np.full((96, 96, 3), 100, np.uint8)] * FRAMES
  return with_face(footage.from_frames(name, frames, 25.0, sound), face_track(points))


def scores_of(clips):
  run = SuiteRun([pairs.JOINT], Context('landmarks'))
  rows = [run.score(footage.Pair('p', '', made, true)) for made, true in clips]
  return rows, run.total()


def test_loudness_is_the_level_of_each_frame():
  t = np.arange(16_000) / 16_000
  sound = np.where(t < 0.5, 0.5, 0.05) * np.sin(2 * np.pi * 500 * t)
  level = joint.loudness(sound, 10.0, 12)
  assert level[:5] == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=1e-6)
  assert level[5:10] == pytest.approx(level[:5] - 20, abs=1e-6)
  assert level[10:].tolist() == [-60, -60]  # after the end of the sound


def test_mouths_that_follow_their_own_sound():
  levels = [curve(i) for i in range(4)]
  true = [talking(level, sound_of(level)) for level in levels]
  other = [talking(level, sound_of(levels[i - 1])) for i, level in enumerate(levels)]
  rows, total = scores_of([*zip(true, true)])
  assert min(row['loudness_mouth'] for row in rows) > 0.95
  assert rows[0]['loudness_mouth'] == rows[0]['loudness_mouth_truth']
  assert abs(total['loudness_mouth_shuffled']) < 0.5
  assert total['opening_deviation'] == total['loudness_deviation'] == 1
  rows, _ = scores_of([*zip(other, true)])
  assert np.mean([row['loudness_mouth'] for row in rows]) < 0.5


def test_deviations_are_relative_to_the_truth():
  levels = [curve(i) for i in range(3)]
  half = [(talking(0.5 * x, sound_of(x)), talking(x, sound_of(x))) for x in levels]
  _, total = scores_of(half)
  assert total['opening_deviation'] == pytest.approx(0.5, abs=0.02) and total['loudness_deviation'] == 1
  flat = [(talking(x, sound_of(0 * x + 1)), talking(x, sound_of(x))) for x in levels]
  assert scores_of(flat)[1]['loudness_deviation'] < 0.2


def test_what_does_not_move_does_not_correlate():
  level = curve(0)
  silent, still = talking(level, np.zeros(32_000, np.float32)), talking(0 * level, sound_of(level))
  rows, total = scores_of([(silent, still), (still, silent)])
  assert [row['loudness_mouth'] for row in rows] == [0, 0]
  assert total['fad_log_mel'] == pytest.approx(0, abs=1e-3)  # the same two sounds
  assert np.isnan(joint.correlation(np.full(9, np.nan), level[:9]))
  assert np.isnan(joint.shuffled([np.stack([level, level])]))


def test_sets_of_different_sizes():
  """A video of one set has no counterpart in the other; the distance is that of the sets."""
  true = [talking(curve(i), sound_of(curve(i))) for i in range(3)]
  run = SuiteRun([pairs.JOINT], Context('landmarks'))
  rows = [run.score(footage.Pair('p', '', true[0], None))]
  rows += [run.score(footage.Pair('p', '', None, video)) for video in true]
  assert rows[0]['face_found'] == 1 and 'face_found_truth' not in rows[0]
  assert rows[1]['face_found_truth'] == 1 and 'face_found' not in rows[1]
  assert run.total()['fad_log_mel'] > 0


def test_the_embedding_of_sound_knows_pitch_and_rhythm():
  t = np.arange(48_000) / 16_000
  tone = lambda hz: np.sin(2 * np.pi * hz * t).astype(np.float32)
  beats = (tone(500) * (t % 0.25 < 0.125)).astype(np.float32)
  low, high, beating = (joint.embed_sound(x) for x in (tone(500), tone(2000), beats))
  assert low.shape == (5, 2 * joint.BANDS)
  assert low[0, : joint.BANDS].argmax() < high[0, : joint.BANDS].argmax()
  assert beating[2, joint.BANDS :].max() > 5 * low[2, joint.BANDS :].max()
  assert joint.embed_sound(np.zeros(0, np.float32)).shape == (0, 2 * joint.BANDS)
  assert joint.embed_sound(tone(500)[:4000]).shape == (1, 2 * joint.BANDS)

import dataclasses

import numpy as np
import pytest

from talkjax.metrics import captions, footage
from talkjax.metrics.suites import Truth
from tests.example_record import full_record
from tests.faces_given import face_track, landmarks, with_face


def voice(hz, seconds=1.0, seed=0):
  """A pulse train with a little noise, as voiced speech is."""
  t = np.arange(round(seconds * 16_000)) / 16_000
  noise = np.random.default_rng(seed).normal(size=len(t))
  return (0.1 * sum(np.cos(2 * np.pi * hz * k * t) / k for k in range(1, 20)) + 0.005 * noise).astype(np.float32)


@pytest.mark.parametrize('hz', [80, 117.3, 210, 330])
def test_pitch(hz):
  assert 2 ** captions.pitch(voice(hz)) == pytest.approx(hz, rel=0.02)


def test_without_a_voice_there_is_no_pitch():
  noise = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
  assert np.isnan(captions.pitch(noise))
  assert np.isnan(captions.pitch(np.zeros(16_000, np.float32)))
  assert np.isnan(captions.pitch(voice(100)[:500]))


def test_a_classifier_learns_what_tells_captions_apart():
  r = np.random.default_rng(0)
  labels = ['one', 'two', 'three'] * 40
  table = r.normal(size=(120, 6))
  table[:, 2] += [3 * len(label) for label in labels]  # 'one' and 'two' are as long
  table[:, 4] += [4 * (label == 'two') for label in labels]
  table[::7, 0] = np.nan
  classifier = captions.fit(list(table[:90]), labels[:90])
  assert np.mean([classifier(x) == label for x, label in zip(table[90:], labels[90:])]) > 0.9
  assert captions.is_right(classifier, table[0], 'one') in (0.0, 1.0)
  assert captions.is_right(classifier, table[0], 'four') is None
  assert captions.is_right(classifier, None, 'one') is None
  assert captions.fit(list(table[:2]), ['one', 'one']) is None


def test_the_shape_of_a_face_does_not_depend_on_where_it_is():
  points = landmarks(4)
  moved = 1.5 * points + 20
  wide = points.copy()
  wide[:, :17, 0] = 48 + 1.2 * (wide[:, :17, 0] - 48)
  frames = [np.zeros((160, 160, 3), np.uint8)] * 4
  shape = lambda p: captions.describe_picture(with_face(footage.from_frames('f', frames, 25.0, None), face_track(p)))
  assert shape(points) == pytest.approx(shape(moved), abs=1e-4)
  assert np.abs(shape(wide) - shape(points)).max() > 0.05
  assert captions.describe_picture(with_face(footage.from_frames('f', frames, 25.0, None), None)) is None


def test_the_judge_is_fitted_to_records():
  """By the pitch of their voices; a picture without a face, and a record without a caption, teach nothing."""
  pytest.importorskip('mediapipe')
  record, blank = full_record(), Truth([np.zeros((64, 64, 3), np.uint8)], np.zeros((1, 68, 2)))
  spoken = lambda hz, caption: dataclasses.replace(
    record, caption=caption, audio=(32767 * np.clip(voice(hz), -1, 1)).astype(np.int16)
  )
  training = [(spoken(hz, 'low' if hz < 150 else 'high'), blank) for hz in (90, 100, 110, 220, 240, 260)]
  judge = captions.make_judge([*training, (spoken(100, ''), blank)])
  assert judge.picture is None and set(judge.sound.captions) == {'low', 'high'}
  assert captions.is_right(judge.sound, captions.describe_sound(voice(105, seed=1)), 'low') == 1
  assert captions.is_right(judge.sound, captions.describe_sound(voice(250, seed=1)), 'low') == 0

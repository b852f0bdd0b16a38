"""The mouth opening of a puppet as pixels tell it, against the drawing's truth."""

import cv2
import numpy as np
import pytest

pytest.importorskip('data.puppets')
from data.puppets import articulation, identities  # noqa: E402
from talkjax.faces import measures
from talkjax.metrics import lips, puppet_mouth  # noqa: E402
from tests.metrics import fit_puppet_mouth as drawn  # noqa: E402

PEOPLE = identities.TEST


@pytest.fixture(scope='module')
def clips():
  """Two seconds of each test person: frames and landmarks."""
  motions = [drawn.babble(np.random.default_rng(1000 + i), 50) for i in PEOPLE]
  return [drawn.clip(identities.identity(i), motion) for i, motion in zip(PEOPLE, motions)]


def small(frame, size=64):
  return cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA)


def small_and_back(frame):
  return cv2.resize(small(frame), frame.shape[1::-1], interpolation=cv2.INTER_CUBIC)


def jpeg(frame):
  _, data = cv2.imencode('.jpg', frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
  return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]


def off_colour(frame):
  return np.clip(frame * [0.97, 1.02, 1.0] + 5, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
  ('spoil', 'each', 'mean'),
  [
    (lambda frame: frame, 0.98, 0.99),
    (small_and_back, 0.975, 0.985),
    (jpeg, 0.97, 0.985),
    (lambda frame: cv2.GaussianBlur(frame, (0, 0), 1.0), 0.975, 0.985),
    (off_colour, 0.96, 0.98),
  ],
  ids=['drawn', 'small', 'jpeg', 'blur', 'colour'],
)
def test_pixels_tell_the_opening_of_people_never_seen(clips, spoil, each, mean):
  scores = []
  for frames, points in clips:
    measured = puppet_mouth.puppet_openings([spoil(frame) for frame in frames], points)
    scores.append(lips.lip_score(measured, measures.mouth_opening(points)))
  assert min(scores) > each
  assert np.mean(scores) > mean


def test_openings_are_in_face_heights(clips):
  measured = np.concatenate([puppet_mouth.puppet_openings(*clip) for clip in clips])
  true = np.concatenate([measures.mouth_opening(points) for _, points in clips])
  assert np.abs(measured - true).mean() < 0.012
  assert np.polyfit(true, measured, 1)[0] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize('size', [64, 256])
def test_size_of_the_frame_does_not_matter(clips, size):
  frames, points = clips[0]
  scaled = [
    cv2.resize(f, (size, size), interpolation=cv2.INTER_AREA if size < 128 else cv2.INTER_CUBIC) for f in frames
  ]
  there = puppet_mouth.puppet_openings(scaled, points * size / 128)
  assert lips.lip_score(there, puppet_mouth.puppet_openings(frames, points)) > 0.985


def test_true_landmarks_give_nothing_away(clips):
  """A mouth that does not move, or moves otherwise, scores nothing although the true landmarks are given with it."""
  still, other = [], []
  for k, person in enumerate(PEOPLE):
    talking = drawn.babble(np.random.default_rng(2000 + k), 50)
    truth = drawn.clip(identities.identity(person), talking)[1]
    for mouth, scores in ((talking.mouth[:1].repeat(50, 0), still), (talking.mouth[::-1], other)):
      motion = articulation.Motion(mouth, talking.brow, talking.blink, talking.gaze, talking.pose)
      frames, points = drawn.clip(identities.identity(person), motion)
      measured = puppet_mouth.puppet_openings(frames, truth)
      # Whatever is measured, it is what the frames' own landmarks would have given.
      assert np.abs(measured - puppet_mouth.puppet_openings(frames, points)).max() < 0.01
      scores.append(lips.lip_score(measured, measures.mouth_opening(truth)))
  assert abs(np.mean(still)) < 0.2
  assert abs(np.mean(other)) < 0.2


def test_one_frame(clips):
  frames, points = clips[0]
  one = lips.puppet_opening(frames[3], points[3])
  assert isinstance(one, float)
  assert one == pytest.approx(puppet_mouth.puppet_openings(frames, points)[3], abs=1e-9)


def test_a_face_at_the_edge_is_still_measured(clips):
  frames, points = clips[0]
  assert np.isfinite(lips.puppet_opening(frames[0][:70], points[0]))
  assert np.isfinite(lips.puppet_opening(frames[0][:5], points[0] * 3))

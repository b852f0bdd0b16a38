"""Identity, position, keypoints and seams, on drawn people and on synthetic frames."""

import cv2
import numpy as np
import pytest

pytest.importorskip('data.puppets')
from data.puppets import identities  # noqa: E402
from talkjax.errors import UserError  # noqa: E402
from talkjax.faces import landmarks  # noqa: E402
from talkjax.metrics import portrait  # noqa: E402
from tests.metrics import fit_puppet_mouth as drawn  # noqa: E402

PEOPLE = identities.TEST


@pytest.fixture(scope='module')
def clips():
  """Half a second of each test person at 64 x 64, and where the faces were found."""
  frames = []
  for i in PEOPLE:
    motion = drawn.babble(np.random.default_rng(i), 12)
    shown = drawn.clip(identities.identity(i), motion)[0]
    frames.append([cv2.resize(f, (64, 64), interpolation=cv2.INTER_AREA) for f in shown])
  return [(f, landmarks.track(f)) for f in frames]


def test_everyone_is_nearest_to_their_own_portrait(clips):
  portraits = [portrait.describe(f[:1], landmarks.track(f[:1])) for f, _ in clips]
  assert [portrait.nearest(portrait.describe(*clip), portraits) for clip in clips] == list(range(len(clips)))


def test_telling_apart_takes_two(clips):
  with pytest.raises(UserError, match='at least two'):
    portrait.nearest(portrait.describe(*clips[0]), [portrait.describe(*clips[0])])


def test_a_face_lies_in_the_region_that_holds_it(clips):
  _, found = clips[0]
  x0, y0 = np.floor(found.landmarks.min((0, 1))).astype(int)
  x1, y1 = np.ceil(found.landmarks.max((0, 1))).astype(int)
  region = np.zeros((64, 64, 1), np.float32)
  region[y0 : y1 + 1, x0 : x1 + 1] = 1
  assert portrait.in_region(found, region).all()
  assert not portrait.in_region(found, np.roll(region, (y1 - y0) // 2, 0)).any()


def test_keypoints_are_as_far_as_they_were_moved(clips):
  _, found = clips[0]
  assert portrait.keypoint_distance(found, found.landmarks, 64) == 0
  moved = found.landmarks + np.array([3, 4], np.float32)
  assert portrait.keypoint_distance(found, moved, 64) == pytest.approx(5 / 64)


def test_no_face_no_track():
  assert landmarks.track([np.full((64, 64, 3), 127, np.uint8)] * 3) is None
  assert np.isnan(portrait.drawn_opening([np.full((64, 64, 3), 127, np.uint8)] * 3)).all()


def test_the_jump_at_seams_is_a_ratio_of_mean_changes():
  values = np.cumsum([0, 2, 2, 5, 2, 2, 7, 2])  # clips of three frames: 2 inside them, 5 and 7 between them
  frames = [np.full((4, 4, 3), v, np.uint8) for v in values]
  assert portrait.seam_jump(frames, (3, 6)) == pytest.approx(6 / 2)
  for still_or_seamless in ((frames, ()), (frames, (8,)), (frames[:1] * 8, (3, 6)), (frames[:2], (1,))):
    assert np.isnan(portrait.seam_jump(*still_or_seamless))

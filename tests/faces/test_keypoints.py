"""V-Kps: what is drawn, sequences of other lengths, other faces, files."""

import pickle
import zipfile

import cv2
import numpy as np
import pytest
import torch_file

from talkjax.errors import UserError
from talkjax.faces import keypoints
from talkjax.weights.read import read_pickle

FACE = np.array([[180, 200], [330, 210], [260, 300]], np.float32)


def moving(count, scale=1.0):
  """A face that goes right and down, and nods by and by."""
  t = np.arange(count, dtype=np.float32)[:, None, None]
  face = FACE + t * np.array([2, 1], np.float32)
  face[:, 2, 1] += np.arange(count)
  return face * scale


def test_sticks_and_discs_have_their_colours():
  drawn = keypoints.draw(FACE, (512, 512))
  for point, colour in zip(FACE.astype(int), keypoints.COLOURS):
    np.testing.assert_array_equal(drawn[point[1], point[0]], colour)
  np.testing.assert_array_equal(drawn[250, 220], (153, 0, 0))  # half way from the left eye to the nose
  np.testing.assert_array_equal(drawn[255, 295], (0, 153, 0))
  assert drawn[0].max() == 0 and (drawn.max(-1) > 0).mean() < 0.02


def test_small_pictures_keep_the_place():
  drawn = keypoints.draw_all(FACE[None] / 8, 64, 256)[0]
  assert drawn.shape == (64, 64, 3)
  for channel, point in zip(drawn.astype(float).transpose(2, 0, 1), FACE / 8):
    y, x = np.unravel_index(channel.argmax(), channel.shape)
    assert np.abs([x + 0.5 - point[0], y + 0.5 - point[1]]).max() <= 1


def test_the_mirrored_eyes_have_the_colours_of_their_new_sides():
  drawn = keypoints.draw(keypoints.mirrored(FACE, 512), (512, 512))
  pixels = keypoints.draw(FACE, (512, 512))[:, ::-1][..., [1, 0, 2]]  # the picture mirrored, red and green exchanged
  assert np.mean(np.any(drawn != pixels, -1)) < 0.002  # but for rounding at the edges
  np.testing.assert_array_equal(keypoints.mirrored(keypoints.mirrored(FACE, 512), 512), FACE)


def test_a_longer_sequence_is_cut_and_a_shorter_one_stretched():
  driving = moving(20)
  np.testing.assert_array_equal(keypoints.fit_length(driving, 7), driving[:7])
  longer = keypoints.fit_length(driving, 40)
  np.testing.assert_allclose(longer[1:-1].reshape(19, 2, 3, 2)[:, 0, 0], 0.75 * driving[:-1, 0] + 0.25 * driving[1:, 0])
  np.testing.assert_array_equal(longer[[0, -1]], driving[[0, -1]])
  np.testing.assert_array_equal(keypoints.fit_length(driving[:1], 3), np.repeat(driving[:1], 3, 0))


def test_the_same_face_at_another_scale_moves_as_it_did():
  driving = moving(15)
  np.testing.assert_allclose(keypoints.retarget(driving * 0.5, driving[0], 15, 'naive'), driving, rtol=1e-5)
  # The released code compares with a later frame, whose face is longer, but starts at the same nose.
  published = keypoints.retarget(driving * 0.5, driving[0], 15, 'naive', 'published')
  np.testing.assert_allclose(published[0, 2], driving[0, 2], rtol=1e-5)


def test_the_most_similar_frame_is_the_nearest_ratio():
  driving = moving(6)
  driving[:, 0, 0] += np.array([30, 10, 2, 0, 15, 40])  # the left eye comes nearer to the nose
  reference = driving[3] * 1.5
  assert keypoints._most_similar(driving, reference, 'paper') == 3
  got = keypoints.retarget(driving, reference, 6, 'naive')
  np.testing.assert_allclose(got - got[:1, 2:], 1.5 * (driving - driving[:1, 2:]), rtol=1e-4, atol=1e-3)


def test_offset_goes_with_the_driving_nose_and_the_published_one_against_it():
  driving = moving(5)
  ours, theirs = (keypoints.retarget(driving, FACE, 5, 'offset', c) for c in keypoints.COMPAT)
  assert np.all(np.diff(ours[:, 2], axis=0) > 0) and np.all(np.diff(theirs[:, 2], axis=0) < 0)
  np.testing.assert_array_equal(ours[0], FACE)


def test_still_and_as_they_are():
  np.testing.assert_array_equal(keypoints.retarget(moving(5), FACE, 3, 'fix_face'), np.repeat(FACE[None], 3, 0))
  np.testing.assert_array_equal(keypoints.retarget(moving(5), FACE, 3, 'none'), moving(3))
  with pytest.raises(UserError, match='expected one of fix_face, none, offset, naive'):
    keypoints.retarget(moving(5), FACE, 3, 'nearest')
  flat = np.array([[[0, 0], [10, 0], [5, 0]]], np.float32)
  with pytest.raises(UserError, match='lie in one line'):
    keypoints.retarget(flat, FACE, 3, 'naive')


def test_files_of_keypoints(tmp_path):
  driving = moving(4)
  np.save(tmp_path / 'a.npy', driving)
  np.testing.assert_array_equal(keypoints.read(tmp_path / 'a.npy'), driving)
  more = np.concatenate([driving, driving[:, :2]], axis=1)  # the mouth's corners too
  torch_file.save(tmp_path / 'a.pth', torch_file.Tensor(more))
  np.testing.assert_array_equal(keypoints.read(tmp_path / 'a.pth'), driving)


@pytest.mark.parametrize(
  ('made', 'sentence'),
  [
    (np.zeros((4, 2, 2)), r'expected an array \[frames, 3, 2\] of pixels, found \[4, 2, 2\]'),
    (np.full((4, 3, 2), np.nan), 'not finite'),
    (np.array([{}], object), 'not a readable .npy file'),
  ],
)
def test_files_of_something_else(tmp_path, made, sentence):
  np.save(tmp_path / 'a.npy', made)
  with pytest.raises(UserError, match=sentence):
    keypoints.read(tmp_path / 'a.npy')


def test_the_published_sample(samples):
  """A pickle of numpy arrays, as the released script writes it, and the eyes where the portrait has them."""
  points = keypoints.read(samples / 'vexpress' / 'triple_kps.pth')
  assert points.shape == (137, 3, 2) and points.dtype == np.float32
  assert np.all(points[:, 0, 0] < points[:, 1, 0]) and np.all(points[:, 2, 1] > points[:, :2, 1].mean(1))
  drawn = keypoints.draw(points[0], (512, 512))
  assert cv2.connectedComponents((drawn.max(-1) > 0).astype(np.uint8))[0] == 2  # one V on black


def test_numbers_in_the_other_byte_order_are_refused(tmp_path):
  path = tmp_path / 'a.pth'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', pickle.dumps(np.zeros((2, 3, 2), '>f4'), protocol=2))
  with pytest.raises(UserError, match='byte order'):
    read_pickle(path)
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', pickle.dumps(np.array([print], object), protocol=2))
  with pytest.raises(UserError, match='expected numbers'):
    read_pickle(path)


def test_numbers_that_no_float_can_hold(tmp_path):
  points = [[[10**400, 0], [1, 0], [0, 1]]]
  with zipfile.ZipFile(tmp_path / 'a.pth', 'w') as archive:
    archive.writestr('archive/data.pkl', pickle.dumps(points, protocol=2))
  with pytest.raises(UserError, match='a.pth'):
    keypoints.read(tmp_path / 'a.pth')
  np.save(tmp_path / 'a.npy', np.ones((4, 3, 2)) * 1j)
  with pytest.raises(UserError, match=r'expected an array \[frames, 3, 2\]'):
    keypoints.read(tmp_path / 'a.npy')

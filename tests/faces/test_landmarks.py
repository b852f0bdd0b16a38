"""The face track: gaps, choices and angles on made-up meshes; the detector itself on real clips where they are."""

import itertools

import cv2
import numpy as np
import pytest

from talkjax.faces import detector, landmarks, measures
from talkjax.media import picture, video


def _turn(yaw, pitch, roll):
  """Rotation of x right, y down, z away by angles in degrees as the module's docstring signs them."""
  a, b, c = np.radians([yaw, pitch, roll])
  # Yaw to the right of the picture: what points at the camera (-z) goes to +x. Pitch up: -z goes to -y.
  about_y = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
  about_x = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
  about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
  return about_y @ about_x @ about_z


def _head(yaw=0.0, pitch=0.0, roll=0.0):
  """[68, 3] whose stable points are the mean face's, turned, 60 px between the eyes, somewhere in a picture."""
  points = np.zeros((68, 3))
  points[measures.STABLE] = measures.MEAN_FACE
  return 60 * points @ _turn(yaw, pitch, roll).T + [200, 150, 0]


@pytest.mark.parametrize('angles', [(0, 0, 0), (25, 0, 0), (0, 15, 0), (0, 0, -20), (-30, 10, 12), (40, -25, 5)])
def test_pose_of_a_turned_head(angles):
  pose = measures.head_pose(_head(*angles)[None])
  assert pose.dtype == np.float32
  np.testing.assert_allclose(pose[0], angles, atol=1e-3)


def test_pose_signs_in_the_picture():
  nose, eyes = 30, (36, 45)
  right = _head(yaw=20)
  assert right[nose, 0] > right[list(eyes), 0].mean()  # the nose is nearer the right of the picture
  up = _head(pitch=20)
  assert up[nose, 1] < _head()[nose, 1]
  clockwise = _head(roll=20)
  assert clockwise[45, 1] > clockwise[36, 1]  # the eye on the right is lower


def test_gaps_are_filled_between_neighbours():
  found = np.array([0, 1, 0, 0, 1, 1, 0], bool)
  values = np.where(found[:, None], np.array([9, 10, 9, 9, 40, 50, 9.0])[:, None], np.nan)
  assert landmarks.fill_gaps(values, found)[:, 0].tolist() == [10, 10, 20, 30, 40, 50, 50]
  whole = np.arange(4.0)[:, None]
  assert (landmarks.fill_gaps(whole, np.ones(4, bool)) == whole).all()


def test_longest_gap():
  assert landmarks.longest_gap(np.array([1, 1, 1], bool)) == (0, 0)
  assert landmarks.longest_gap(np.array([0, 1, 0, 0, 1], bool)) == (2, 2)
  assert landmarks.longest_gap(np.array([1, 0, 1, 0, 0, 0], bool)) == (3, 3)


def test_too_few_faces_are_told_with_their_number():
  with pytest.raises(landmarks.NoFace, match=r'any of the 5 frames of a.mp4'):
    landmarks.check_found(np.zeros(5, bool), 'a.mp4')
  with pytest.raises(landmarks.NoFace, match=r'only 3 of the 10 frames'):
    landmarks.check_found(np.arange(10) < 3, 'a.mp4')
  with pytest.raises(landmarks.NoFace, match=r'none of frames 60 to 89'):
    landmarks.check_found((np.arange(100) < 60) | (np.arange(100) >= 90), 'a.mp4')
  landmarks.check_found(np.arange(100) % 3 > 0, 'a.mp4')
  with pytest.raises(landmarks.NoFace, match='no frames'):
    landmarks.check_found(np.zeros(0, bool), 'a.mp4')


def test_pixels_are_truncated_as_published():
  mesh = np.zeros((468, 3), np.float32)
  assert (landmarks.mesh_to_68(mesh, 128) == 0).all()
  mesh[:, 0], mesh[:, 1] = 0.9999, -0.004
  points = landmarks.mesh_to_68(mesh, (100, 200))
  assert points.shape == (68, 2) and points.dtype == np.int32
  assert (points == [199, 0]).all()
  np.testing.assert_allclose(landmarks.mesh_points(mesh, (100, 200))[0], [199.98, -0.4], atol=1e-4)


def test_mouth_opening_knows_no_size_tilt_or_place():
  points = np.zeros((68, 2))
  points[measures.STABLE] = measures.MEAN_FACE[:, :2]
  points[36:42] = [-0.5, 0]
  points[42:48] = [0.5, 0]
  points[[61, 62, 63]] = [[-0.1, 1.0], [0, 1.0], [0.1, 1.0]]
  points[[67, 66, 65]] = points[[61, 62, 63]] + [0, 0.22]
  closed = points.copy()
  closed[[67, 66, 65]] = points[[61, 62, 63]]
  turn = _turn(0, 0, 30)[:2, :2]
  opening = measures.mouth_opening(np.stack([points * 50, points @ turn.T * 300 + [40, 70], closed * 80]))
  np.testing.assert_allclose(opening, [0.1, 0.1, 0], atol=1e-6)


def _square(x, y, side):
  mesh = np.zeros((468, 3))
  mesh[0], mesh[1] = [x, y, 0], [x + side, y + side, 0]
  mesh[2:, :2] = [x + side / 2, y + side / 2]
  return mesh


def test_the_largest_face_is_tracked():
  small, large = _square(0, 0, 40), _square(100, 0, 50)
  assert landmarks.select_face([], None) is None
  assert landmarks.select_face([small, large], None) is large
  assert landmarks.select_face([large, small], _square(2, 2, 40)) is small  # the one before, though another is larger
  assert landmarks.select_face([_square(100, 0, 90), small], _square(2, 2, 40))[1, 0] == 190  # much larger
  assert landmarks.select_face([large], _square(2, 2, 40)) is large  # a cut


def test_a_face_seen_twice_is_one():
  assert len(detector.distinct([_square(0, 0, 40), _square(3, 2, 40), _square(100, 0, 60)])) == 2


def test_tiles_cover_the_picture():
  seen = np.zeros((300, 500), bool)
  for x0, y0, x1, y1 in detector.tiles(300, 500):
    assert 0 <= x0 < x1 <= 500 and 0 <= y0 < y1 <= 300
    seen[y0:y1, x0:x1] = True
  assert seen.all()
  assert detector.tiles(60, 60) == []


def _clip(samples, name, frames):
  return list(itertools.islice(video.read_frames(samples / name), frames))


def test_no_face_in_a_gray_clip():
  pytest.importorskip('mediapipe')
  with pytest.raises(landmarks.NoFace, match='any of the 12 frames of gray.mp4'):
    landmarks.find_faces([np.full((120, 160, 3), 90, np.uint8)] * 12, 'gray.mp4')


def test_real_face(samples, capfd):
  pytest.importorskip('mediapipe')
  frames = _clip(samples, 'clips/talk_524_25fps.mp4', 10)
  frames[4] = np.zeros_like(frames[4])
  track = landmarks.find_faces(frames)
  assert capfd.readouterr().err == ''
  assert track.landmarks.shape == (10, 68, 2) and track.mesh.shape == (10, 468, 3) and track.pose.shape == (10, 3)
  assert track.found.tolist() == [True] * 4 + [False] + [True] * 5 and track.num_faces == 1
  np.testing.assert_allclose(track.landmarks[4], (track.landmarks[3] + track.landmarks[5]) / 2, atol=1e-3)
  points = track.landmarks[0]
  assert points[36, 0] < points[45, 0] and points[27, 1] < points[33, 1] < points[51, 1] < points[8, 1]
  low, high = track.box[0, :2], track.box[0, 2:]
  assert (points >= low).all() and (points <= high).all()
  mirrored = landmarks.find_faces([f[:, ::-1] for f in frames[:4]])
  np.testing.assert_allclose(mirrored.pose[2], track.pose[2] * [-1, 1, -1], atol=4)


def test_a_small_face_in_a_large_picture_is_found(samples):
  pytest.importorskip('mediapipe')
  frames = _clip(samples, sorted((samples / 'grid' / 's1').glob('*.mpg'))[0].relative_to(samples), 5)
  wide = []
  for frame in frames:
    canvas = np.full((720, 1280, 3), 120, np.uint8)
    canvas[300:444, 200:380] = cv2.resize(frame, (180, 144), interpolation=cv2.INTER_AREA)
    wide.append(canvas)
  close, far = landmarks.find_faces(frames), landmarks.find_faces(wide)
  assert far.found.all()
  assert np.abs((far.landmarks - [200, 300]) * 2 - close.landmarks).mean() < 1.5


def test_the_larger_of_two_is_followed_and_both_are_counted(samples):
  pytest.importorskip('mediapipe')
  large = _clip(samples, 'clips/talk_524_25fps.mp4', 4)
  other = cv2.resize(picture.read(samples / 'portraits' / 'portrait_375x500.jpg'), (262, 349))
  frames = [np.concatenate([f, np.pad(other, ((0, 175), (0, 0), (0, 0)))], 1) for f in large]
  track = landmarks.find_faces(frames)
  assert track.num_faces == 2
  assert (track.box[:, 2] < 524).all()


def test_every_portrait_has_a_face(samples):
  pytest.importorskip('mediapipe')
  for path in sorted((samples / 'portraits').iterdir()):
    track = landmarks.find_faces([picture.read(path)], path.name)
    assert np.abs(track.pose).max() < 30

"""Crops stand upright and centred whatever the face did; what is put back lands where it came from."""

import cv2
import numpy as np
import pytest

from talkjax.faces import align, mask, measures


def _face(scale=50.0, degrees=0.0, place=(150.0, 120.0)):
  """[68, 2]: the mean face's stable points in a frame (the rest lie between the eyes)."""
  points = np.zeros((68, 2))
  points[measures.STABLE] = measures.MEAN_FACE[:, :2]
  a = np.radians(degrees)
  turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
  return scale * points @ turn.T + place


def _smooth_picture(height, width, seed=0):
  noise = np.random.default_rng(seed).integers(0, 255, (height // 20 + 2, width // 20 + 2, 3), np.uint8)
  return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize('scale,degrees,place', [(50, 0, (150, 120)), (20, 30, (60, 60)), (300, -25, (500, 400))])
def test_any_face_comes_to_lie_on_the_canonical_one(scale, degrees, place):
  face = _face(scale, degrees, place)
  for size in (128, 64):
    transforms = align.canonical_transforms(face[None], size)
    assert transforms.shape == (1, 2, 3) and transforms.dtype == np.float32
    moved = align.transform_points(face[None], transforms)[0]
    np.testing.assert_allclose(moved[measures.STABLE][align.FIT], align.canonical_points(size), atol=1e-3 * size)
    assert align.scale_of(transforms[0]) == pytest.approx(align.EYE_DISTANCE * size / scale, rel=1e-4)


def test_brows_and_open_jaw_fit_the_crop():
  """Brows reach 0.6 eye distances above the eyes, an open jaw 2.2 below: measured on the sample clips."""
  assert align.EYES_Y - 0.6 * align.EYE_DISTANCE > 0.1
  assert align.EYES_Y + 2.2 * align.EYE_DISTANCE < 0.95
  assert 2 * 1.135 * align.EYE_DISTANCE < 0.7


def test_the_fit_is_the_least_squares_one():
  """Against the normal equations of a similarity, solved as a linear system."""
  rng = np.random.default_rng(0)
  source, target = rng.normal(0, 40, (7, 2)) + 90, rng.normal(0, 10, (7, 2)) + 60
  rows, values = [], []
  for (x, y), (u, v) in zip(source, target):
    rows += [[x, -y, 1, 0], [y, x, 0, 1]]
    values += [u, v]
  a, b, tx, ty = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
  np.testing.assert_allclose(align.similarity(source[None], target)[0], [[a, -b, tx], [b, a, ty]], atol=1e-9)


def test_smoothing_averages_seven_frames_and_fewer_at_the_ends():
  values = np.random.default_rng(0).normal(size=(12, 3, 2))
  mean = align.centred_mean(values, 7)
  np.testing.assert_allclose(mean[5], values[2:9].mean(0))
  np.testing.assert_allclose(mean[0], values[0])
  np.testing.assert_allclose(mean[1], values[0:3].mean(0))
  np.testing.assert_allclose(mean[10], values[9:12].mean(0))
  line = np.arange(9.0)[:, None]
  np.testing.assert_allclose(align.centred_mean(line, 7), line)  # steady motion is not delayed anywhere
  np.testing.assert_allclose(align.centred_mean(values[:1], 7), values[:1])


def test_smoothing_steadies_the_crop():
  rng = np.random.default_rng(0)
  shaky = np.stack([_face(place=(150, 120) + rng.normal(0, 2, 2)) for _ in range(40)])
  raw, calm = (align.canonical_transforms(shaky, smooth=n)[:, :, 2] for n in (1, 7))
  assert np.diff(calm, axis=0).std() < 0.3 * np.diff(raw, axis=0).std()
  with pytest.raises(ValueError, match='odd'):
    align.canonical_transforms(shaky, smooth=4)


def test_inverse():
  transform = align.canonical_transforms(_face(70, 15)[None])
  points = np.random.default_rng(0).uniform(0, 200, (5, 2))
  back = align.transform_points(align.transform_points(points, transform[0]), align.invert(transform[0]))
  np.testing.assert_allclose(back, points, atol=1e-3)


def test_a_crop_shows_the_frame_at_the_right_place():
  """A linear ramp of colour tells where each pixel of the crop came from."""
  height, width = 300, 400
  x, y = np.meshgrid(np.arange(width), np.arange(height))
  frame = np.stack([x / 2, y / 2, np.zeros_like(x)], -1).astype(np.uint8)
  for scale, degrees in ((15, 0), (36, 20), (75, -10)):
    transform = align.canonical_transforms(_face(scale, degrees, (200, 120))[None])[0]
    picture = align.crop(frame, transform)
    v, u = np.meshgrid(np.arange(128), np.arange(128), indexing='ij')
    origin = align.transform_points(np.stack([u, v], -1).reshape(-1, 2).astype(float), align.invert(transform))
    inside = ((origin > 3) & (origin < [width - 4, height - 4])).all(-1)
    got = picture.reshape(-1, 3)[:, :2][inside] * 2.0
    assert np.abs(got - (origin[inside] - 0.5)).max() < 3
    assert abs((got - (origin[inside] - 0.5)).mean()) < 0.3


def test_a_fine_pattern_does_not_flicker_when_it_shrinks():
  rng = np.random.default_rng(0)
  frame = np.repeat(rng.integers(0, 2, (900, 900, 1), np.uint8) * 255, 3, 2)
  transform = align.canonical_transforms(_face(300, 0, (450, 350))[None])[0]
  picture = align.crop(frame, transform)
  assert picture.std() < 40  # plain sampling would leave it at 127


def test_a_face_at_the_border_repeats_the_edge():
  frame = np.full((100, 100, 3), 77, np.uint8)
  assert (align.crop(frame, align.canonical_transforms(_face(40, 0, (5, 95))[None])[0]) == 77).all()
  assert (align.crop(frame, align.canonical_transforms(_face(40, 0, (900, 900))[None])[0]) == 77).all()


@pytest.mark.parametrize('scale,degrees', [(18, 0), (36, 12), (90, -20), (200, 5)])
def test_an_unchanged_crop_put_back_changes_next_to_nothing(scale, degrees):
  frame = _smooth_picture(540, 720)
  before = frame.copy()
  face = _face(scale, degrees, (350, 200))
  transform = align.canonical_transforms(face[None])[0]
  region = mask.jaw_mask(align.transform_points(face, transform), 128, 'rectangle')
  result = align.paste(frame, align.crop(frame, transform), transform, region)
  assert (frame == before).all() and result.dtype == np.uint8
  changed = np.abs(result.astype(int) - frame)
  assert changed.mean() < 0.5 and changed.max() < 30
  _only_inside(frame, result, transform, region)


def _only_inside(frame, result, transform, region):
  height, width = frame.shape[:2]
  x, y = np.meshgrid(np.arange(width), np.arange(height))
  at = align.transform_points(np.stack([x, y], -1).reshape(-1, 2).astype(float), transform).reshape(height, width, 2)
  column, row = (np.clip(np.rint(at[..., i]).astype(int), 0, 127) for i in (0, 1))
  grown = cv2.dilate(region, np.ones((3, 3)))
  inside = (at > -1).all(-1) & (at < 128).all(-1) & (grown[row, column] > 0)
  assert (result[~inside] == frame[~inside]).all()


@pytest.mark.parametrize('scale', [18, 36, 150])
def test_a_painted_patch_replaces_the_middle_and_only_the_mask(scale):
  frame = _smooth_picture(540, 720, 1)
  face = _face(scale, 10, (350, 200))
  transform = align.canonical_transforms(face[None])[0]
  region = mask.jaw_mask(align.transform_points(face, transform), 128, 'rectangle')
  patch = np.zeros((128, 128, 3), np.uint8)
  patch[..., 1] = 255
  result = align.paste(frame, patch, transform, region)
  _only_inside(frame, result, transform, region)
  rows, columns, _ = np.nonzero(region)
  middle = align.transform_points(np.array([[columns.mean(), rows.mean()]]), align.invert(transform))[0]
  assert result[int(middle[1]), int(middle[0])].tolist() == [0, 255, 0]
  assert np.count_nonzero((result == [0, 255, 0]).all(-1)) > 0.5 * region.sum() / align.scale_of(transform) ** 2


def test_the_edge_is_soft():
  region = np.zeros((128, 128, 1), np.float32)
  region[60:, 30:100] = 1
  weight = align.soft_edge(region, 6)
  assert (weight[region[..., 0] == 0] == 0).all() and weight[90, 64] == 1
  assert weight[-1].max() < 0.1  # the crop ends here: the patch must not
  assert np.abs(np.diff(weight, axis=0)).max() < 0.35 and np.abs(np.diff(weight, axis=1)).max() < 0.35


def test_an_empty_or_distant_mask_changes_nothing():
  frame = _smooth_picture(100, 100)
  patch = np.zeros((128, 128, 3), np.uint8)
  transform = align.canonical_transforms(_face(20, 0, (50, 40))[None])[0]
  assert (align.paste(frame, patch, transform, np.zeros((128, 128, 1))) == frame).all()
  away = align.canonical_transforms(_face(20, 0, (900, 40))[None])[0]
  assert (align.paste(frame, patch, away, np.ones((128, 128, 1))) == frame).all()

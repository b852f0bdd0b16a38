"""Portraits laid over faces that are elsewhere, and the squares of pictures that portrait systems see."""

import cv2
import numpy as np

from talkjax.systems.portrait import framing, overlay

SIZE = 32


def picture(seed: int = 0) -> np.ndarray:
  """A smooth random picture, float32 [1, 32, 32, 3]."""
  coarse = np.random.default_rng(seed).normal(size=(6, 6, 3)).astype(np.float32)
  return cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)[None]


def points(seed: int = 1) -> np.ndarray:
  return np.random.default_rng(seed).uniform(0.3, 0.7, (1, 68, 2)).astype(np.float32)


def follow(source: np.ndarray, target: np.ndarray) -> np.ndarray:
  """The picture with its points moved, [1, 32, 32, 3]."""
  return np.asarray(overlay.sample(picture(), overlay.follow(source, target[:, None], SIZE)))[:, 0]


def lay_over(images: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
  return np.asarray(overlay.sample(images, overlay.follow_landmarks(source, target, SIZE)))


def test_colours_between_pixels_are_those_of_opencv():
  where = np.random.default_rng(2).uniform(-0.1, 1.1, (1, 40, 2)).astype(np.float32)
  x, y = np.moveaxis(where[0] * SIZE - 0.5, -1, 0)
  expected = cv2.remap(picture()[0], x[None], y[None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
  np.testing.assert_allclose(overlay.sample(picture(), where), expected, atol=0.05)  # OpenCV has 5 bits of fraction


def test_a_face_in_its_own_place_stays_as_it_is():
  np.testing.assert_allclose(lay_over(picture(), points(), points()), picture(), atol=1e-3)


def test_a_head_that_moves_takes_the_picture_along():
  """An affine motion of all landmarks is that of every pixel, as OpenCV warps it."""
  turn = np.array([[0.9, -0.15, 0.1], [0.2, 1.05, -0.08]], np.float32)
  target = points() @ turn[:, :2].T + turn[:, 2]
  pixels = turn.copy()
  pixels[:, 2] = SIZE * turn[:, 2] + turn[:, :2] @ [0.5, 0.5] - 0.5
  expected = cv2.warpAffine(picture()[0], pixels, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
  made = lay_over(picture(), points(), target)[0]
  np.testing.assert_allclose(made[4:-4, 4:-4], expected[4:-4, 4:-4], atol=0.08)


def test_a_landmark_that_moves_alone_moves_its_surroundings_only():
  angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
  ring = 0.5 + 0.3 * np.stack([np.cos(angle), np.sin(angle)], -1)
  source = np.concatenate([ring, [[0.5, 0.5]]])[None].astype(np.float32)
  target = source.copy()
  target[0, -1] += [0.1, 0]
  ramp = np.broadcast_to(np.linspace(0, 1, SIZE, dtype=np.float32)[:, None], (1, SIZE, SIZE, 1))
  change = np.abs(lay_over(ramp, source, target) - ramp)[0, ..., 0]
  assert abs(change[15:17, 18:20].mean() - 0.1) < 0.03  # the ramp rises by 1 over the picture
  assert change[:, :3].max() < 0.02 and change[:3].max() < 0.02


def test_the_turn_of_a_face_is_what_the_similarity_leaves_of_its_keypoints():
  angle, scale, shift = 0.2, 1.15, np.array([0.06, -0.04], np.float32)
  rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
  source = points()[:, :3]
  moved = source @ rotation.T + shift
  shape, rest, similarity = np.split(np.asarray(overlay.turn(source, moved[:, None]))[0, 0], [6, 12])
  spread = np.sqrt(np.mean(np.sum(np.square(source - source.mean(1)), -1)))
  np.testing.assert_allclose(shape, ((source - source.mean(1))[0] / spread).T.reshape(-1), rtol=1e-4)
  np.testing.assert_allclose(rest, 0, atol=1e-4)
  np.testing.assert_allclose(similarity / overlay.TURN_SCALE, [-angle, -np.log(scale)], rtol=1e-4)

  # A nose that moves to the right, as that of a head that turns, is seen there, whatever the similarity.
  nose = source + np.array([[0, 0], [0, 0], [0.02, 0]], np.float32)
  turned = [np.asarray(overlay.turn(source, p[:, None]))[0, 0] for p in (nose, nose @ rotation.T + shift)]
  np.testing.assert_allclose(turned[0][:12], turned[1][:12], atol=1e-3)
  assert turned[0].shape == (overlay.TURN,) and turned[0][8] > 0 > turned[0][6:8].max()


def test_a_head_is_moved_by_the_similarity_that_fits_its_keypoints_best():
  """Turned, enlarged and shifted keypoints move every pixel so, as OpenCV warps it."""
  angle, scale, shift = 0.2, 1.15, np.array([0.06, -0.04], np.float32)
  turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
  source = points()[:, :3]
  target = source @ turn.T + shift
  pixels = np.concatenate([turn, (SIZE * shift + turn @ [0.5, 0.5] - 0.5)[:, None]], 1)
  expected = cv2.warpAffine(picture()[0], pixels, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
  made = follow(source, target)[0]
  np.testing.assert_allclose(made[4:-4, 4:-4], expected[4:-4, 4:-4], atol=0.08)

  bent = target + np.array([[[0.02, 0.0], [-0.02, 0.01], [0.0, -0.01]]], np.float32)  # no similarity does that
  offset, at = source - source.mean(1, keepdims=True), bent - bent.mean(1, keepdims=True)
  equations = np.concatenate([np.stack([at[0, :, 0], -at[0, :, 1]], -1), np.stack([at[0, :, 1], at[0, :, 0]], -1)])
  (a, b), *_ = np.linalg.lstsq(equations, np.concatenate([offset[0, :, 0], offset[0, :, 1]]), rcond=None)
  where = (np.asarray(overlay.pixel_centres(SIZE)) - bent.mean(1)) @ np.array([[a, b], [-b, a]]) + source.mean(1)
  expected = overlay.sample(picture(), where[None].astype(np.float32))
  np.testing.assert_allclose(follow(source, bent).reshape(1, -1, 3), expected, atol=1e-4)


def test_keypoints_in_one_place_move_nothing_to_infinity():
  made = follow(points()[:, :3], np.full((1, 3, 2), 0.5, np.float32))
  assert np.isfinite(made).all()


def test_a_flow_moves_every_pixel_by_its_own_vector():
  """Flows of 8 x 8 places, in patches of 2 x 2: where it is constant, the picture is shifted by it, as by indices."""
  points = np.broadcast_to(overlay.pixel_centres(SIZE).reshape(1, 1, SIZE, SIZE, 2), (1, 1, SIZE, SIZE, 2))
  right, down = 3 / SIZE / overlay.FLOW_SCALE, -2 / SIZE / overlay.FLOW_SCALE  # in pixels
  flow = np.tile(np.array([right, down], np.float32), (1, 2, 8, 8, 4))
  made = np.asarray(overlay.sample(picture(), overlay.add_flow(points, flow)))
  assert made.shape == (1, 2, SIZE, SIZE, 3)
  for frame in made[0]:
    np.testing.assert_allclose(frame[2:, :-3], picture()[0, :-2, 3:], atol=1e-4)

  left = np.zeros((1, 1, 8, 8, 2, 2, 2), np.float32)  # [..., rows of a patch, columns of a patch, x and y]
  left[:, :, :, :4, ..., 0] = 1
  left[:, :, :, 4, :, 0, 0] = 1  # the left column of the patches right of the middle
  moved = np.asarray(overlay.add_flow(points, left.reshape(1, 1, 8, 8, 8)) - points)[0, 0] / overlay.FLOW_SCALE
  np.testing.assert_allclose(moved[..., 0][:, :17], 1, atol=1e-5)
  np.testing.assert_allclose(moved[..., 0][:, 19:], 0, atol=1e-5)
  np.testing.assert_array_equal(moved[..., 1], 0)


def test_the_window_is_around_the_face_and_inside_the_picture():
  face = np.array([[40.0, 50.0], [80.0, 110.0]])
  window = framing.around_face(face, (200, 160), 1.5)
  assert window.side == 90 and window.x == 15 and window.y == round(80 - 0.12 * 60 - 45)
  np.testing.assert_allclose(window.points(face, 45), (face - [window.x, window.y]) / 2)
  assert framing.around_face(face, (200, 160), 100) == framing.Window(0, 0, 160)  # no larger than the picture
  assert framing.around_face(face + 70, (200, 160), 1.5) == framing.Window(70, 98, 90)
  shown = framing.Window(3, 4, 8).picture(np.arange(400, dtype=np.uint8).reshape(20, 20, 1).repeat(3, 2), 8)
  assert shown[0, 0, 0] == 4 * 20 + 3 and shown.shape == (8, 8, 3)
  assert framing.centre((20, 31)) == framing.Window(5, 0, 20)

"""The alignment of Deep3DFaceRecon, and what becomes of a translation that was found in an aligned crop."""

import dataclasses

import numpy as np
import pytest

from talkjax.faces import align_deep3d, bfm, morphable


def landmarks(scale: float, shift) -> np.ndarray:
  """68 landmarks of which the five that count are the standard face's, as an orthographic camera sees them."""
  points = np.full((68, 2), 1e3)
  eyes, rest = align_deep3d.STANDARD[:2, :2], align_deep3d.STANDARD[2:, :2]
  points[[36, 39]], points[[42, 45]] = eyes[0] + [[-0.1, 0], [0.1, 0]], eyes[1] + [[-0.1, 0], [0.1, 0]]
  points[[30, 48, 54]] = rest
  return points * [scale, -scale] + np.asarray(shift)


@pytest.mark.parametrize(('scale', 'size'), [(51.0, (200, 300)), (250.0, (700, 640))])
def test_the_face_has_the_published_size_and_place(scale, size):
  height, width = size
  where = align_deep3d.alignment(landmarks(scale, [140, 90]), size)
  assert where.resized == pytest.approx((width * 102 / scale, height * 102 / scale), abs=1)
  # The origin of the standard face is in the middle of the crop.
  assert (np.array([140, 90]) * 102 / scale - where.corner) == pytest.approx(np.array([112, 112]), abs=2)


def test_what_is_outside_of_the_picture_is_black():
  picture = np.full((200, 300, 3), 200, np.uint8)
  picture[80:100, 100:120] = (250, 20, 20)
  where = align_deep3d.alignment(landmarks(102.0, [20, 20]), (200, 300))
  crop = align_deep3d.crop(picture, where)
  assert (
    crop.shape == (224, 224, 3) and not crop[:80].any() and not crop[:, :80].any() and (crop[100:, 100:] >= 20).all()
  )
  y, x = np.argwhere(crop[..., 0] > 225).mean(0)
  assert (x + where.corner[0], y + where.corner[1]) == pytest.approx((109.5, 89.5), abs=0.6)


def test_a_translation_of_the_crop_is_moved_to_the_picture():
  """The origin of the model, and the size of a small shape around it, are where the crop had them."""
  sizes = morphable.Sizes(vertices=3, triangles=1, mouth=1, rigid=0, identity=2, expression=2)
  corners = np.array([[0, 0, 0], [0.01, 0, 0], [0, 0.01, 0]], np.float32)
  camera = np.array([bfm.FOCAL / align_deep3d.SIZE, bfm.CAMERA_DISTANCE, 1], np.float32)
  model = dataclasses.replace(morphable.blank('bfm', sizes), mean=corners, camera=camera)
  size, found = (480, 640), np.array([0.1, -0.2, 0.7])
  where = align_deep3d.alignment(landmarks(70.0, [420, 160]), size)
  moved = align_deep3d.translation_in_picture(found, where, size, float(camera[0]), float(camera[1]))
  row = lambda translation: np.concatenate([np.zeros(7), translation]).astype(np.float32)
  in_crop = model.project(row(found), (align_deep3d.SIZE, align_deep3d.SIZE))[:, :2]
  in_picture = model.project(row(moved), size)[:, :2]
  resized = in_picture * np.array(where.resized) / [640, 480] - where.corner
  np.testing.assert_allclose(resized, in_crop, atol=0.02)

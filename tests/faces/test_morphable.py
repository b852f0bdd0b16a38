"""The morphable model's arithmetic: eq. 1, pose, camera, and the layout of a row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax.faces import morphable

SIZES = morphable.Sizes(vertices=7, triangles=2, mouth=2, rigid=3, identity=3, expression=4)


@pytest.fixture
def model():
  rng = np.random.default_rng(0)
  arrays = {
    k: rng.normal(size=np.shape(v)).astype(np.float32) for k, v in morphable.blank('bfm', SIZES).arrays().items()
  }
  arrays |= {'triangles': np.array([[0, 1, 2], [2, 3, 4]], np.int32), 'mouth': np.array([1, 5], np.int32)}
  return morphable.of_arrays('bfm', arrays | {'camera': np.array([4.5, 10, 1], np.float32)})


def test_eq_1_in_numpy_and_jax(model):
  rng = np.random.default_rng(1)
  alpha, beta = rng.normal(size=(2, 5, 3)).astype(np.float32), rng.normal(size=(2, 5, 4)).astype(np.float32)
  expected = model.mean + np.einsum('nck,bfk->bfnc', model.identity, alpha)
  expected = expected + np.einsum('nck,bfk->bfnc', model.expression, beta)
  np.testing.assert_allclose(model.shape(alpha, beta), expected, rtol=1e-4, atol=1e-5)
  branch = jax.tree.map(jnp.asarray, model.arrays())
  traced = jax.jit(lambda branch, a, b: morphable.of_arrays('bfm', branch).part(model.mouth).shape(a, b))
  np.testing.assert_allclose(traced(branch, alpha, beta), expected[..., model.mouth, :], rtol=1e-4, atol=1e-5)


def test_a_row_is_identity_expression_angles_translation(model):
  row = np.arange(SIZES.row)
  assert [part.tolist() for part in model.split(row)] == [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9], [10, 11, 12]]
  assert model.sizes == SIZES and morphable.blank('bfm', SIZES).sizes == SIZES
  rows = np.random.default_rng(2).normal(size=(6, SIZES.row))
  np.testing.assert_allclose(model.denormalise(model.normalise(rows)), rows, atol=1e-5)
  mean, std = morphable.statistics(np.concatenate([rows[:, :-1], np.ones((6, 1))], -1))
  assert mean[-1] == std[-1] == 1 and std[0] == pytest.approx(rows[:, 0].std(), rel=1e-5)


def test_signs_of_the_angles():
  forward, up, right = np.eye(3)[[2, 1, 0]][:, None]
  turned = lambda vector, **angles: morphable.posed(
    vector, np.array([angles.get(k, 0.0) for k in ('x', 'y', 'z')]), np.zeros(3)
  )[0]
  assert turned(forward, x=0.1)[1] < 0  # looks down
  assert turned(forward, y=0.1)[0] > 0  # to the right of the image
  assert turned(up, z=0.1)[0] < 0  # the top of the head moves left: counter-clockwise
  assert turned(right, z=0.1)[1] > 0
  np.testing.assert_allclose(morphable.degrees(np.radians([-10, 20, -30])), [20, 10, 30], rtol=1e-6)


def test_angles_and_rotation_are_inverse():
  angles = np.random.default_rng(3).uniform(-1.5, 1.5, (50, 3))
  matrices = morphable.rotation(angles)
  np.testing.assert_allclose(
    matrices @ np.swapaxes(matrices, -1, -2), np.broadcast_to(np.eye(3), (50, 3, 3)), atol=1e-12
  )
  np.testing.assert_allclose(morphable.angles_of(matrices), angles, atol=1e-9)
  x, y, z = (morphable.rotation(angles * np.eye(3)[i]) for i in range(3))
  np.testing.assert_allclose(matrices, x @ y @ z, atol=1e-12)  # of row vectors: about x first


def test_the_cameras(model):
  still = np.zeros((1, SIZES.row), np.float32)
  still[0, -3:] = 0.5, 0.25, 2.0
  flat = dataclasses.replace(model, camera=np.array([4.5, 10, 0], np.float32))
  x, y, depth = np.moveaxis(flat.project(still, (100, 200))[0], -1, 0)
  np.testing.assert_allclose(x, 100 + (model.mean[:, 0] + 0.5) * 450 / 8, rtol=1e-5)
  np.testing.assert_allclose(y, 50 - (model.mean[:, 1] + 0.25) * 450 / 8, rtol=1e-5)
  np.testing.assert_allclose(depth, -model.mean[:, 2] * 450 / 8, rtol=1e-5)
  x, y, _ = np.moveaxis(model.project(still, (100, 200))[0], -1, 0)
  np.testing.assert_allclose(x, 100 + (model.mean[:, 0] + 0.5) * 450 / (8 - model.mean[:, 2]), rtol=1e-5)
  np.testing.assert_allclose(y, 50 - (model.mean[:, 1] + 0.25) * 450 / (8 - model.mean[:, 2]), rtol=1e-5)


def test_normals_point_out_of_counter_clockwise_triangles():
  corners = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0]], np.float32)
  np.testing.assert_allclose(morphable.normals(corners, np.array([[0, 1, 2], [2, 1, 0]])), [[0, 0, 1], [0, 0, -1]])

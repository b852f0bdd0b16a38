"""mesh_pca against meshes that were made from a known linear model."""

import numpy as np
import pytest

from talkjax.faces import mesh_pca, morphable
from talkjax.faces.landmarks import MESH_TO_68, NoFace
from talkjax.faces.measures import MEAN_FACE, STABLE

SIZE = (96, 128)
PEOPLE, FRAMES = 5, 40


@pytest.fixture(scope='module')
def made():
  """Clips of a linear model, two per person, with the truth of each."""
  rng = np.random.default_rng(0)
  base = rng.uniform([-1, -1, -0.5], [1, 1, 0.5], (468, 3))
  base[MESH_TO_68[STABLE]] = MEAN_FACE * [1, -1, -1]
  people = rng.normal(size=(PEOPLE, 468, 3)) * 0.04
  moving = rng.permutation(np.setdiff1d(np.arange(468), MESH_TO_68[STABLE]))[:240]
  moves = np.zeros((3, 468, 3))
  moves[:, moving] = rng.normal(size=(3, 240, 3)) * np.array([0.1, 0.06, 0.03])[:, None, None]
  clips, truths = [], []
  for i in range(2 * PEOPLE):
    beta = rng.normal(size=(FRAMES, 3))
    angles = rng.uniform(-0.3, 0.3, (FRAMES, 3))
    scale, shift = rng.uniform(15, 25, (FRAMES, 1, 1)), rng.uniform(-9, 9, (FRAMES, 1, 3))
    shape = base + people[i % PEOPLE] + np.einsum('fk,knc->fnc', beta, moves)
    mesh = scale * morphable.posed(shape, angles, np.zeros(3)) * [1, -1, -1] + shift + [64, 48, 0]
    clips.append((f'person {i % PEOPLE}', mesh.astype(np.float32), SIZE))
    truths.append((beta, angles, mesh))
  return clips, truths


@pytest.fixture(scope='module')
def fitted(made):
  return mesh_pca.fit(made[0], identity=6, expression=5)


def test_coefficients_describe_the_mesh(made, fitted):
  model = fitted.model
  predictor, wanted = [], []
  for (_, mesh, size), (beta, angles, _) in zip(*made):
    rows = mesh_pca.coefficients(model, mesh, size)
    assert rows.shape == (FRAMES, 6 + 5 + 6) and rows.dtype == np.float32
    assert np.abs(model.project(rows, size)[..., :2] - mesh[..., :2]).mean() < 0.15  # pixels
    alpha, found, turned, _ = model.split(rows)
    assert (alpha == alpha[0]).all()  # one identity per clip
    np.testing.assert_allclose(turned - turned.mean(0), angles - angles.mean(0), atol=0.03)
    predictor.append(found)
    wanted.append(beta)
  x, y = np.concatenate(predictor), np.concatenate(wanted)
  x = np.concatenate([x, np.ones((len(x), 1))], 1)
  residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
  assert (residual.var(0) < 0.05 * y.var(0)).all()


@pytest.mark.parametrize('square', [(20, 5, 64), (-4, 30, 90)])
def test_coefficients_in_a_square_are_those_of_the_picture_cut_out(made, fitted, square):
  _, mesh, size = made[0][0]
  x, y, side = square
  cut = mesh_pca.coefficients(fitted.model, mesh - np.array([x, y, 0], np.float32), (side, side))
  rows = mesh_pca.coefficients(fitted.model, mesh, size)
  moved = mesh_pca.in_square(rows, (x, y), side, size)
  np.testing.assert_allclose(moved, cut, atol=2e-3)
  np.testing.assert_array_equal(moved[:, :-3], rows[:, :-3])
  assert np.abs(moved[:, -3:] - rows[:, -3:]).min() > 0.01


def test_a_square_around_the_face_has_it_at_the_depth_that_its_side_says(fitted):
  model = fitted.model
  row = np.zeros((1, model.sizes.row), np.float32)
  for crop in (1.0, 1.5):
    row[0, -1] = mesh_pca.depth_of(model, crop)
    points = model.project(row, (64, 64))[0, model.landmarks68, :2]
    assert (points.max(0) - points.min(0)).max() == pytest.approx(64 / crop, rel=1e-4)


def test_identity_is_that_of_the_person(made, fitted):
  alphas = np.stack([mesh_pca.coefficients(fitted.model, mesh, size)[0, :6] for _, mesh, size in made[0]])
  distance = np.linalg.norm(alphas[:PEOPLE, None] - alphas[None, PEOPLE:], axis=-1)
  assert (distance.argmin(1) == np.arange(PEOPLE)).all()
  assert distance.diagonal().max() < 0.5 * np.sort(distance, 1)[:, 1].min()


def test_a_model_of_few_people_has_zeros(fitted):
  assert (
    not fitted.model.identity[..., PEOPLE - 1 :].any() and fitted.model.identity[..., : PEOPLE - 1].any((0, 1)).all()
  )
  assert fitted.model.row_std[PEOPLE - 1] == 1 and fitted.model.row_mean[PEOPLE - 1] == 0
  assert fitted.identity_explained[-1] == pytest.approx(1) and fitted.expression_explained[2] > 0.95


def test_coefficients_of_expression_have_unit_variance(fitted):
  np.testing.assert_allclose(fitted.model.row_std[6:9], 1, atol=0.15)


def test_a_picture_has_the_row_of_its_frame(made, fitted):
  _, mesh, size = made[0][0]
  whole, one = mesh_pca.coefficients(fitted.model, mesh, size), mesh_pca.coefficients(fitted.model, mesh[:1], size)
  shape = lambda row: fitted.model.project(row, size)[..., :2]
  assert np.abs(shape(one[0]) - shape(whole[0])).mean() < 0.3  # pixels


def test_a_picture_without_a_face_is_an_error(fitted):
  with pytest.raises(NoFace, match='no face was found in wall.png'):
    mesh_pca.of_picture(fitted.model, np.full((128, 128, 3), 128, np.uint8), 'wall.png')


def test_moving_and_scaling_the_picture_moves_the_translation_alone(made, fitted):
  _, mesh, _ = made[0][0]
  rows = mesh_pca.coefficients(fitted.model, mesh, SIZE)
  other = mesh_pca.coefficients(fitted.model, 3 * mesh, (288, 384))
  np.testing.assert_allclose(other, rows, atol=1e-4)
  moved = mesh_pca.coefficients(fitted.model, mesh + np.array([5, -3, 40], np.float32), SIZE)
  np.testing.assert_allclose(moved[:, :-3], rows[:, :-3], atol=1e-4)
  assert (moved[:, -3] > rows[:, -3]).all() and (moved[:, -2] > rows[:, -2]).all()  # y is up
  np.testing.assert_allclose(moved[:, -1], rows[:, -1], atol=1e-4)


def test_procrustes_recovers_a_similarity():
  rng = np.random.default_rng(1)
  shape, angles = rng.normal(size=(20, 3)), rng.uniform(-0.5, 0.5, (4, 3))
  scale, moved = rng.uniform(0.5, 2, 4), rng.normal(size=(4, 3))
  target = scale[:, None, None] * (shape @ morphable.rotation(angles)) + moved[:, None]
  target[:, 15:] += 1  # not among the chosen vertices
  found = mesh_pca.procrustes(shape, target, np.arange(15))
  for got, want in zip(found, (scale, morphable.rotation(angles), moved)):
    np.testing.assert_allclose(got, want, atol=1e-9)


def test_triangles_have_one_orientation_and_leave_mouth_and_eyes_open(fitted):
  triangles = fitted.model.triangles
  assert triangles.shape == (852, 3) and len(np.unique(triangles)) == 468
  directed = triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
  assert len(np.unique(directed, axis=0)) == len(directed)  # two triangles go along their edge in both directions
  edges = np.sort(triangles[:, [[0, 1], [1, 2], [0, 2]]].reshape(-1, 2), 1)
  edges, counts = np.unique(edges, axis=0, return_counts=True)
  assert set(counts) == {1, 2}
  border = set(edges[counts == 1].ravel().tolist())
  assert {78, 13, 308, 14} <= border  # the inner edge of the lips

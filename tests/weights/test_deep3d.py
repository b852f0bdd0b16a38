"""Deep3DFaceRecon's files, from what users have to coefficients of a corpus."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io

from talkjax import build, convert
from talkjax.corpora import coefficients
from talkjax.errors import UserError
from talkjax.faces import morphable
from talkjax.nn.deep3d import HEADS, Deep3D
from talkjax.training import checkpoint, input_pipeline
from talkjax.weights import coefficients as bases
from talkjax.weights import deep3d, deep3d_coefficients
from tests import published_files, torch_file
from tests.commands import ROOT
from tests.micro import random_params

NET = Deep3D(layers=(1, 2), width=4)
VERTICES = 90
K = 80 + 64 + 6


def bfm_arrays(seed=0) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  made = {'meanshape': (1, 3 * VERTICES), 'meantex': (1, 3 * VERTICES)}
  made |= {name: (3 * VERTICES, k) for name, k in (('idBase', 80), ('exBase', 64), ('texBase', 80))}
  arrays = {name: 0.3 * rng.normal(size=shape) for name, shape in made.items()}
  arrays |= {'tri': rng.integers(1, VERTICES + 1, (20, 3)), 'point_buf': rng.integers(1, 22, (VERTICES, 8))}
  return arrays | {'keypoints': rng.permutation(VERTICES)[None, :68] + 1, 'skinmask': np.ones((1, VERTICES))}


def net_params():
  """Random parameters, with which the coefficients are as small as true ones."""
  shapes = jax.eval_shape(NET.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))['params']
  params = random_params(shapes)
  params['backbone'] = jax.tree_util.tree_map_with_path(
    lambda path, x: jnp.abs(x) if path[-1].key == 'running_var' else x, params['backbone']
  )
  heads = {name: jax.tree.map(lambda x: 0.01 * x, head) for name, head in params.items() if name != 'backbone'}
  return {**params, **heads}


@pytest.fixture(scope='module')
def folder(puppets, tmp_path_factory):
  """Workdirs made of the published files, `deep3d` and `bfm`, and a corpus."""
  folder = tmp_path_factory.mktemp('deep3d')
  state = published_files.as_published(net_params())
  state['backbone.bn1.num_batches_tracked'] = np.array(7)
  torch_file.save(folder / 'epoch_20.pth', {'opt_00': {'lr': 0.1}, 'net_recon': state})
  (folder / 'BFM').mkdir()
  scipy.io.savemat(folder / 'BFM/BFM_model_front.mat', bfm_arrays())
  for source in ('deep3d', 'bfm'):
    convert.convert(source, folder, str(folder / source))
  shutil.copytree(puppets / 'puppets', folder / 'data/puppets')
  return folder


def call(folder, argument):
  corpus = [str(ROOT / 'data/puppets'), '--config=tiny', f'--data_dir={folder}/data']
  build.build(['build', *corpus, '--workers=0', f'--coefficients={argument}'])


def test_the_network_is_imported_by_its_published_names(folder):
  _, params, _ = checkpoint.load_params(folder / 'deep3d')
  jax.tree.map(np.testing.assert_array_equal, params, jax.tree.map(np.asarray, net_params()))
  coefficients_of = deep3d_coefficients.load(str(folder / 'deep3d'), str(folder / 'bfm'))
  assert coefficients_of.net == NET


def test_sizes_are_those_of_the_weights():
  for net in (Deep3D(), Deep3D((2, 2, 2, 2), basic=True), Deep3D((1, 1), width=8, joint=True)):
    params = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))['params']
    flat = {
      jax.tree_util.keystr(p, simple=True, separator='/'): x.shape
      for p, x in jax.tree_util.tree_leaves_with_path(params)
    }
    assert deep3d.network(flat) == net
    coefficients_shape, _ = jax.eval_shape(net.apply, {'params': params}, jnp.zeros((2, 64, 64, 3)))
    assert coefficients_shape.shape == (2, sum(HEADS))


def test_the_face_model_is_that_of_the_file(folder):
  arrays = bfm_arrays()
  _, params, _ = checkpoint.load_params(folder / 'bfm')
  model = morphable.of_arrays('bfm', params['morphable'])
  alpha, beta = np.random.default_rng(1).normal(size=(2, 144)).astype(np.float32)[:, :80], np.zeros((2, 64), np.float32)
  mean = arrays['meanshape'].reshape(-1, 3)
  expected = mean - mean.mean(0) + (alpha @ arrays['idBase'].T).reshape(2, -1, 3)
  np.testing.assert_allclose(model.shape(alpha, beta), expected, atol=1e-4)
  np.testing.assert_array_equal(model.triangles, arrays['tri'] - 1)
  assert params['texture']['triangles_of'].dtype == np.int32


@pytest.mark.parametrize(
  ('change', 'sentence'),
  [
    ({'shapePC': np.ones((3, 199)), 'shapeMU': np.ones((3, 1))}, r'is the unprepared Basel Face Model 2009 \(01_Morph'),
    ({'idBase': np.ones((3 * VERTICES, 199))}, r'idBase is \[270, 199\], but \[270, 80\] was expected'),
    ({'tri': np.full((20, 3), VERTICES + 1)}, 'tri refers to what is not there'),
    ({'keypoints': np.zeros((1, 68))}, 'keypoints refers to what is not there'),
    ({'exBase': np.full((3 * VERTICES, 64), np.nan)}, 'expression has values that are not finite'),
    ({'texBase': None}, 'has no texBase: expected the BFM_model_front.mat that Deep3DFaceRecon prepares'),
  ],
)
def test_a_face_model_of_another_version_is_refused(tmp_path, change, sentence):
  arrays = {k: v for k, v in (bfm_arrays() | change).items() if v is not None}
  scipy.io.savemat(tmp_path / 'BFM_model_front.mat', arrays)
  with pytest.raises(UserError, match=sentence):
    convert.convert('bfm', tmp_path, str(tmp_path / 'out'))
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  ('content', 'sentence'),
  [
    (b'\x89HDF\r\n\x1a\n' + bytes(600), 'is an HDF5 file, as the Basel Face Models of 2017'),
    (b'text', 'is no MATLAB file'),
  ],
)
def test_a_file_that_is_no_face_model_is_refused(tmp_path, content, sentence):
  (tmp_path / 'model.mat').write_bytes(content)
  with pytest.raises(UserError, match=sentence):
    convert.convert('bfm', tmp_path / 'model.mat', str(tmp_path / 'out'))


def test_coefficients_of_a_corpus(folder, capsys):
  call(folder, f'deep3d:{folder}/deep3d,{folder}/bfm')
  (place,) = (folder / 'data').glob('puppets/tiny/*/deep3d')
  model, about = coefficients.load(place), json.loads((place / 'coefficients.json').read_text())
  assert model.name == about['basis'] == 'bfm' and about['weights'] == coefficients.fingerprint(model)
  builder = input_pipeline.open_builder(_data(folder), 'train', 'puppets/tiny')
  cache, _ = bases.open_cache(builder, 'deep3d', 'train')
  rows = []
  for record in input_pipeline.open_corpus(_data(folder), 'train', [cache]):
    rows.append(np.asarray(record.features['coefficients'], np.float32))
    assert rows[-1].shape == (len(record.frames), K) and (rows[-1][:, :80] == rows[-1][0, :80]).all()
  np.testing.assert_allclose(np.concatenate(rows).mean(0), model.row_mean, atol=0.05)
  capsys.readouterr()
  call(folder, f'deep3d:{folder}/deep3d,{folder}/bfm')
  assert 'coefficients are already in' in capsys.readouterr().out


def _data(folder):
  import ml_collections

  return ml_collections.ConfigDict({'dir': str(folder / 'data'), 'corpus': 'puppets/tiny'})


def test_a_picture_has_the_row_of_its_frame(folder, puppets):
  record = next(input_pipeline.eval_records(_data(folder), 'test', 1))
  of = deep3d_coefficients.load(str(folder / 'deep3d'), str(folder / 'bfm'))
  alone = of.of_pictures([record.frame(3)], record.landmarks[3:4])
  among = of.of_pictures([record.frame(i) for i in range(11)], record.landmarks[:11])
  np.testing.assert_allclose(alone[0, 80:], among[3, 80:], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
  ('argument', 'sentence'),
  [
    ('deep3d:{0}/bfm,{0}/bfm', 'bfm was not made by `talkjax.convert --source=deep3d`'),
    ('deep3d:{0}/deep3d,{0}/nowhere', 'nowhere is not a workdir'),
  ],
)
def test_other_workdirs_are_refused(folder, argument, sentence):
  with pytest.raises(UserError, match=sentence):
    call(folder, argument.format(folder))


def test_another_network_or_face_model_does_not_continue(folder, tmp_path):
  scipy.io.savemat(tmp_path / 'BFM_model_front.mat', bfm_arrays(1))
  convert.convert('bfm', tmp_path, str(tmp_path / 'bfm'))
  call(folder, f'deep3d:{folder}/deep3d,{folder}/bfm')
  with pytest.raises(UserError, match='deep3d has coefficients of another face model: remove'):
    call(folder, f'deep3d:{folder}/deep3d,{tmp_path}/bfm')
  params = net_params()
  params['final_layers_1']['bias'] += 1
  torch_file.save(tmp_path / 'epoch_20.pth', {'net_recon': published_files.as_published(params)})
  convert.convert('deep3d', tmp_path, str(tmp_path / 'deep3d'))
  with pytest.raises(UserError, match='was made with other settings .network .* remove .*deep3d to replace it'):
    call(folder, f'deep3d:{tmp_path}/deep3d,{folder}/bfm')


def test_training_without_coefficients_of_deep3d_says_how_to_make_them(folder, puppets):
  data = _data(folder)
  data.dir = str(puppets)
  builder = input_pipeline.open_builder(data, 'train', 'puppets/tiny')
  with pytest.raises(
    UserError, match='config.data.coefficients=deep3d: no coefficients.json in .*--coefficients=deep3d:NET'
  ):
    bases.open_cache(builder, 'deep3d', 'train')
  with pytest.raises(UserError, match='config.data.coefficients=flame: expected one of mesh_pca, deep3d'):
    bases.open_cache(builder, 'flame', 'train')

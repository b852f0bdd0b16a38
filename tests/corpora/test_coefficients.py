"""Coefficients of a corpus: written by the command or on first need, read in training with the model's arrays."""

import dataclasses
import functools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from talkjax import build, systems, train
from talkjax.corpora import coefficients, feature_cache, pool
from talkjax.errors import UsageError, UserError
from talkjax.faces import measures, mesh_pca, morphable
from talkjax.training import checkpoint, input_pipeline
from talkjax.weights import coefficients as bases
from talkjax.weights import encoders
from tests.commands import ROOT
from tests.example_record import full_record

K = mesh_pca.IDENTITY + mesh_pca.EXPRESSION + 6


def call(folder, argument, *more):
  corpus = [str(ROOT / 'data/puppets'), '--config=tiny', f'--data_dir={folder}']
  build.build(['build', *corpus, '--workers=0', f'--coefficients={argument}', *more])


def cache_folder(folder) -> pathlib.Path:
  (info,) = folder.glob('puppets/tiny/*/dataset_info.json')
  return info.parent / 'mesh_pca'


def copied(folder, tmp_path) -> pathlib.Path:
  shutil.copytree(folder / 'puppets', tmp_path / 'data/puppets')
  return tmp_path / 'data'


# A system that reads coefficients: the smallest there can be.
OPTIONS, SOURCES = (), {}


def get_config(folder, **changes):
  c = common.base()
  c.update({'system': __name__, 'expression': mesh_pca.EXPRESSION, 'batch_size': 2, 'steps': 1, 'log_every': 1})
  c.data.update({'corpus': 'puppets/tiny', 'dir': str(folder), 'coefficients': 'mesh_pca'})
  c.update(changes)
  return common.finish(c, {})


def system(config):
  sizes = morphable.Sizes(468, 852, 40, 187, mesh_pca.IDENTITY, config.expression)

  def init(rng, batch):
    arrays = morphable.blank('mesh_pca', sizes).arrays()
    return {'net': jnp.zeros(batch['row'].shape[1:]), 'morphable': jax.tree.map(jnp.asarray, arrays)}

  def loss(params, batch, rng, train):
    model = morphable.of_arrays('mesh_pca', params['morphable'])
    return jnp.mean((model.normalise(batch['row']) - params['net']) ** 2), {}

  def read(record, generator):
    return {'row': record.features['coefficients'][:1].astype(np.float32), 'id': np.array([record.id])}

  return systems.System(read=read, init=init, loss=loss, frozen=('morphable',), features=('coefficients',))


@pytest.fixture(autouse=True)
def _system(monkeypatch):
  monkeypatch.setattr(systems, 'build', system)


@pytest.fixture(scope='module')
def folder(puppets, tmp_path_factory):
  """A data_dir whose tiny puppets have coefficients, and the workdir `run` of the training that computed them."""
  folder = tmp_path_factory.mktemp('coefficients')
  shutil.copytree(puppets / 'puppets', folder / 'puppets')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(systems, 'build', system)
    patch.setattr(bases.os, 'cpu_count', lambda: 0)  # faces are detected in this process
    train.train(get_config(folder), str(folder / 'run'))
  return folder


def test_coefficients_are_rows_of_every_frame(folder):
  config = get_config(folder)
  caches, branch = encoders.open_caches(config, None, ('coefficients',))
  model = morphable.of_arrays('mesh_pca', {k.removeprefix('morphable/'): v for k, v in branch.items()})
  openings = []
  for record in input_pipeline.open_corpus(config.data, 'train', caches):
    rows = record.features['coefficients']
    assert rows.shape == (len(record.frames), K) and rows.dtype == np.float16
    _, _, angles, _ = model.split(np.asarray(rows, np.float32))
    assert np.abs(morphable.degrees(angles)[:, [0, 2]] - record.pose[:, [0, 2]]).mean() < 4
    points = model.project(rows, record.size)[:, model.landmarks68]
    assert np.abs(points[..., :2] - record.landmarks).mean() < 4  # pixels
    openings.append(
      np.corrcoef(measures.mouth_opening(points[..., :2]), measures.mouth_opening(record.landmarks))[0, 1]
    )
  assert np.mean(openings) > 0.85
  described = json.loads((cache_folder(folder) / 'morphable.json').read_text())
  assert described['name'] == 'mesh_pca' and described['clips'] == 8
  assert described['expression_explained'][-1] > 0.95
  assert caches[0].about['coefficients']['weights'] == described['fingerprint'] == coefficients.fingerprint(model)


def test_a_finished_corpus_is_kept(folder, capsys):
  before = {path: path.stat().st_mtime_ns for path in cache_folder(folder).iterdir() if path.name != 'lock'}
  call(folder, 'mesh_pca')
  assert 'coefficients are already in' in capsys.readouterr().out
  assert before == {path: path.stat().st_mtime_ns for path in cache_folder(folder).iterdir() if path.name != 'lock'}


def test_training_fills_the_frozen_branch(folder):
  params = checkpoint.load_params(folder / 'run')[1]
  for name, value in coefficients.load(cache_folder(folder)).arrays().items():
    np.testing.assert_array_equal(params['morphable'][name], value)
  assert np.any(params['net'])


def test_a_later_stage_keeps_the_model_of_the_earlier_one(folder, tmp_path):
  train.train(get_config(folder, init_from=str(folder / 'run')), str(tmp_path / 'second'))
  _, params, _ = checkpoint.load_params(folder / 'run')
  params['morphable']['mean'] = params['morphable']['mean'] + 0.01
  checkpoint.save_params(tmp_path / 'other', get_config(folder), params, 1)
  sentence = 'coefficients of config.data.coefficients=mesh_pca were made with the morphable .* starts with another'
  with pytest.raises(UserError, match=sentence):
    train.train(get_config(folder, init_from=str(tmp_path / 'other')), str(tmp_path / 'third'))
  with pytest.raises(
    UserError, match=r'morphable/expression has the shape \[468, 3, 24\].* set the sizes of config.morph'
  ):
    train.train(get_config(folder, expression=20), str(tmp_path / 'third'))


def test_the_model_of_another_corpus(folder, tmp_path):
  source = cache_folder(folder)
  model = coefficients.mesh_pca_model(tmp_path / 'copy', {}, 0, str(source))
  assert coefficients.fingerprint(model) == coefficients.fingerprint(coefficients.load(source))
  (tmp_path / 'other').mkdir()
  coefficients.save(dataclasses.replace(model, mean=model.mean * 1.1), tmp_path / 'other', {})
  with pytest.raises(UserError, match='copy has another model than .*other: remove'):
    coefficients.mesh_pca_model(tmp_path / 'copy', {}, 0, str(tmp_path / 'other'))
  coefficients.save(dataclasses.replace(model, name='bfm'), tmp_path / 'other', {})
  with pytest.raises(UserError, match='other: that folder has the model bfm; expected'):
    coefficients.mesh_pca_model(tmp_path / 'copy', {}, 0, str(tmp_path / 'other'))


def test_several_corpora_have_the_model_of_the_first(folder, tmp_path, monkeypatch):
  data = copied(folder, tmp_path)
  shutil.rmtree(cache_folder(data))
  encode = lambda self, record: [np.zeros((len(record.frames), K), np.float16)]  # faces were detected once already
  monkeypatch.setattr(coefficients.MeshCoefficients, '__call__', encode)
  monkeypatch.setattr(bases.os, 'cpu_count', lambda: 0)
  builders = [input_pipeline.open_builder(get_config(d).data, 'train', 'puppets/tiny') for d in (folder, data)]
  caches, model = bases.open_caches(builders, 'mesh_pca', 'train')
  assert caches[0].about['coefficients']['weights'] == caches[1].about['coefficients']['weights']
  assert [cache.folder for cache in caches] == [cache_folder(folder), cache_folder(data)]
  shutil.rmtree(cache_folder(data))
  cache_folder(data).mkdir()
  coefficients.save(dataclasses.replace(model, mean=model.mean * 1.1), cache_folder(data), {})
  bases.write(builders[1], 'mesh_pca')
  with pytest.raises(UserError, match='have coefficients of different morphable models: remove the former and compute'):
    bases.open_caches(builders, 'mesh_pca', 'train')


@pytest.mark.parametrize(
  ('argument', 'error', 'sentence'),
  [
    ('bfm', UsageError, '--coefficients=bfm: expected mesh_pca, mesh_pca:FOLDER or deep3d:'),
    ('mesh_pca:', UsageError, 'expected mesh_pca, mesh_pca:FOLDER'),
    ('mesh_pca:a,b', UsageError, 'expected mesh_pca, mesh_pca:FOLDER'),
    ('mesh_pca:nowhere', UserError, 'mesh_pca:nowhere: that folder has no morphable.json'),
  ],
)
def test_bad_requests_write_nothing(folder, argument, error, sentence):
  before = sorted(folder.rglob('*'))
  with pytest.raises(error, match=sentence):
    call(folder, argument)
  assert sorted(folder.rglob('*')) == before


def test_a_damaged_model_is_an_error(folder, tmp_path):
  data = copied(folder, tmp_path)
  path = cache_folder(data) / 'morphable.npz'
  path.write_bytes(path.read_bytes()[:-1000])
  with pytest.raises(UserError, match='the morphable model in .* is damaged .* remove that folder'):
    train.train(get_config(data), str(tmp_path / 'run'))
  path.write_bytes((cache_folder(folder) / 'morphable.npz').read_bytes())
  coefficients.save(dataclasses.replace(coefficients.load(path.parent), mean=np.zeros((468, 3))), path.parent, {})
  with pytest.raises(UserError, match='mesh_pca has coefficients of another morphable model than its own'):
    train.train(get_config(data), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_clips_without_a_face_have_no_rows_and_are_left_out_of_training(folder, tmp_path):
  data = copied(folder, tmp_path)
  model, place = coefficients.load(cache_folder(folder)), cache_folder(data)
  builder = input_pipeline.open_builder(get_config(data).data, 'train', 'puppets/tiny')
  splits = input_pipeline.all_splits(builder)
  assert coefficients.MeshCoefficients(model)(full_record()) == []
  lacking = [splits['train'][i].id for i in (0, 5)]
  encode = lambda record: [] if record.id in lacking else [np.zeros((len(record.frames), K), np.float16)]
  (place / 'coefficients.json').unlink()
  feature_cache.write(
    place, 'coefficients', {'corpus': builder.info.full_name, **coefficients.about(model, '')}, splits, encode
  )
  assert bases.without_rows(place) == lacking
  caches, _ = encoders.open_caches(get_config(data), None, ('coefficients',))
  for split, wanted in (('train', [1, 2, 3, 4, 6, 7]), ('train[3:]', [3, 4, 6, 7])):
    found = [record.id for record in input_pipeline.open_corpus(get_config(data).data, split, caches)]
    assert found == [splits['train'][i].id for i in wanted]
  train.train(get_config(data), str(tmp_path / 'run'))


def test_a_corpus_without_faces_or_training_split_has_no_model(tmp_path):
  clips = [full_record(name=f'clip-{i}') for i in range(2)]
  with pytest.raises(
    UserError, match='mesh_pca cannot be fitted: none of 2 clips has a face; clip-0: NoFace: no face was'
  ):
    coefficients.mesh_pca_model(tmp_path / 'a', {'train': clips}, 0)
  with pytest.raises(UserError, match='fitted to the training split, and this corpus has none: copy the model'):
    coefficients.mesh_pca_model(tmp_path / 'b', {'test': clips}, 0)


def test_worker_processes_encode_and_name_the_clip_that_fails(folder, tmp_path):
  encode = coefficients.MeshCoefficients(coefficients.load(cache_folder(folder)))
  clips = [full_record(name='a'), full_record(name='b'), dataclasses.replace(full_record(name='c'), frames=(b'x',))]
  about = {'corpus': 'c', 'shape': [K]}
  assert feature_cache.write(tmp_path / 'good', 'coefficients', about, {'train': clips[:2]}, encode, workers=1)
  assert json.loads((tmp_path / 'good/coefficients.json').read_text())['splits']['train']['clips'] == ['a', 'b']
  with pytest.raises(UserError, match='clip c could not be encoded: error: OpenCV'):
    feature_cache.write(tmp_path / 'bad', 'coefficients', about, {'train': clips}, encode, workers=1)
  assert not (tmp_path / 'bad/coefficients.json').exists()


def slowly(seconds: float) -> float:
  import time

  time.sleep(seconds)
  if seconds == 0.02:
    raise ValueError('unlucky')
  return seconds


@pytest.mark.parametrize('workers', [0, 2])
def test_an_ordered_map_keeps_the_order_and_the_errors(workers):
  tasks = [0.3, 0.0, 0.02, 0.01]
  done = list(pool.ordered_map(slowly, tasks, workers, functools.partial(round, ndigits=1)))
  assert [(task, result) for task, result, _ in done] == [(0.3, 0.3), (0.0, 0.0), (0.0, None), (0.0, 0.01)]
  assert [error for *_, error in done] == [None, None, 'ValueError: unlucky', None]

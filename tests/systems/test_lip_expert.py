"""The lip expert as a system: its pairs, its loss, and its judgement."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from configs import lip_expert as config_file
from talkjax import systems
from talkjax.errors import UserError
from talkjax.systems import coefficients
from talkjax.systems.lip_expert import data
from tests import made_up_face
from tests.commands import call
from tests.micro import random_params


def micro(**changes):
  config = config_file.get_config('tiny')
  config.update_from_flattened_dict(
    {
      **{'audio.kind': 'mel', 'audio.bands': 8, 'model.features': 8, 'model.width': 16, 'model.layers': 1},
      **{'data.examples_per_record': 8, 'batch_size': 8, 'data.corpus': 'puppets/tiny'},
      **{f'morphable.{k}': v for k, v in made_up_face.SIZES.items()},
      **changes,
    }
  )
  return config


@pytest.fixture(scope='module')
def made():
  system = systems.build(micro())
  batch = system.read(made_up_face.record(), np.random.default_rng(0))
  batch = {k: v for k, v in batch.items() if k != 'id'}
  params = random_params(jax.eval_shape(system.init, jax.random.key(0), batch))
  return system, batch, params | {'morphable': made_up_face.branch()}


def test_pairs_are_of_one_time_or_of_times_apart(made):
  record = made_up_face.record()
  features = systems.build(micro()).read
  example = features(record, np.random.default_rng(0))
  assert example['coefficients'].shape == (8, 5, 13) and example['audio'].shape == (8, 5, 32)
  assert example['in_sync'].tolist() == [1, 0] * 4
  long = features(dataclasses.replace(record), np.random.default_rng(1))
  starts = lambda windows, whole: [
    next(i for i in range(len(whole) - 4) if np.array_equal(whole[i : i + 5], w)) for w in windows
  ]
  whole = coefficients.rows_of(record, micro())
  at = starts(long['coefficients'], whole)
  assert len(set(at)) > 4
  generator = np.random.default_rng(2)
  others = [data.out_of_sync(s, 36, generator) for s in at * 20]
  assert min(abs(o - s) for o, s in zip(others, at * 20)) == 5 and max(others) <= 35 and min(others) >= 0


def test_the_loss_is_the_cross_entropy_of_the_cosine(made):
  system, batch, params = made
  value, metrics = system.loss(params, batch, jax.random.key(0), False)
  swapped, _ = system.loss(params, {**batch, 'in_sync': 1 - batch['in_sync']}, jax.random.key(0), False)
  assert value > 0 and 0 <= metrics['accuracy'] <= 1
  # -log p of one label and -log (1 - p) of the other: their sum is at least 2 log 2, with equality at p = 1/2.
  assert value + swapped >= 2 * np.log(2) - 1e-6


def test_mouths_do_not_depend_on_pose_or_units():
  model = made_up_face.model()
  alpha, beta = np.ones((2, 3), np.float32), np.eye(4, dtype=np.float32)[:2]
  mouths = coefficients.mouth_motion(model, alpha, beta)
  assert mouths.shape == (2, 60)
  bigger = dataclasses.replace(
    model, mean=model.mean * 100, identity=model.identity * 100, expression=model.expression * 100
  )
  np.testing.assert_allclose(coefficients.mouth_motion(bigger, alpha, beta), mouths, rtol=1e-4, atol=1e-5)
  openings = coefficients.mouth_opening(model, np.linspace(0, 1, 5)[:, None] * np.eye(4)[:1])
  assert (np.diff(openings) > 0).all()


def test_records_that_cannot_be_read():
  system, generator = systems.build(micro()), np.random.default_rng(0)
  with pytest.raises(UserError, match='clip a has 8 frames, fewer than the 10 that an example needs'):
    system.read(made_up_face.record(8), generator)
  bare = dataclasses.replace(made_up_face.record(), features={})
  with pytest.raises(UserError, match='clip a has no coefficients .* --coefficients=mesh_pca'):
    system.read(bare, generator)
  other = systems.build(micro(**{'morphable.expression': 9}))
  with pytest.raises(UserError, match='clip a has 13 coefficients, but config.morphable makes 18'):
    other.read(made_up_face.record(), generator)
  silent = dataclasses.replace(made_up_face.record(), audio=np.zeros(0, np.int16))
  with pytest.raises(UserError, match='clip a has no sound'):
    system.read(silent, generator)


def test_trains_and_is_scored(puppets, tmp_path):
  """Loudness opens the made-up mouths, which the expert learns to recognise in clips that it has not seen."""
  shutil.copytree(puppets / 'puppets', tmp_path / 'data/puppets')
  made_up_face.write_cache(tmp_path / 'data')
  changes = (
    'audio.kind=mel,audio.bands=8,model.width=32,model.features=16,data.corpus=puppets/tiny,steps=120,log_every=120'
  )
  config = f'--config=configs/lip_expert.py:tiny,{changes},data.dir={tmp_path}/data'
  call('talkjax.train', config, f'--workdir={tmp_path}/run', '--config.checkpoint_every=120')
  written = json.loads((tmp_path / 'run/config.json').read_text())
  assert written['morphable'] == {'name': 'mesh_pca', **made_up_face.SIZES}  # those of the corpus' model
  call('talkjax.evaluate', f'--workdir={tmp_path}/run', '--split=test', f'--output={tmp_path}/scores.json')
  scores = json.loads((tmp_path / 'scores.json').read_text())
  assert scores['accuracy'] > 0.6 and scores['in_sync'] > scores['out_of_sync']

"""The expressions that stage 1 predicts for a corpus, cached for stage 3."""

import shutil
import zlib

import jax
import numpy as np
import pytest

from configs import fd2talk as config_file
from talkjax import benchmark, systems
from talkjax.errors import UserError
from talkjax.systems.fd2talk import frames, motion, motion_generation
from talkjax.training import checkpoint, input_pipeline
from talkjax.weights import encoders
from tests import made_up_face
from tests.micro import random_params

SIZES = {f'morphable.{k}': v for k, v in made_up_face.SIZES.items()}
FIRST = {'frames': 8, 'windows.overlap': 3, 'sampler.steps': 2, 'model.width': 8, 'model.layers': 1, 'model.heads': 2}
SOUND = {'audio.kind': 'mel', 'audio.bands': 4, 'data.corpus': 'puppets/tiny', 'data.split': 'validation'}


@pytest.fixture(scope='module')
def made(puppets, tmp_path_factory):
  """(config of stage 3, its system, the workdir of stage 1)"""
  folder = tmp_path_factory.mktemp('predicted')
  shutil.copytree(puppets / 'puppets', folder / 'puppets')
  made_up_face.write_cache(folder)
  first = config_file.get_config('tiny,stage=1')
  first.update_from_flattened_dict(FIRST | SIZES | SOUND | {'loss.sync': 0.0})
  system = systems.build(first)
  batch = system.read(made_up_face.record(), np.random.default_rng(0))
  params = random_params(jax.eval_shape(system.init, jax.random.key(0), {k: v for k, v in batch.items() if k != 'id'}))
  checkpoint.save_params(folder / 'first', first, {**params, 'morphable': made_up_face.branch()}, 0)
  config = config_file.get_config('tiny,stage=3')
  config.update_from_flattened_dict({f'first_stage.{k}': v for k, v in FIRST.items()} | SIZES | SOUND)
  config.update({'motion': 'predicted', 'init_from': str(folder / 'first')})
  config.data.dir = str(folder)
  return config, systems.build(config), params


def test_predicted_expressions_are_cached_and_learned_from(made):
  config, system, params = made
  caches, _ = encoders.open_caches(config, system.encoder, system.features)
  predicted = system.precompute(caches)
  record = input_pipeline.open_corpus(config.data, config.data.split, [*caches, *predicted])[0]
  rows = record.features['coefficients']
  driving = frames.driving_rows(record, rows, config)
  np.testing.assert_array_equal(np.delete(driving, np.s_[3:7], 1), np.delete(rows, np.s_[3:7], 1))
  # They are what generation makes of the sound.
  first, all_params = frames.motion_config(config), {**params, 'morphable': made_up_face.branch()}
  features, seeds = motion.make_audio(first).of_record(record), [zlib.crc32(record.id.encode())]
  sampler = motion_generation.make_sampler(first)
  (direct,) = motion_generation.generate_motion(all_params, [features], seeds, sampler=sampler, pose=False)
  expected = motion_generation.physical(made_up_face.model(), direct)
  np.testing.assert_allclose(driving[:, 3:7], expected, atol=2e-3 * np.abs(expected).max())  # float16
  assert np.abs(driving[:, 3:7] - rows[:, 3:7]).max() > 0.1
  example = system.read(record, np.random.default_rng(0))
  framed = frames.framed(record, driving, config)
  assert all((np.abs(framed - row).sum(1) == 0).any() for row in example['rows'])
  # A second run reads them.
  (path,) = predicted[0].folder.glob('motion-*.f16')
  before = path.stat().st_mtime_ns
  system.precompute(caches)
  assert path.stat().st_mtime_ns == before


def test_a_benchmark_needs_no_earlier_stage(made):
  config, system, _ = made
  example = next(benchmark.training_input(config, system, config.data.examples_per_record))
  assert example['rows'].shape[-1] == 13 and np.std(example['rows'][:, 3:7]) > 0.5  # random


def test_other_weights_have_a_cache_of_their_own(made, tmp_path):
  config, system, params = made
  caches, _ = encoders.open_caches(config, system.encoder, system.features)
  folder = system.precompute(caches)[0].folder
  changed = {**params, 'morphable': made_up_face.branch()}
  changed[motion.EXPRESSION] = jax.tree.map(lambda x: 0.5 * x, params[motion.EXPRESSION])
  checkpoint.save_params(tmp_path / 'other', checkpoint.load_params(config.init_from)[0], changed, 0)
  other = config.copy_and_resolve_references()
  other.init_from = str(tmp_path / 'other')
  assert systems.build(other).precompute(caches)[0].folder != folder
  del changed[motion.EXPRESSION]
  checkpoint.save_params(tmp_path / 'none', checkpoint.load_params(config.init_from)[0], changed, 0)
  other.init_from = str(tmp_path / 'none')
  with pytest.raises(UserError, match='has no expression_transformer: give a workdir with stage 1'):
    systems.build(other).precompute(caches)

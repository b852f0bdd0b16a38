import json

import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from etils import epath

from talkjax.errors import UserError
from talkjax.training import checkpoint, metrics_log
from talkjax.training.state import State
from talkjax.training.workdir import read_config, write_config


def config(**values):
  return ml_collections.ConfigDict({'seed': 0, 'steps': 10, 'model': {'width': 8}, **values})


def test_config_comes_back_and_free_keys_may_change(tmp_path):
  workdir = epath.Path(tmp_path / 'run')
  write_config(workdir, config())
  write_config(workdir, config(steps=20))
  back = read_config(workdir)
  assert back.model.width == 8 and back.steps == 20


def test_another_config_is_refused_with_the_keys_that_differ(tmp_path):
  workdir = epath.Path(tmp_path)
  write_config(workdir, config())
  with pytest.raises(UserError, match=r'model\.width \(8 there, 16 here\)'):
    write_config(workdir, config(model={'width': 16}))
  assert read_config(workdir).model.width == 8


def test_not_a_workdir(tmp_path):
  with pytest.raises(UserError, match=r'no config\.json'):
    checkpoint.load_params(tmp_path)
  write_config(epath.Path(tmp_path), config())
  with pytest.raises(UserError, match='no checkpoint yet'):
    checkpoint.load_params(tmp_path)


def test_saved_parameters_come_back_bit_equal(tmp_path):
  params = {'unet': {'kernel': jnp.arange(6.0).reshape(2, 3) / 7}}
  checkpoint.save_params(tmp_path / 'run', config(), params, 735, ema={'unet': {'kernel': -params['unet']['kernel']}})
  for item, sign in (('params', 1), ('ema', -1)):
    back_config, back, step = checkpoint.load_params(tmp_path / 'run', item)
    assert step == 735 and back_config.model.width == 8
    np.testing.assert_array_equal(back['unet']['kernel'], sign * params['unet']['kernel'])
  with pytest.raises(UserError, match='already has checkpoints'):
    checkpoint.save_params(tmp_path / 'run', config(), params, 0)


def test_parameters_without_an_average_are_stored_once(tmp_path):
  params = {'unet': {'kernel': jnp.ones(3)}}
  checkpoint.save_params(tmp_path / 'run', config(), params, 0)
  assert not list(tmp_path.glob('run/checkpoints/0/ema'))
  for item in ('params', 'ema'):
    np.testing.assert_array_equal(checkpoint.load_params(tmp_path / 'run', item)[1]['unet']['kernel'], np.ones(3))


@pytest.mark.parametrize('earlier', [False, True])
def test_frozen_parameters_are_stored_once(earlier, tmp_path):
  """Whereas checkpoints of earlier versions have an average of every parameter, and are resumed too."""
  params = {'encoder': {'kernel': jnp.ones(3)}, 'unet': {'kernel': 2 * jnp.ones(3)}}
  state = State(
    jnp.int32(7),
    params,
    ema={'encoder': {'kernel': None}, 'unet': {'kernel': 3 * jnp.ones(3)}},
    opt_state=(jnp.zeros(3),),
  )
  saved = state.replace(ema={**state.ema, 'encoder': params['encoder']}) if earlier else state
  iterator = lambda: iter(grain.MapDataset.range(4).to_iter_dataset())
  write_config(epath.Path(tmp_path), config())
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(saved, iterator())
  checkpoints.wait()
  restored = checkpoints.restore(jax.eval_shape(lambda: state), iterator())
  checkpoints.close()
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  assert jax.tree.all(jax.tree.map(np.array_equal, restored, state))
  for item, value in (('params', 2), ('ema', 3)):
    _, loaded, step = checkpoint.load_params(tmp_path, item)
    assert step == 7
    np.testing.assert_array_equal(loaded['encoder']['kernel'], np.ones(3))
    np.testing.assert_array_equal(loaded['unet']['kernel'], np.full(3, value))
  assert checkpoint.saved_paths(tmp_path) == ('encoder/kernel', 'unet/kernel')


def test_check_fit_names_what_differs():
  wanted = {'unet': {'conv_in': np.zeros((3, 4))}}
  with pytest.raises(UserError, match='lacks parameter unet/conv_in .nearest: unet/conv_on'):
    checkpoint.check_fit({'unet': {'conv_on': np.zeros((3, 4))}}, wanted, 'x')
  with pytest.raises(UserError, match=r'shape \(3, 5\), the config makes \(3, 4\)'):
    checkpoint.check_fit({'unet': {'conv_in': np.zeros((3, 5))}}, wanted, 'x')
  with pytest.raises(UserError, match='does not make, unet/more'):
    checkpoint.check_fit({'unet': {'conv_in': np.zeros((3, 4)), 'more': np.zeros(1)}}, wanted, 'x')


def test_log_drops_the_lines_that_a_resumed_run_repeats(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "lo')
  log = metrics_log.MetricsLog(tmp_path, 1)
  log.scalars(2, {'loss': 2.5})
  log.close()
  lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert lines == [{'step': 1, 'loss': 3.0}, {'step': 2, 'loss': 2.5}]

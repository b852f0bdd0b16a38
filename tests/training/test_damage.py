"""Damaged workdirs: what is wrong, where and the remedy in one sentence, and nothing is lost."""

import json
import shutil
import types

import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from etils import epath

from talkjax.errors import UserError
from talkjax.training import checkpoint, digests, metrics_log
from talkjax.training.state import State
from talkjax.training.workdir import read_config, write_config

CONFIG = ml_collections.ConfigDict({'seed': 0})


def state(step: int) -> State:
  params = {'unet': {'kernel': jnp.full(1000, 1.0 * step)}}
  return State(jnp.int32(step), params, ema=params, opt_state=(jnp.zeros(3),))


def iterator():
  return iter(grain.MapDataset.range(4).to_iter_dataset())


@pytest.fixture
def workdir(tmp_path):
  """With the checkpoints 3 and 7."""
  write_config(epath.Path(tmp_path), CONFIG)
  checkpoints = checkpoint.Checkpoints(tmp_path)
  for step in (3, 7):
    checkpoints.save(state(step), iterator())
  checkpoints.close()
  return tmp_path


def flip(path) -> None:
  """Changes one bit in the middle of a file."""
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 16
  path.write_bytes(data)


def largest(folder):
  return max((p for p in folder.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)


def restore(workdir):
  checkpoints = checkpoint.Checkpoints(workdir)
  try:
    return checkpoints.restore(jax.eval_shape(lambda: state(0)), iterator())
  finally:
    checkpoints.close()


@pytest.mark.parametrize('item', ['params', 'ema', 'training'])
def test_one_bit_is_noticed_and_the_checkpoint_before_resumes(item, workdir):
  flip(largest(workdir / 'checkpoints/7' / item))
  with pytest.raises(UserError, match=r'checkpoints/7 is damaged .*has changed.*--resume_from=3'):
    restore(workdir)
  if item != 'training':
    with pytest.raises(UserError, match='is damaged'):
      checkpoint.load_params(workdir)
  checkpoint.set_aside(workdir, 3)
  assert restore(workdir).step == 3
  assert [p.name for p in (workdir / 'discarded').iterdir()] == ['7.0']
  checkpoints = checkpoint.Checkpoints(workdir)  # training goes on and saves the step again
  checkpoints.save(state(7), iterator())
  checkpoints.close()
  assert checkpoint.load_params(workdir)[2] == 7


def test_a_missing_file_is_noticed(workdir):
  largest(workdir / 'checkpoints/7/ema').unlink()
  with pytest.raises(UserError, match='is missing'):
    checkpoint.load_params(workdir)


@pytest.mark.parametrize('name', ['_METADATA', 'manifest.ocdbt'])
def test_without_digests_what_cannot_be_read_is_one_sentence(name, workdir):
  (workdir / 'digests/7.json').unlink()
  (workdir / 'checkpoints/7/params' / name).write_bytes(b'\xff\x00')
  with pytest.raises(UserError, match=r'checkpoints/7 is damaged .*--resume_from=3'):
    restore(workdir)


def test_checkpoints_of_earlier_versions_have_no_digests(workdir):
  for path in (workdir / 'digests').iterdir():
    path.unlink()
  assert restore(workdir).step == 7 and checkpoint.load_params(workdir)[2] == 7


def test_damaged_digests_are_said_to_be(workdir):
  (workdir / 'digests/7.json').write_text('[')
  with pytest.raises(UserError, match=r'its digests, .*7\.json, are damaged'):
    checkpoint.load_params(workdir)


def test_digests_go_after_their_checkpoint(workdir):
  checkpoints = checkpoint.Checkpoints(workdir, keep=1)
  for step in (9, 11):
    checkpoints.save(state(step), iterator())
  checkpoints.close()
  assert sorted(p.name for p in (workdir / 'digests').iterdir()) == ['11.json', '9.json']  # 9 went after that save
  assert not digests.damage(workdir, 11)


def test_a_full_disk_is_said_before_anything_is_written(monkeypatch, workdir):
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: types.SimpleNamespace(free=5000))
  checkpoints = checkpoint.Checkpoints(workdir)
  with pytest.raises(UserError, match=r'step 9 needs 0\.0 MiB.*left: free some space.*resumes from step 7'):
    checkpoints.save(state(9), iterator())
  checkpoints.close()
  assert sorted(p.name for p in (workdir / 'checkpoints').iterdir()) == ['3', '7']


def test_resuming_from_a_step_that_is_not_there(workdir):
  with pytest.raises(UserError, match=r'--resume_from=4.*steps 3, 7'):
    checkpoint.set_aside(workdir, 4)
  assert not (workdir / 'discarded').exists()


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value, tmp_path):
  params = {'unet': {'bias': jnp.ones(3), 'kernel': jnp.array([1.0, value, 2.0], jnp.bfloat16)}}
  with pytest.raises(UserError, match='unet/kernel with values that are not finite'):
    checkpoint.save_params(tmp_path / 'run', CONFIG, params, 0)
  assert not (tmp_path / 'run').exists()
  write_config(epath.Path(tmp_path), CONFIG)
  with checkpoint._manager(epath.Path(tmp_path) / 'checkpoints') as manager:
    manager.save(1, args=checkpoint.ocp.args.Composite(params=checkpoint.ocp.args.StandardSave(params)))
  with pytest.raises(UserError, match=r'checkpoints/1 has unet/kernel with values that are not finite'):
    checkpoint.load_params(tmp_path)


@pytest.mark.parametrize('content', [b'', b'{', b'[1]', b'3', b'\xff\xfe\x00', b'null'])
def test_a_damaged_config(content, workdir):
  (workdir / 'config.json').write_bytes(content)
  for read in (read_config, lambda path: write_config(epath.Path(path), CONFIG)):
    with pytest.raises(UserError, match=r'config\.json is damaged'):
      read(workdir)
  assert (workdir / 'config.json').read_bytes() == content


def test_damaged_lines_of_metrics_do_not_stop_a_run(tmp_path):
  good = [json.dumps({'step': step, 'loss': 1.0}).encode() for step in (1, 2)]
  bad = [b'7', b'\xff\xfe{', b'null', b'{"step": "x"}', b'{"loss": 1}', b'']
  (tmp_path / 'metrics.jsonl').write_bytes(b'\n'.join([good[0], *bad, good[1], b'{"step": 3, "lo']))
  metrics_log.MetricsLog(tmp_path, 5).close()
  assert (tmp_path / 'metrics.jsonl').read_bytes() == b'\n'.join(good) + b'\n'


def test_a_conversion_that_was_killed_can_be_repeated(tmp_path):
  params = {'unet': {'kernel': jnp.ones(3)}}
  (tmp_path / 'checkpoints/0.orbax-checkpoint-tmp-1').mkdir(parents=True)
  write_config(epath.Path(tmp_path), CONFIG)
  checkpoint.save_params(tmp_path, CONFIG, params, 0)
  assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir()) == ['0']
  with pytest.raises(UserError, match='already has checkpoints'):
    checkpoint.save_params(tmp_path, CONFIG, params, 0)
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='file is a file: name a folder'):
    checkpoint.save_params(tmp_path / 'file', CONFIG, params, 0)


def test_a_full_disk_is_said_before_a_conversion_writes(monkeypatch, tmp_path):
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: types.SimpleNamespace(free=5000))
  with pytest.raises(UserError, match='these weights need 0.1 MiB, but .* left: free some space'):
    checkpoint.save_params(tmp_path / 'run', CONFIG, {'kernel': jnp.ones(30_000)}, 0)
  assert not (tmp_path / 'run').exists()

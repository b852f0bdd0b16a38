"""The loop as users run it: learning, resumption, devices, processes, bad input."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from absl import flags

from talkjax.training import checkpoint, lock
from tests.commands import ROOT, call, run


def losses(workdir) -> dict[int, float]:
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return {r['step']: r['loss'] for r in map(json.loads, lines)}


def test_a_run_leaves_a_whole_workdir_and_learns(micro_workdir):
  assert sorted(losses(micro_workdir)) == [1, 2, 3, 4, 5, 6]
  config, params, step = checkpoint.load_params(micro_workdir)
  assert step == 6 and config.system == 'speech_edit' and 'unet' in params
  _, fresh, _ = checkpoint.load_params(micro_workdir, 'params')
  assert not np.array_equal(fresh['unet']['conv_out']['kernel'], params['unet']['conv_out']['kernel'])
  overview = (micro_workdir / 'parameters.txt').read_text()
  assert '| unet/conv_out/kernel ' in overview
  assert f'Total: {sum(x.size for x in jax.tree.leaves(params)):,} ' in overview


def test_the_same_seed_gives_the_same_bits(micro_workdir, micro, tmp_path):
  call('talkjax.train', *micro, f'--workdir={tmp_path}')
  assert losses(tmp_path) == losses(micro_workdir)


def test_sigkill_at_a_random_step_loses_nothing(micro_workdir, micro, tmp_path):
  command = [sys.executable, '-m', 'talkjax.train', *micro, f'--workdir={tmp_path}']
  step = random.SystemRandom().randint(1, 5)
  with subprocess.Popen(
    command, cwd=ROOT, stderr=subprocess.DEVNULL, env={**os.environ, 'JAX_PLATFORMS': 'cpu'}
  ) as process:
    deadline = time.time() + 300
    while time.time() < deadline and process.poll() is None:
      if (tmp_path / 'metrics.jsonl').exists() and len((tmp_path / 'metrics.jsonl').read_text().splitlines()) >= step:
        break
      time.sleep(0.01)
    process.kill()
  call('talkjax.train', *micro, f'--workdir={tmp_path}')
  assert losses(tmp_path) == losses(micro_workdir), f'killed after step {step}'


def test_sigterm_saves_and_exits(micro, tmp_path):
  longer = (*micro, '--config.steps=100000', '--config.checkpoint_every=100000')
  command = [sys.executable, '-m', 'talkjax.train', *longer, f'--workdir={tmp_path}']
  with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
    while not ((tmp_path / 'metrics.jsonl').exists() and (tmp_path / 'metrics.jsonl').read_text()):
      assert process.poll() is None, process.stderr.read()
      time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, printed = process.communicate(timeout=120)
  assert process.returncode == 0, printed
  assert 'resumes from here' in printed
  assert checkpoint.load_params(tmp_path)[2] == max(losses(tmp_path))


@pytest.mark.parametrize('mesh', [pytest.param(('data=8',), marks=pytest.mark.slow), ('data=2', 'fsdp=4')])
def test_eight_devices_have_the_losses_of_one(micro_workdir, micro, tmp_path, mesh):
  # Saved once: slicing what is on eight devices takes seconds.
  changes = ('--config.checkpoint_every=6', *(f'--config.mesh.{m}' for m in mesh))
  run('talkjax.train', *micro, *changes, f'--workdir={tmp_path}', devices=8)
  one, eight = losses(micro_workdir), losses(tmp_path)
  np.testing.assert_allclose([eight[s] for s in one], [one[s] for s in one], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_two_processes_train_together(micro, tmp_path):
  with socket.socket() as s:
    s.bind(('localhost', 0))
    port = s.getsockname()[1]
  processes = [
    subprocess.Popen(
      [sys.executable, '-m', 'talkjax.train', *micro, f'--workdir={tmp_path}'],
      cwd=ROOT,
      stderr=subprocess.PIPE,
      text=True,
      env={
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'TALKJAX_COORDINATOR': f'localhost:{port}',
        'TALKJAX_PROCESSES': '2',
        'TALKJAX_PROCESS': str(i),
      },
    )
    for i in range(2)
  ]
  printed = [p.communicate(timeout=300)[1] for p in processes]
  assert [p.returncode for p in processes] == [0, 0], printed
  assert sorted(losses(tmp_path)) == [1, 2, 3, 4, 5, 6]
  assert checkpoint.load_params(tmp_path)[2] == 6


def test_frozen_parameters_and_init_from(micro_workdir, micro, tmp_path):
  """A second stage freezes a layer, and the third trains it again."""
  kernel = lambda workdir, item, name: checkpoint.load_params(workdir, item)[1]['unet'][name]['kernel']
  second, third = tmp_path / 'second', tmp_path / 'third'
  frozen = "--config.train=(('conv_in', False), ('.*', True))"
  call('talkjax.train', *micro, f'--config.init_from={micro_workdir}', frozen, f'--workdir={second}')
  for item in ('params', 'ema'):
    np.testing.assert_array_equal(kernel(micro_workdir, 'ema', 'conv_in'), kernel(second, item, 'conv_in'))
  assert not np.array_equal(kernel(micro_workdir, 'ema', 'conv_out'), kernel(second, 'params', 'conv_out'))
  once = ('--config.steps=1', '--config.optimizer.warmup=0')
  call('talkjax.train', *micro, *once, f'--config.init_from={second}', f'--workdir={third}')
  # The average starts from the frozen layer: after a step it is a tenth of it, and nine tenths of the new one.
  start, new = kernel(second, 'params', 'conv_in'), kernel(third, 'params', 'conv_in')
  assert not np.array_equal(start, new)
  np.testing.assert_allclose(kernel(third, 'ema', 'conv_in'), 0.1 * start + 0.9 * new, atol=1e-6)


@pytest.mark.parametrize(
  ('change', 'code', 'sentence'),
  [
    ('--config.batch_size=6', 1, 'batch_size=6 must be a multiple'),
    ('--config.mesh.fsdp=3', 1, 'does not cover 1 devices'),
    ("--config.train=(('unte', True),)", 1, "'unte' names no parameter"),
    ('--config.data.split=trian', 1, "has no split 'trian'"),
    ('--config.data.corpus=pupets', 1, "no corpus 'pupets'"),
    ('--config.init_from=nowhere', 1, 'nowhere is not a workdir'),
    ('--config.sampler.name=ddimm', 1, "sampler 'ddimm' is not one of"),
    ('--config.learning_rate=1', 2, 'nearest: optimizer.learning_rate'),
  ],
)
def test_errors_are_one_sentence(micro, tmp_path, change, code, sentence):
  workdir = tmp_path / 'run'
  done = call('talkjax.train', *micro, change, f'--workdir={workdir}', check=False)
  assert done.returncode == code
  assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1
  assert re.search(sentence, done.stderr)
  assert not workdir.exists()


def test_an_empty_workdir_is_not_the_current_folder(micro):
  done = call('talkjax.train', *micro, '--workdir=', check=False)
  assert done.returncode == 2 and '--workdir is empty: give it a value' in done.stderr


def test_arguments_that_are_missing():
  for args in ([], ['--config=configs/emo.py'], ['--workdir=run']):
    done = call('talkjax.train', *args, check=False)
    assert done.returncode == 2 and ' is missing: python -m talkjax.train --config=configs/' in done.stderr


def test_a_loss_that_is_not_finite_ends_the_run_and_is_not_saved(micro, tmp_path):
  before = signal.getsignal(signal.SIGTERM)
  done = call('talkjax.train', *micro, '--config.optimizer.learning_rate=1e30', f'--workdir={tmp_path}', check=False)
  assert done.returncode == 1
  last = done.stderr.strip().splitlines()[-1]
  assert last.startswith('error: ') and re.search('the loss is .* at step .* on clips puppets-', last)
  assert 'Traceback' not in done.stderr
  assert signal.getsignal(signal.SIGTERM) == before
  for item in ('params', 'ema'):
    _, params, _ = checkpoint.load_params(tmp_path, item)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_a_workdir_of_another_config_is_refused(micro_workdir, micro):
  done = call('talkjax.train', *micro, '--config.seed=1', f'--workdir={micro_workdir}', check=False)
  assert done.returncode == 1 and 'these keys differ: seed (0 there, 1 here)' in done.stderr


def test_a_workdir_that_is_being_trained_is_refused(micro_workdir, micro, tmp_path):
  workdir = shutil.copytree(micro_workdir, tmp_path / 'run')
  with lock.exclusive(workdir):
    done = call('talkjax.train', *micro, '--config.steps=8', f'--workdir={workdir}', check=False)
  assert done.returncode == 1 and f'run is being trained by process {os.getpid()} on ' in done.stderr
  assert losses(workdir) == losses(micro_workdir)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(micro_workdir, micro, tmp_path):
  workdir = shutil.copytree(micro_workdir, tmp_path / 'run')
  next((workdir / 'checkpoints/6/training').rglob('manifest.ocdbt')).write_bytes(b'x')
  done = call('talkjax.train', *micro, f'--workdir={workdir}', check=False)
  assert done.returncode == 1 and 'checkpoints/6 is damaged' in done.stderr and '--resume_from=4' in done.stderr
  call('talkjax.train', *micro, f'--workdir={workdir}', '--resume_from=4')
  assert losses(workdir) == losses(micro_workdir) and checkpoint.load_params(workdir)[2] == 6


def test_the_error_is_the_last_line_after_a_progress_bar(micro_workdir, micro, tmp_path):
  workdir = shutil.copytree(micro_workdir, tmp_path / 'run')
  (workdir / 'parameters.txt').unlink()
  (workdir / 'parameters.txt').mkdir()
  done = call('talkjax.train', *micro, f'--workdir={workdir}', '--config.steps=8', check=False)
  assert done.returncode == 1
  assert re.match(r'error: cannot write .*parameters.txt \(Is a directory\)', done.stderr.strip().splitlines()[-1])


def test_a_finished_run_leaves_workdir_and_process_as_they_were(micro_workdir, micro):
  process = lambda: (os.getcwd(), dict(os.environ), set(flags.FLAGS), [signal.getsignal(s) for s in (2, 15)])
  before, logged = process(), losses(micro_workdir)
  call('talkjax.train', *micro, f'--workdir={micro_workdir}')
  assert process() == before and losses(micro_workdir) == logged
  assert checkpoint.load_params(micro_workdir)[2] == 6

"""The report of an accelerator at a tiny size: jobs run, are profiled and stand in it."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from talkjax import benchmark, cli, systems
from tests import renderer
from tests.benchmarks import accelerator
from tests.commands import MICRO, ROOT, call

TINY = [c.replace('--config.', '--set=') for c in MICRO if c.startswith('--config.') and 'corpus' not in c]
SPEECH_EDIT = 'speech_edit; a frame'
# By job: what makes its config small.
SETTINGS = {
  SPEECH_EDIT: TINY,
  # Frames are generated, with a morphable model of random shapes.
  'fd2talk stage 3; a frame': [f'--set={k}={v}' for k, v in renderer.SMALL.items() if k != 'data.corpus'],
  'fd2talk stage 1': [
    f'--set={setting}' for setting in ('model.width=16', 'model.layers=1', 'model.heads=2', 'batch_size=4')
  ],
}
ARGUMENTS = ['--size=tiny', '--repeats=1']


def check_report(folder, job):
  figures = json.loads((folder / 'accelerator.json').read_text())['jobs'][job]
  assert figures['step_seconds'] > 0 and figures['batch_size'] > 0
  assert figures['profile'] and figures['profile'][0]['ms_per_step'] > 0
  assert f'| {job} |' in (folder / 'accelerator.md').read_text()


@pytest.mark.slow
@pytest.mark.parametrize('job', SETTINGS)
def test_a_job_is_timed_and_profiled(job, puppets, tmp_path, monkeypatch):
  """Its commands run in this process, on a corpus that is built already."""

  def run(command, seconds):
    done = call(command[2], *command[3:], check=False)
    return done.returncode, done.stdout + done.stderr

  shutil.copytree(puppets, tmp_path / 'datasets')
  monkeypatch.setattr(accelerator, 'run', run)
  arguments = ['accelerator', f'--output={tmp_path}', f'--only={job}', *ARGUMENTS, *SETTINGS[job]]
  monkeypatch.setattr(sys, 'argv', arguments)
  assert accelerator.main() == 0
  check_report(tmp_path, job)


@pytest.mark.parametrize('size', ['paper', 'tiny'])
def test_every_system_has_a_job_whose_command_is_one(size):
  for _, config, options in accelerator.JOBS:
    words = [option.format(seconds=1) for option in options]
    cli.parse(['benchmark', f'--config={ROOT}/configs/{config.format(size=size)}', *words], benchmark.OPTIONS)
  timed = {config.partition('.py')[0] for _, config, _ in accelerator.JOBS}
  assert set(systems.names()) - timed == {'autoencoder', 'speech_encoder'}  # a part of fd2talk, and small


@pytest.mark.slow
def test_the_script_builds_times_and_profiles(tmp_path):
  env = {**os.environ, 'PYTHON': sys.executable, 'RUN': str(tmp_path), 'JAX_PLATFORMS': 'cpu'}
  command = [str(ROOT / 'launch/accelerator.sh'), f'--only={SPEECH_EDIT}', *ARGUMENTS, *TINY]
  done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr
  check_report(tmp_path, SPEECH_EDIT)

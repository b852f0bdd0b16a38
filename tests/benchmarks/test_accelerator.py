"""The report of an accelerator at a tiny size: a job runs, is profiled and stands in it."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.benchmarks import accelerator
from tests.commands import MICRO, ROOT, call

TINY = [c.replace('--config.', '--set=') for c in MICRO if c.startswith('--config.') and 'corpus' not in c]


ARGUMENTS = ['--size=tiny', '--only=speech_edit', '--repeats=1', *TINY]


def check_report(folder):
  figures = json.loads((folder / 'accelerator.json').read_text())['jobs']['speech_edit; a frame']
  assert figures['step_seconds'] > 0 and figures['batch_size'] == 8
  assert figures['profile'] and figures['profile'][0]['ms_per_step'] > 0
  assert '| speech_edit; a frame |' in (folder / 'accelerator.md').read_text()


def test_a_job_is_timed_and_profiled(puppets, tmp_path, monkeypatch):
  """Its commands run in this process, on a corpus that is built already."""

  def run(command, seconds):
    done = call(command[2], *command[3:], check=False)
    return done.returncode, done.stdout + done.stderr

  shutil.copytree(puppets, tmp_path / 'datasets')
  monkeypatch.setattr(accelerator, 'run', run)
  monkeypatch.setattr(sys, 'argv', ['accelerator', f'--output={tmp_path}', *ARGUMENTS])
  assert accelerator.main() == 0
  check_report(tmp_path)


@pytest.mark.slow
def test_the_script_builds_times_and_profiles(tmp_path):
  env = {**os.environ, 'PYTHON': sys.executable, 'RUN': str(tmp_path), 'JAX_PLATFORMS': 'cpu'}
  command = [str(ROOT / 'launch/accelerator.sh'), *ARGUMENTS]
  done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr
  check_report(tmp_path)

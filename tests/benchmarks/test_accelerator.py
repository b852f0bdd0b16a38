"""launch/accelerator.sh at a tiny size: a job runs, is profiled and stands in the report."""

import json
import os
import subprocess
import sys

from tests.commands import MICRO, ROOT

TINY = [c.replace('--config.', '--set=') for c in MICRO if c.startswith('--config.') and 'corpus' not in c]


def test_a_job_is_timed_and_profiled(tmp_path):
  command = [str(ROOT / 'launch/accelerator.sh'), '--size=tiny', '--only=speech_edit', '--repeats=1']
  env = {**os.environ, 'PYTHON': sys.executable, 'RUN': str(tmp_path), 'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run([*command, *TINY], env=env, check=False, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr
  figures = json.loads((tmp_path / 'accelerator.json').read_text())['jobs']['speech_edit; a frame']
  assert figures['step_seconds'] > 0 and figures['batch_size'] == 8
  assert figures['profile'] and figures['profile'][0]['ms_per_step'] > 0
  assert '| speech_edit; a frame |' in (tmp_path / 'accelerator.md').read_text()

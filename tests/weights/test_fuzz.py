"""The readers hold what they promise of any file: see fuzz.py, which runs in a process that may crash."""

import json
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).with_name('fuzz.py')


@pytest.mark.parametrize(
  ('kind', 'examples'),
  [
    ('pickles', 100),
    ('mutations', 200),
    pytest.param('pickles', 10_000, marks=pytest.mark.large),
    pytest.param('mutations', 20_000, marks=pytest.mark.large),
  ],
)
def test_any_file_is_read_or_refused(kind, examples):
  pytest.importorskip('hypothesis', reason='hypothesis is not installed: install .[test]')
  done = subprocess.run([sys.executable, SCRIPT, kind, str(examples)], check=False, capture_output=True, text=True)
  assert done.returncode == 0, f'{done.returncode}: {done.stdout[-1000:]}{done.stderr[-6000:]}'
  seen = json.loads(done.stdout)
  assert seen['read'] > examples // 20 and seen['refused'] > examples // 20, 'the files are all alike'
  assert kind != 'pickles' or seen['arrays'] > examples // 20

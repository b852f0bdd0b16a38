"""Freed memory stays: a big array made twice costs its page faults once."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from talkjax.training import memory
if sys.argv[1] == 'keep' and not memory.keep_freed():
  raise SystemExit(77)
faults = []
for _ in range(3):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  np.ones(16_000_000, np.float32)
  faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


def faults(argument):
  done = subprocess.run([sys.executable, '-c', SCRIPT, argument], capture_output=True, text=True, check=False)
  if done.returncode == 77:
    pytest.skip('the C library is not glibc')
  assert done.returncode == 0, done.stderr
  return int(done.stdout)


@pytest.mark.skipif(sys.platform != 'linux', reason='asks glibc')
def test_second_time_is_free():
  assert faults('keep') < 100 or faults('keep') < faults('default') / 10

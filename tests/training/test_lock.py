import json
import os
import signal
import subprocess
import sys

import pytest

from talkjax.errors import UserError
from talkjax.training import lock

HOLD = """
import sys, time
from talkjax.training import lock
with lock.exclusive(sys.argv[1]):
  print('held', flush=True)
  time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
  process = subprocess.Popen([sys.executable, '-c', HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
  assert process.stdout.readline() == 'held\n'
  yield process
  process.kill()
  process.wait()


def test_a_second_process_is_refused_and_named(holder, tmp_path):
  with pytest.raises(UserError, match=f'is being trained by process {holder.pid} on '), lock.exclusive(tmp_path):
    pass


def test_a_killed_process_leaves_no_lock(holder, tmp_path):
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  assert (tmp_path / 'lock').exists()
  with lock.exclusive(tmp_path):
    assert json.loads((tmp_path / 'lock').read_text())['process'] == os.getpid()
  assert not (tmp_path / 'lock').exists()


@pytest.mark.parametrize('content', ['', '{', '[]', '\x00'])
def test_a_damaged_lock_file_is_replaced(content, tmp_path):
  (tmp_path / 'lock').write_text(content)
  with lock.exclusive(tmp_path):
    pass


def test_a_new_folder_goes_again_if_nothing_was_written(tmp_path):
  with lock.exclusive(tmp_path / 'run'):
    assert (tmp_path / 'run').is_dir()
  assert not (tmp_path / 'run').exists()
  with lock.exclusive(tmp_path / 'run'):
    (tmp_path / 'run' / 'config.json').write_text('{}')
  assert [p.name for p in (tmp_path / 'run').iterdir()] == ['config.json']


def test_without_file_locks_the_file_decides(monkeypatch, tmp_path):
  """As in a bucket: another host's file is respected, that of a process here that has ended is not."""
  monkeypatch.setattr(lock, '_lock_file', lambda *_: None)
  ended = subprocess.Popen([sys.executable, '-c', ''])
  ended.wait()
  (tmp_path / 'lock').write_text(json.dumps({'host': lock.socket.gethostname(), 'process': ended.pid}))
  with lock.exclusive(tmp_path):
    pass
  (tmp_path / 'lock').write_text(json.dumps({'host': 'elsewhere', 'process': 1, 'since': 'then'}))
  with pytest.raises(UserError, match=r'process 1 on elsewhere \(since then\).*or remove'), lock.exclusive(tmp_path):
    pass
  assert (tmp_path / 'lock').exists()


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='cannot be written'), lock.exclusive(tmp_path / 'file' / 'run'):
    pass

import os
import socket
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from talkjax.errors import UsageError, UserError
from talkjax.media import outputs
from talkjax.media.video import VideoWriter


def ended() -> int:
  """The number of a process that has ended."""
  process = subprocess.Popen([sys.executable, '-c', ''])
  process.wait()
  return process.pid


@pytest.mark.parametrize(('path', 'sentence'), [('', 'is empty'), ('a.avi', 'ends in .mp4'), ('mp4', 'ends in .mp4')])
def test_a_wrong_name(path, sentence):
  with pytest.raises(UsageError, match=sentence):
    outputs.check(path, ['.mp4'])


def test_an_input_is_never_replaced_by_any_path(tmp_path, monkeypatch):
  source = tmp_path / 'talk.mp4'
  source.touch()
  (tmp_path / 'link.mp4').symlink_to(source)
  (tmp_path / 'hard.mp4').hardlink_to(source)
  monkeypatch.chdir(tmp_path)
  for path in (str(source), 'talk.mp4', './talk.mp4', 'link.mp4', 'hard.mp4'):
    with pytest.raises(UserError, match='is an input'):
      outputs.check(path, ['.mp4'], inputs=['missing.wav', str(source)])


def test_what_exists(tmp_path):
  path = tmp_path / 'out.mp4'
  outputs.check(str(path), ['.mp4'], replaceable=lambda _: False)  # nothing there yet
  path.touch()
  outputs.check(str(path), ['.mp4'])
  outputs.check(str(path), ['.mp4'], replaceable=lambda _: True)
  with pytest.raises(UserError, match='not made by talkjax.*--overwrite'):
    outputs.check(str(path), ['.mp4'], replaceable=lambda _: False)
  os.mkfifo(tmp_path / 'pipe.mp4')
  (tmp_path / 'folder.mp4').mkdir()
  for name, sentence in (('pipe.mp4', 'not a regular file'), ('folder.mp4', 'is a folder')):
    with pytest.raises(UserError, match=sentence):
      outputs.check(str(tmp_path / name), ['.mp4'])
  with pytest.raises(UserError, match='is not a folder'):
    outputs.check(str(path / 'inside.mp4'), ['.mp4'])


def test_a_folder_that_cannot_be_written():
  with pytest.raises(UsageError, match='--videos= is empty'):
    outputs.check_folder('', '--videos=')
  with pytest.raises(UserError, match='/proc cannot be written'):  # read-only even for root
    outputs.check('/proc/new/out.mp4', ['.mp4'])


def test_only_files_of_killed_processes_are_removed(tmp_path):
  path, old = tmp_path / 'a.b.mp4', tmp_path / f'.a.b.{ended()}.partial.mp4'
  kept = [outputs.partial(path), tmp_path / f'.c.{ended()}.partial.mp4', tmp_path / '.a.b.x.partial.mp4', path]
  for each in (old, *kept):
    each.touch()
  outputs.remove_partial(path)
  assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_a_video_removes_what_a_killed_run_left(tmp_path):
  left = tmp_path / f'.out.{ended()}.partial.mp4'
  left.touch()
  with VideoWriter(tmp_path / 'out.mp4', 25, (16, 16)) as writer:
    writer.write(np.zeros((16, 16, 3), np.uint8))
  assert [p.name for p in tmp_path.iterdir()] == ['out.mp4']


def test_a_text_file_is_replaced_as_a_whole(tmp_path):
  path = tmp_path / 'new' / 'a.json'
  for text in ('1', '2'):
    outputs.write_text(str(path), text)
    assert path.read_text() == text and [p.name for p in path.parent.iterdir()] == ['a.json']
  with pytest.raises(UserError, match='cannot write /dev/full/a.json'):
    outputs.write_text('/dev/full/a.json', 'x')


@pytest.mark.parametrize('error', [KeyboardInterrupt, SystemExit(143), ValueError])
def test_an_interrupted_file_is_removed_and_the_old_one_stays(error, tmp_path):
  path = tmp_path / 'a.json'
  path.write_text('old')
  with pytest.raises(type(error) if isinstance(error, BaseException) else error), outputs.replacing(path) as new:
    new.write_text('half')
    raise error
  assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


def test_scratch_folders_of_killed_processes_are_removed(tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  host = socket.gethostname()
  old = tmp_path / f'talkjax-{host}-{ended()}-x'
  kept = [tmp_path / name for name in (f'talkjax-{host}-{os.getppid()}-x', f'talkjax-other-{ended()}-x', 'talkjax-x')]
  for each in (old, *kept):
    each.mkdir()
    (each / 'a').touch()
  with outputs.scratch() as folder:
    (folder / 'b').touch()
    assert sorted(tmp_path.iterdir()) == sorted((*kept, folder))
  assert sorted(tmp_path.iterdir()) == sorted(kept)
  monkeypatch.setattr(tempfile, 'tempdir', '/proc')
  with pytest.raises(UserError, match='no folder can be made in /proc .*TMPDIR'), outputs.scratch():
    pass


def test_a_name_has_room_for_that_of_the_unfinished_file():
  with pytest.raises(UserError, match='the name is too long'):
    outputs.check('n' * 245 + '.mp4', ['.mp4'])

"""How a command starts and ends: flags, exit codes, one sentence on stderr, a traceback only when asked for."""

import errno
import functools
import importlib
import os
import pathlib
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from absl import flags

from talkjax import cli
from talkjax.errors import UsageError, UserError
from talkjax.options import Option
from tests.commands import ROOT, call

COMMANDS = ('train', 'generate', 'evaluate', 'convert', 'benchmark')  # talkjax.build has the flags of the tfds command
OWN = (
  Option('fail', str, 'How to fail.', ''),
  Option('number', int, 'A number.', 1, minimum=1),
  Option('workdir', str, 'Where.'),
)

SCRIPT = """
import sys, time
from talkjax import cli
from talkjax.errors import UserError
from talkjax.options import Option
def main(args):
  if args.fail == 'user':
    raise UserError('no face in clip.mp4')
  if args.fail == 'wait':
    print('waiting', flush=True)
    time.sleep(60)
  print('done')
if __name__ == '__main__':
  sys.exit(cli.run(main, (Option('fail', str, 'How to fail.', ''),), 'Does something.'))
"""


@pytest.fixture(scope='module')
def script(tmp_path_factory):
  """Starts a process that can end in every way."""
  path = tmp_path_factory.mktemp('cli') / 'script.py'
  path.write_text(SCRIPT)
  environment = os.environ | {'PYTHONPATH': str(ROOT)}
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
  return lambda *args, **how: subprocess.Popen([sys.executable, str(path), *args], env=environment, **pipes, **how)


def command(*args):
  """The exit code of a command that can fail in every way."""

  def main(args):
    if args.fail == 'user':
      raise UserError('no face in clip.mp4:\n  expected one')
    if args.fail == 'usage':
      raise UsageError('--video or --image is needed')
    if args.fail == 'bug':
      raise KeyError('surprise')
    if args.fail == 'interrupt':
      raise KeyboardInterrupt
    if args.fail == 'exit':
      sys.exit(7)
    print('done', args.number)

  return cli.run(main, OWN, 'Does something.', ['command', *args])


@pytest.mark.parametrize(
  ('args', 'code', 'out', 'err'),
  [
    ([], 0, 'done\n', ''),
    (['--fail=user'], 1, '', 'error: no face in clip.mp4\n'),
    (['clip.mp4'], 2, '', "error: unexpected argument 'clip.mp4': every option is written --name=value; see --help\n"),
  ],
)
def test_exit_codes_of_the_process(script, args, code, out, err):
  process = script(*args)
  assert process.communicate(timeout=60) == (out, err)
  assert process.returncode == code


def test_an_interrupt_is_130_without_a_traceback(script):
  # A shell has what it starts in the background ignore interrupts, and that is inherited.
  process = script('--fail=wait', preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL))
  try:
    assert process.stdout.readline() == 'waiting\n'
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
  finally:
    process.kill()
  assert process.returncode == 130
  assert 'Traceback' not in err


@pytest.mark.parametrize('name', [*COMMANDS, 'build'])
def test_every_command_ends_with_its_exit_code(name, monkeypatch, capsys):
  """As `python -m talkjax.NAME --wrong` does."""
  monkeypatch.setattr(sys, 'argv', [name, '--wrong'])
  monkeypatch.delitem(sys.modules, f'talkjax.{name}', raising=False)  # runpy warns of a module that is there
  with pytest.raises(SystemExit) as caught:
    runpy.run_module(f'talkjax.{name}', run_name='__main__')
  assert caught.value.code == 2
  out, err = capsys.readouterr()
  assert out == '' and err.startswith('error: ') and 'wrong' in err and err.count('\n') == 1


@pytest.mark.parametrize('unread', ['stdout', 'stderr'])
def test_what_nobody_reads_does_not_end_a_command(unread, tmp_path, monkeypatch, capsys):
  """As when the program behind a pipe has ended: the exit code is that of the work."""
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  reader, writer = os.pipe()
  os.close(reader)
  with open(writer, 'w', buffering=1) as stream:
    monkeypatch.setattr(sys, unread, stream)
    assert [command(), command('--fail=user'), command('--wrong'), command('--help')] == [0, 1, 2, 0]
    build = importlib.import_module('talkjax.build').main
    assert [build(['build', 'nowhere']), build(['build', '--help']), build(['build', '--wrong'])] == [1, 0, 2]
  printed = capsys.readouterr()
  assert bool(printed.out) == (unread == 'stderr') and bool(printed.err) == (unread == 'stdout')
  assert 'Traceback' not in printed.err and not list(tmp_path.iterdir())


@pytest.mark.parametrize('how', ['pipe', 'closed'])
def test_a_process_whose_output_nobody_reads_ends_with_its_exit_code(how, tmp_path):
  """`closed` are descriptors that are not open: files that are opened must not get their numbers."""
  code = (
    "import os, sys; from talkjax import cli; file = lambda args: os.fstat(os.open('x', os.O_CREAT)); "
    "main = lambda args: (print('done'), print('done', file=sys.stderr), os.write(2, b'of a library'), file(args))"
  )
  lines = [code, "sys.exit(cli.run(main, (), 'Does something.', ['command']))"]
  reader, writer = os.pipe()
  os.close(reader)
  shell = {'pipe': 'exec "$@"', 'closed': 'exec "$@" >&- 2>&-'}[how]
  done = subprocess.run(
    ['sh', '-c', shell, 'sh', sys.executable, '-c', '\n'.join(lines)],
    cwd=tmp_path, env=os.environ | {'PYTHONPATH': str(ROOT)}, stdout=writer, stderr=writer, check=False,
  )  # fmt: skip
  os.close(writer)
  assert done.returncode == 0 and (tmp_path / 'x').read_bytes() == b''


def test_done_is_0_and_says_nothing_else(capsys):
  assert command('--number=3') == 0
  assert capsys.readouterr() == ('done 3\n', '')


@pytest.mark.parametrize(
  ('fail', 'code', 'sentence'),
  [
    ('user', 1, 'error: no face in clip.mp4: expected one\n'),
    ('usage', 2, 'error: --video or --image is needed\n'),
    ('interrupt', 130, ''),
  ],
)
def test_an_error_is_one_sentence(fail, code, sentence, capsys):
  assert command(f'--fail={fail}') == code
  assert capsys.readouterr() == ('', sentence)


@pytest.mark.parametrize('kind', ['folder', 'not there', 'read-only', 'none'])
def test_the_traceback_of_an_unforeseen_error_is_in_a_file(kind, tmp_path, monkeypatch, capsys):
  elsewhere, workdir = tmp_path / 'tmp', tmp_path / 'run'
  elsewhere.mkdir()
  monkeypatch.setattr(tempfile, 'tempdir', str(elsewhere))
  if kind in ('folder', 'read-only'):
    workdir.mkdir()
  if kind == 'read-only':
    (workdir / 'traceback.txt').mkdir()  # root may write into folders without permission, but not over a folder
  args = [] if kind == 'none' else [f'--workdir={workdir}']
  assert command('--fail=bug', *args) == 1
  out, err = capsys.readouterr()
  found = re.fullmatch(r"error: KeyError: 'surprise' \(its traceback is in (.+); --debug prints it\)\n", err)
  assert out == '' and found, err
  path = pathlib.Path(found[1])
  assert path.parent == (workdir if kind == 'folder' else elsewhere)
  text = path.read_text()
  assert text.startswith('command --fail=bug') and "KeyError: 'surprise'" in text and 'raise KeyError' in text
  assert workdir.exists() == (kind in ('folder', 'read-only'))


def test_foreseen_errors_leave_no_file(tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  for fail in ('user', 'usage', 'interrupt'):
    command(f'--fail={fail}', f'--workdir={tmp_path}')
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('args', 'named'),
  [
    (['--nubmer=3'], 'nubmer'),
    (['--number=three'], 'number'),
    (['--number=0'], '--number=0: expected 1 or more'),
    (['clip.mp4'], 'clip.mp4'),
  ],
)
def test_a_wrong_command_line_is_2_and_names_the_flag(args, named, capsys):
  assert command(*args) == 2
  out, err = capsys.readouterr()
  assert out == '' and err.startswith('error: ') and named in err and err.count('\n') == 1


@pytest.mark.parametrize(('fail', 'code'), [('user', 1), ('usage', 2), ('bug', 1)])
def test_debug_shows_the_traceback(fail, code, capsys):
  for debug in ('--debug', '--debug=true'):
    assert command(f'--fail={fail}', debug) == code
    err = capsys.readouterr().err
    assert 'Traceback' in err and err.splitlines()[-1].startswith('error: ')


def test_an_exit_keeps_its_code():
  with pytest.raises(SystemExit) as caught:
    command('--fail=exit')
  assert caught.value.code == 7


@pytest.mark.parametrize(
  ('args', 'sentence'),
  [
    (['--config=configs/emoo.py'], 'no file configs/emoo.py: there are configs/'),
    (['--config=configs/emo.py:tyni'], "--config=configs/emo.py:tyni: size 'tyni' is not one of"),
    (['--config=configs/emo.py:tiny,seeed=1'], "the config has no key 'seeed' (nearest: seed"),
    (['--config=configs/emo.py:tiny', '--config.modle.heads=1'], "no key 'modle.heads' (nearest: model.heads"),
    (['--config=configs/emo.py:tiny', '--config.seed=x'], 'seed'),
    (['--config', 'configs/emo.py:tiny', '--config.frame=1'], "--config.frame=1: the config has no key 'frame'"),
  ],
)
def test_a_wrong_config_is_a_usage_error(args, sentence):
  done = call('talkjax.train', *args, '--workdir=unused', check=False)
  assert done.returncode == 2 and sentence in done.stderr and done.stderr.count('\n') == 1


@pytest.mark.parametrize('form', ['--config.model.multipliers={}', '--config.model.multipliers {}'])
def test_the_last_value_of_a_config_key_counts(form):
  """ml_collections would join tuples."""
  words = ['train', '--config=configs/speech_edit.py:tiny', *form.format('(1,2)').split(), '--config.batch_size=2']
  words += [*form.format('(3,)').split(), '--config.batch_size=4']
  config = cli.parse(words, (cli.CONFIG,)).config
  assert config.model.multipliers == (3,) and config.batch_size == 4
  assert cli.parse(words[:2], (cli.CONFIG,)).config.model.multipliers != (3,)


@pytest.mark.parametrize('size', ['', ':tiny,stage=1', ':tiny,stage=1,model.layers=2'])
def test_a_number_of_the_config_can_be_none(size):
  words = ['train', f'--config=configs/fd2talk.py{size}', '--config.model.radius=None', '--config.batch_size=4']
  config = cli.parse(words, (cli.CONFIG,)).config
  assert config.model.radius is None and config.batch_size == 4
  assert ('model.layers=2' in size) == (config.model.layers == 2)


@pytest.mark.parametrize('form', ['--config.diffusion.start={}', '--config.diffusion.start {}'])
def test_what_is_none_in_the_config_can_be_a_number(form):
  words = ['train', '--config=configs/joint_av.py:tiny,batch_size=4', '--config.diffusion.schedule=log_snr']
  config = cli.parse([*words, *form.format('4.0').split(), '--config.seed=3'], (cli.CONFIG,)).config
  assert config.diffusion.start == 4 and config.diffusion.schedule == 'log_snr'
  assert config.batch_size == 4 and config.seed == 3


def test_files_of_a_flag(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('a.png', 'b.png', 'with,comma.png', 'with[1].png'):
    pathlib.Path(name).touch()
  assert cli.files('image', 'a.png') == ('a.png',)
  assert cli.files('image', 'b.png,a.png') == ('b.png', 'a.png')
  assert cli.files('image', '[ab].png,b.png') == ('a.png', 'b.png', 'b.png')
  assert cli.files('image', 'with,comma.png') == ('with,comma.png',)
  assert cli.files('image', 'with[1].png') == ('with[1].png',)
  assert cli.files('image', 'missing.png') == ('missing.png',)  # what reads it says so
  with pytest.raises(UsageError, match=r'--image: no file matches \*\.jpg: check the pattern'):
    cli.files('image', 'a.png,*.jpg')


def test_a_command_leaves_the_process_as_it_was():
  state = lambda: (os.getcwd(), dict(os.environ), set(flags.FLAGS), [signal.getsignal(s) for s in (2, 15)])
  before = state()
  for name in COMMANDS:
    call(f'talkjax.{name}', '--help')
    call(f'talkjax.{name}', '--wrong', check=False)
  assert state() == before


def test_a_config_is_read_from_any_folder(tmp_path):
  """Its file imports others by the name of their folder."""
  (tmp_path / 'configs').mkdir()  # another project's
  path = sys.path.copy()
  done = subprocess.run(
    [sys.executable, '-m', 'talkjax.train', f'--config={ROOT}/configs/emo.py:tiny', '--config.steps=0', '--workdir=x'],
    cwd=tmp_path, env=os.environ | {'PYTHONPATH': str(ROOT)}, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 2 and done.stderr == 'error: config.steps=0: expected 1 or more\n'
  assert [p.name for p in tmp_path.iterdir()] == ['configs'] and sys.path == path


@pytest.mark.parametrize(
  ('text', 'sentence'),
  [
    ('def get_config(:', 'no config can be read from that file (SyntaxError'),
    ('import sys; sys.exit(3)', 'no config can be read from that file (SystemExit'),
    ('x = 1', "(KeyError: 'get_config')"),
    ('def get_config():\n  return {}', 'its get_config returns a dict: expected a ConfigDict'),
    ('def get_config(x=1 / 0):\n  pass', 'no config can be read from that file (ZeroDivisionError'),
  ],
)
def test_a_file_that_is_no_config(text, sentence, tmp_path):
  (tmp_path / 'mine.py').write_text(text)
  done = call('talkjax.train', f'--config={tmp_path}/mine.py', '--workdir=unused', check=False)
  assert done.returncode == 2 and sentence in done.stderr and done.stderr.count('\n') == 1


def test_texts_from_files_do_not_control_the_terminal(capsys):
  def main(args):
    print('written', os.fsdecode(b'\xff.mp4'))
    raise UserError(f'no face in \x1b[2J{os.fsdecode(b"a.mp4")}\udcff')

  assert cli.run(main, OWN, 'Does something.', ['command']) == 1
  assert capsys.readouterr() == ('written \\udcff.mp4\n', 'error: no face in \\x1b[2Ja.mp4\\udcff\n')


@pytest.mark.parametrize(
  ('error', 'where'),
  [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'a.json'), 'a.json'),
    (RuntimeError('write() failed: No space left on device; writing a'), 'a file'),
  ],
)
def test_a_full_disk_is_one_sentence(error, where, capsys, tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))

  def main(args):
    raise error

  assert cli.run(main, OWN, 'Does something.', ['command']) == 1
  expected = f'error: cannot write {where} (No space left on device): free some disk space, and run the command again\n'
  assert capsys.readouterr().err == expected and not list(tmp_path.iterdir())

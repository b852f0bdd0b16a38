"""How a command ends: exit codes, one sentence on stderr, a traceback only when asked for."""

import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from talkjax import cli
from talkjax.errors import UsageError

ROOT = pathlib.Path(__file__).resolve().parent.parent

COMMAND = """
import os, sys, time
from absl import flags
from talkjax import cli
from talkjax.errors import UsageError, UserError
flags.DEFINE_string('fail', '', '')
flags.DEFINE_integer('number', 1, '')
FLAGS = flags.FLAGS
def main(argv):
  if FLAGS.fail == 'user':
    raise UserError('no face in clip.mp4:\\n  expected one')
  if FLAGS.fail == 'usage':
    raise UsageError('--video or --image is needed')
  if FLAGS.fail == 'bug':
    raise KeyError('surprise')
  if FLAGS.fail == 'exit':
    sys.exit(7)
  if FLAGS.fail == 'wait':
    print('waiting', flush=True)
    time.sleep(60)
  print('done', FLAGS.number, argv[1:])
if __name__ == '__main__':
  cli.run(main)
"""


@pytest.fixture(scope='module')
def command(tmp_path_factory):
  path = tmp_path_factory.mktemp('cli') / 'command.py'
  path.write_text(COMMAND)
  environment = os.environ | {'PYTHONPATH': str(ROOT)}
  return lambda *args, start=subprocess.run, **kwargs: start(
    [sys.executable, str(path), *args], env=environment, text=True, **kwargs
  )


def run(command, *args):
  done = command(*args, capture_output=True, timeout=60)
  return done.returncode, done.stdout, done.stderr


def test_a_sweep_is_a_setting_and_numbers():
  assert cli.parse_sweep(None) is None
  assert cli.parse_sweep('audio_weight=0.5,1,1.0,2') == ('audio_weight', (0.5, 1.0, 2.0))
  for text in ('audio_weight', 'audio_weight=', 'guidance=1', 'guidance=1,x', 'guidance=1,nan'):
    with pytest.raises(UsageError, match='expected a setting and two numbers'):
      cli.parse_sweep(text)


def test_done_is_0_and_says_nothing_else(command):
  assert run(command, '--number=3') == (0, 'done 3 []\n', '')


@pytest.mark.parametrize(
  ('args', 'code', 'sentence'),
  [
    (['--fail=user'], 1, 'error: no face in clip.mp4: expected one\n'),
    (['--fail=usage'], 2, 'error: --video or --image is needed\n'),
  ],
)
def test_an_error_is_one_sentence(command, args, code, sentence):
  assert run(command, *args) == (code, '', sentence)


@pytest.mark.parametrize(
  ('args', 'named'),
  [
    (['--nubmer=3'], 'nubmer'),
    (['--number=three'], 'number'),
    (['clip.mp4'], 'clip.mp4'),
  ],
)
def test_a_wrong_command_line_is_2_and_names_the_flag(command, args, named):
  code, out, err = run(command, *args)
  assert (code, out) == (2, '')
  assert err.startswith('error: ')
  assert named in err
  assert err.count('\n') == 1


def test_a_bug_is_one_sentence_too(command):
  code, out, err = run(command, '--fail=bug')
  assert (code, out) == (1, '')
  assert err.startswith("error: KeyError: 'surprise'")
  assert '--debug' in err
  assert err.count('\n') == 1


@pytest.mark.parametrize(('fail', 'code'), [('user', 1), ('usage', 2), ('bug', 1)])
def test_debug_shows_the_traceback(command, fail, code):
  for debug in ('--debug', '--debug=true'):
    returned, _, err = run(command, f'--fail={fail}', debug)
    assert returned == code
    assert 'Traceback' in err
    assert err.splitlines()[-1].startswith('error: ')


def test_an_exit_keeps_its_code(command):
  assert run(command, '--fail=exit')[0] == 7


def test_help_leaves_well(command):
  code, out, err = run(command, '--help')
  assert 'Traceback' not in out + err
  assert '--number' in out + err
  assert code in (0, 1)  # absl leaves help with 1


def test_an_interrupt_is_130_without_a_traceback(command):
  # A shell has what it starts in the background ignore interrupts, and that is inherited.
  heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
  process = command('--fail=wait', start=subprocess.Popen, preexec_fn=heeds, **pipes)
  try:
    assert process.stdout.readline() == 'waiting\n'
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
  finally:
    process.kill()
  assert process.returncode == 130
  assert 'Traceback' not in err

"""Twenty kills of train, build and generate, at chosen moments: what follows is bit-identical, and nothing is left."""

import contextlib
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from talkjax import build
from talkjax.corpora.building import REPORT
from talkjax.media import video
from tests.commands import ROOT, call, run
from tests.hostile.harness import SECONDS, Outcome, processor_seconds, snapshot

pytestmark = pytest.mark.large
KIND = 'kills'
KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
CODES = {KILL: (-KILL,), TERM: (0, 143), INT: (130,)}  # train saves and ends well after SIGTERM


def kill(args: list[str], when, how: signal.Signals, folder: pathlib.Path) -> Outcome:
  """Runs `python -m talkjax...`, with a folder for temporary files, and kills it as soon as `when()`."""
  before = processor_seconds()
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'TMPDIR': str(folder)}
  pipes = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.PIPE, 'text': True}
  # A shell has what it starts in the background ignore interrupts, and that is inherited.
  session = {'preexec_fn': functools.partial(signal.signal, INT, signal.SIG_DFL), 'start_new_session': True}
  command = [sys.executable, '-m', *args]
  with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes, **session) as process:
    deadline = time.monotonic() + 10 * SECONDS
    while not when():
      assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()[-2000:]
      time.sleep(0.003)  # a save takes longer
    process.send_signal(how)
    printed = process.communicate(timeout=5 * SECONDS)[1]
  assert process.returncode in CODES[how], (process.returncode, printed[-2000:])
  assert 'Traceback' not in printed, printed[-3000:]
  return Outcome(0, err=printed, seconds=processor_seconds() - before)


@pytest.fixture
def temporary(tmp_path):
  """The folder for the temporary files of what is killed."""
  folder = tmp_path / 'tmp'
  folder.mkdir()
  return folder


STEPS = 48
TRAINING = ('--config.checkpoint_every=4', f'--config.steps={STEPS}', '--config.keep_checkpoints=100')
MOMENTS = [(moment, how) for how in (KILL, TERM, INT) for moment in ('after', 'during', 'between', 'during')]


def saves_since(checkpoints: pathlib.Path, start: float) -> bool:
  """Whether a checkpoint is being saved that was begun after `start`, not one that a killed process left."""
  with contextlib.suppress(FileNotFoundError):  # it has just been committed
    return any(p.stat().st_mtime > start for p in checkpoints.glob('*.orbax-checkpoint-tmp*'))
  return False


def test_train(attempts, micro, tmp_path, temporary):
  arguments = [*micro, *TRAINING]
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  call('talkjax.train', *arguments, f'--workdir={whole}')
  checkpoints = killed / 'checkpoints'
  names = lambda: [p.name for p in checkpoints.iterdir()] if checkpoints.is_dir() else []

  def lines():
    return (killed / 'metrics.jsonl').read_text().count('\n') if (killed / 'metrics.jsonl').exists() else 0

  for moment, how in MOMENTS:
    before, logged, start = set(names()), lines(), time.time()
    when = {
      'after': lambda before=before: any(n.isdigit() and n not in before for n in names()),
      'during': lambda start=start: saves_since(checkpoints, start),
      'between': lambda logged=logged: lines() > logged + 1,
    }[moment]
    outcome = kill(['talkjax.train', *arguments, f'--workdir={killed}'], when, how, temporary)
    attempts.count(KIND, outcome, command=f'train {moment} {how.name}')
  call('talkjax.train', *arguments, f'--workdir={killed}')
  read = lambda run: [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  losses = lambda run: {line['step']: line['loss'] for line in read(run)}
  assert losses(killed) == losses(whole) and len(losses(whole)) == len(read(killed)) == STEPS
  folders = lambda run: sorted(p.name for p in run.iterdir())
  assert folders(killed) == folders(whole)
  kept = {p.name for p in (whole / 'checkpoints').iterdir()}
  assert kept <= set(names()) and len(names()) <= len(kept) + 4  # each SIGTERM saves one more
  assert sorted(os.listdir(killed / 'digests')) == sorted(f'{name}.json' for name in names())
  assert not list(temporary.iterdir())


def test_build(attempts, tmp_path, temporary):
  arguments = ['data/puppets', '--config=tiny', '--workers=1']
  run('talkjax.build', *arguments, f'--data_dir={tmp_path}/whole')
  target = tmp_path / 'killed'
  partial = target / 'puppets/tiny/.2.0.0.partial'
  count = lambda: len([p for p in partial.iterdir() if not p.name.endswith('.tmp')]) if partial.is_dir() else 0
  shards = lambda: list(target.glob('puppets/tiny/incomplete*/*.array_record*'))
  for number, how in ((2, KILL), (5, TERM), (8, INT), (0, KILL)):  # the last one while TFDS writes the shards
    reached = (lambda number=number: count() >= number) if number else shards
    outcome = kill(['talkjax.build', *arguments, f'--data_dir={target}'], reached, how, temporary)
    attempts.count(KIND, outcome, command=f'build {number} {how.name}')
  run('talkjax.build', *arguments, f'--data_dir={target}', env={'TMPDIR': str(temporary)})
  files = lambda root: sorted(str(p.relative_to(root)) for p in root.rglob('*') if p.is_file())
  assert files(target) == files(tmp_path / 'whole')
  load = lambda root: build.load(ROOT / 'data/puppets')(data_dir=root, config='tiny')
  for split in ('train', 'test'):
    for one, other in zip(*(load(root).as_data_source(split) for root in (target, tmp_path / 'whole')), strict=True):
      assert one['id'] == other['id'] and all(a == b for a, b in zip(one['frames'], other['frames'], strict=True))
      assert one['audio'] == other['audio'] and np.array_equal(one['landmarks'], other['landmarks'])
  report = json.loads((target / 'puppets/tiny/2.0.0' / REPORT).read_text())
  assert not any(split['skipped'] for split in report['splits'].values())
  assert not list(temporary.iterdir())


def test_generate(attempts, models, media, tmp_path, temporary):
  soundfile.write(tmp_path / 'long.wav', 0.1 * np.sin(np.arange(16_000 * 20) / 9), 16_000)
  files = f'--video={media["talk.mp4"]}', f'--audio={tmp_path}/long.wav'
  arguments = [f'--workdir={models["speech_edit"]}', *files]
  call('talkjax.generate', *arguments, f'--output={tmp_path}/whole.mp4')
  output = tmp_path / 'out'
  output.mkdir()
  frames = lambda path: np.stack(list(video.read_frames(path)))
  begun = lambda: any('.partial' in p.name for p in output.iterdir())
  written = lambda: any(p.stat().st_size > 1000 for p in output.iterdir())
  for when, how in ((begun, TERM), (written, INT), (begun, KILL), (written, KILL)):
    outcome = kill(['talkjax.generate', *arguments, f'--output={output}/a.mp4'], when, how, temporary)
    attempts.count(KIND, outcome, command=f'generate {how.name}')
    left = [*output.iterdir(), *temporary.iterdir()]
    assert (how == KILL) == bool(left), left
  environment = {'TMPDIR': str(temporary)}
  run('talkjax.generate', *arguments, f'--output={output}/a.mp4', env=environment)
  assert list(snapshot([output, temporary])) == [f'{output}/a.mp4'] and not list(temporary.iterdir())
  assert np.array_equal(frames(output / 'a.mp4'), frames(tmp_path / 'whole.mp4'))

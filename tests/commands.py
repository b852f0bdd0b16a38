"""How tests run the commands, in this process or in their own, and the smallest config that they train."""

import contextlib
import fcntl
import importlib
import io
import os
import pathlib
import shutil
import subprocess
import sys
import types
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The tiny size made smaller: a step takes milliseconds.
MICRO = (
  '--config=configs/speech_edit.py:tiny',
  '--config.data.corpus=puppets/tiny',
  '--config.size=32',
  '--config.model.width=32',
  '--config.model.multipliers=(1,)',
  '--config.model.patch_size=4',
  '--config.batch_size=8',
  '--config.data.examples_per_record=4',
  '--config.steps=6',
  '--config.log_every=1',
  '--config.checkpoint_every=2',
  '--config.keep_checkpoints=3',
  '--config.sample_every=0',
  '--config.sampler.steps=2',
)


def run(module: str, *args: str, devices: int | None = None, env: dict[str, str] | None = None, check: bool = True):
  """Runs `python -m module args` in the clone's root, on `devices` fake CPU devices if given; `check`: it succeeds."""
  env = {**os.environ, 'JAX_PLATFORMS': 'cpu', **(env or {})}
  if devices:
    env['XLA_FLAGS'] = f'{env.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={devices}'
  done = subprocess.run(
    [sys.executable, '-m', module, *args], cwd=ROOT, env=env, check=False, capture_output=True, text=True, timeout=600
  )
  assert not check or done.returncode == 0, done.stderr[-3000:]
  return done


def call(module: str, *args: str, check: bool = True) -> types.SimpleNamespace:
  """As `run`, in this process: without the seconds that Python and JAX take to start.

  For exit codes of the interpreter, signals, several processes and fake devices there is `run`.
  """
  stdout, stderr = io.StringIO(), io.StringIO()
  with contextlib.chdir(ROOT), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
    code = importlib.import_module(module).main([module, *args])
  done = types.SimpleNamespace(returncode=code, stdout=stdout.getvalue(), stderr=stderr.getvalue())
  assert not check or done.returncode == 0, done.stderr[-3000:]
  return done


def build_puppets(folder: pathlib.Path) -> pathlib.Path:
  """Builds the tiny puppets corpus under a folder and returns that."""
  run('talkjax.build', 'data/puppets', '--config=tiny', '--workers=0', f'--data_dir={folder}')
  return folder


def make_once(tmp_path_factory, name: str, make: Callable[[pathlib.Path], object]) -> pathlib.Path:
  """A folder for all processes of a session of pytest, made by the first process that needs it."""
  root = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    root = root.parent  # the folder that the processes of pytest-xdist share
  folder, made = root / name, root / f'{name}.made'
  with (root / f'{name}.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not made.exists():
      shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
      make(folder)
      made.touch()
  return folder

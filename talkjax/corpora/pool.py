"""A pool of worker processes in which a task that crashes or hangs fails without affecting the other tasks.

`concurrent.futures` stops the whole pool when one process dies, without identifying the task: a decoder that crashes on
one broken file would end a build of 100,000 clips. Here each worker has one task at a time. When a worker dies, the
parent process therefore knows the task and starts a new worker. It also knows how long each task has been running, and
kills the worker of a task that exceeds the time limit.
"""

import contextlib
import dataclasses
import itertools
import math
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import pickle
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# One thread per worker, because the pool uses all cores. Libraries read these variables when they are imported.
_THREADS = ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'NUMEXPR_NUM_THREADS')
_MAX_WAIT = 3600.0  # seconds; the operating system rejects values as large as some time limits
_STARTED = 'started'
_QUIET = {'TF_CPP_MIN_LOG_LEVEL': '3', 'GLOG_minloglevel': '3', 'JAX_PLATFORMS': 'cpu', 'TQDM_DISABLE': '1'}


class TimedOut(str):
  """The error of a task that was killed because it exceeded the time limit."""


def unordered_map(
  function: Callable[[Any], Any],
  tasks: Iterable[Any],
  workers: int,
  import_from: str | None = None,
  time_limit: float = math.inf,
) -> Iterator[tuple[Any, Any, str | None]]:
  """Yields (task, result, error) for each task in order of completion; error is None if the task succeeded.

  Args:
    function: picklable, takes one task. An exception, or the death of the process, is returned as the text `error`.
    tasks: picklable; consumed one by one as workers become idle.
    workers: number of spawned processes; 0 runs the tasks in this process.
    import_from: an additional folder to import modules from, needed to unpickle `function`.
    time_limit: maximum seconds per task, counted from when its worker starts it. After that the worker is killed, and
      the error of the task is a `TimedOut`. Not enforced with 0 workers: a task in this process cannot be killed.
  """
  if workers == 0:
    for task in tasks:
      yield task, *_attempt(function, task)
    return
  pending, payload = iter(tasks), pickle.dumps(function)
  busy: list[_Worker] = []
  idle: list[_Worker] = []
  try:
    while True:
      for task in itertools.islice(pending, workers - len(busy)):
        worker = idle.pop() if idle else _Worker(payload, import_from)
        busy.append(worker)
        worker.assign(task)
      if not busy:
        return
      remaining = min(w.started for w in busy) + time_limit - time.monotonic()
      multiprocessing.connection.wait([w.pipe for w in busy], min(max(remaining, 0.0), _MAX_WAIT))
      for worker in list(busy):
        if worker.pipe.poll():
          try:
            message = worker.pipe.recv()
          except (EOFError, OSError):  # the worker process has died
            message = None, worker.exit_error()
            worker.close()
          else:
            if message == _STARTED:
              worker.started = time.monotonic()
              continue
            idle.append(worker)
        elif time.monotonic() - worker.started > time_limit:
          message = None, TimedOut(f'took longer than {time_limit:g} s')
          worker.close(kill=True)
        else:
          continue
        busy.remove(worker)
        yield worker.task, *message
  finally:
    for worker in (*busy, *idle):
      worker.close(kill=True)


def ordered_map(
  function: Callable[[Any], Any], tasks: Iterable[Any], workers: int, keep: Callable[[Any], Any] = lambda task: task
) -> Iterator[tuple[Any, Any, str | None]]:
  """As `unordered_map`, in the order of the tasks.

  Args:
    function, tasks, workers: of `unordered_map`.
    keep: task -> what is yielded in its place, and is all that is held of a task that waits for an earlier one.
  """
  numbered, finished, next_number = enumerate(tasks), {}, 0
  done = unordered_map(_Numbered(function), numbered, workers)
  with contextlib.closing(done):
    for (number, task), result, error in done:
      finished[number] = keep(task), result, error
      while next_number in finished:
        yield finished.pop(next_number)
        next_number += 1


@dataclasses.dataclass(frozen=True)
class _Numbered:
  """Calls a function with a numbered task."""

  function: Callable[[Any], Any]

  def __call__(self, task: tuple[int, Any]):
    return self.function(task[1])


def _attempt(function, task):
  try:
    return function(task), None
  except Exception as error:  # returned as text, because not every exception can be pickled
    return None, f'{type(error).__name__}: {error}'


class _Worker:
  """A worker process, the pipe to it, and its current task."""

  def __init__(self, payload: bytes, import_from: str | None):
    context = multiprocessing.get_context('spawn')
    self.pipe, worker_pipe = context.Pipe()
    self.task = None
    self.started = math.inf  # time.monotonic() at which the worker started the task
    self.log = tempfile.NamedTemporaryFile(prefix='talkjax-worker-', delete=False)  # noqa: SIM115 (closed in close)
    self.process = context.Process(target=_work, args=(worker_pipe, payload, import_from, self.log.name), daemon=True)
    with _environment({**dict.fromkeys(_THREADS, '1'), **_QUIET}):
      self.process.start()
    worker_pipe.close()  # otherwise the pipe would stay open after the process exits

  def assign(self, task):
    self.task, self.started = task, math.inf
    with contextlib.suppress(OSError):  # the worker has died, which the next recv reports
      self.pipe.send(task)

  def exit_error(self) -> str:
    self.process.join(10)
    code = self.process.exitcode
    if code is not None and code < 0:
      reason = f'killed by signal {-code} ({signal.Signals(-code).name})'
    else:
      reason = f'exit code {code}'
    self.log.seek(0)
    lines = self.log.read().decode(errors='replace').split('\n')
    output = next((line.strip() for line in reversed(lines) if line.strip()), '')
    return f'the worker process died: {reason}' + (f', last output: {output[:200]}' if output else '')

  def close(self, kill: bool = False):
    self.pipe.close()
    if not kill:
      self.process.join(10)
    # SIGKILL, because workers do not clean up on SIGTERM either and a library may block SIGTERM.
    self.process.kill()
    self.process.join(10)  # with a timeout: a process blocked on an unreachable network disk cannot be killed
    self.log.close()
    pathlib.Path(self.log.name).unlink(missing_ok=True)  # if the worker died before it did this


def _work(pipe, payload: bytes, import_from: str | None, log: str):
  """Main loop of a worker: receives tasks and sends (result, error) until the pipe is closed."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
  # Output of libraries would disrupt the progress bar; it is kept for the error message.
  with open(log, 'w') as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
  os.unlink(log)  # both processes have it open, and it is deleted even if the parent process is killed
  if import_from and import_from not in sys.path:
    sys.path.insert(0, import_from)
  function = pickle.loads(payload)
  import cv2  # imported here because it reads the environment and only workers need it

  cv2.setNumThreads(1)
  while True:
    try:
      task = pipe.recv()
    except (EOFError, OSError):
      return
    pipe.send(_STARTED)  # the time limit excludes imports
    pipe.send(_attempt(function, task))


@contextlib.contextmanager
def _environment(values: dict[str, str]):
  before = {name: os.environ.get(name) for name in values}
  os.environ.update(values)
  try:
    yield
  finally:
    for name, value in before.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value

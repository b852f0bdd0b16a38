"""A pool of worker processes that survives its tasks: one that crashes its process, or never ends, fails alone.

`concurrent.futures` gives up the whole pool when one process dies, without telling which task did it; a decoder that
crashes on one broken file would end a build of a hundred thousand. Here each worker holds one task at a time, so the
parent knows which task died, and starts another worker in its place. It also knows how long each task has been running,
and kills the worker whose task overruns the time limit.
"""

import contextlib
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

# One thread a worker: the pool is what uses the cores. Read when numpy and its kind are imported, hence at start.
_THREADS = ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'NUMEXPR_NUM_THREADS')
_LONGEST_WAIT = 3600.0  # seconds; the operating system takes no number as large as some time limits
_BEGUN = 'begun'
_QUIET = {'TF_CPP_MIN_LOG_LEVEL': '3', 'GLOG_minloglevel': '3', 'JAX_PLATFORMS': 'cpu', 'TQDM_DISABLE': '1'}


class TimedOut(str):
  """The error of a task that was ended because it overran the time limit."""


def unordered_map(
  function: Callable[[Any], Any],
  tasks: Iterable[Any],
  workers: int,
  import_from: str | None = None,
  time_limit: float = math.inf,
) -> Iterator[tuple[Any, Any, str | None]]:
  """Yields (task, result, error) for every task, as they get done; error is None where the task succeeded.

  Args:
    function: picklable, of one task. What it raises comes back as the text `error`; so does the death of its process.
    tasks: picklable; taken one by one as workers get free.
    workers: number of spawned processes; 0 works in this process.
    import_from: a folder to import modules from, beside what this process imports from, to unpickle `function`.
    time_limit: seconds that a task may take, from when its worker begins it; then the worker is killed, and the task's
      error is a `TimedOut`. Not enforced without workers: nothing can end a task in this process.
  """
  if workers == 0:
    for task in tasks:
      yield task, *_attempt(function, task)
    return
  waiting, payload = iter(tasks), pickle.dumps(function)
  busy: list[_Worker] = []
  idle: list[_Worker] = []
  try:
    while True:
      for task in itertools.islice(waiting, workers - len(busy)):
        worker = idle.pop() if idle else _Worker(payload, import_from)
        busy.append(worker)
        worker.give(task)
      if not busy:
        return
      left = min(w.begun for w in busy) + time_limit - time.monotonic()
      multiprocessing.connection.wait([w.pipe for w in busy], min(max(left, 0.0), _LONGEST_WAIT))
      for worker in list(busy):
        if worker.pipe.poll():
          try:
            message = worker.pipe.recv()
          except (EOFError, OSError):  # nobody is at the other end any more
            message = None, worker.last_words()
            worker.close()
          else:
            if message == _BEGUN:
              worker.begun = time.monotonic()
              continue
            idle.append(worker)
        elif time.monotonic() - worker.begun > time_limit:
          message = None, TimedOut(f'took longer than {time_limit:g} s')
          worker.close(kill=True)
        else:
          continue
        busy.remove(worker)
        yield worker.task, *message
  finally:
    for worker in (*busy, *idle):
      worker.close(kill=True)


def _attempt(function, task):
  try:
    return function(task), None
  except Exception as error:  # text travels between processes, not every exception does
    return None, f'{type(error).__name__}: {error}'


class _Worker:
  """One process, the pipe to it, and the task it holds."""

  def __init__(self, payload: bytes, import_from: str | None):
    context = multiprocessing.get_context('spawn')
    self.pipe, theirs = context.Pipe()
    self.task = None
    self.begun = math.inf  # time.monotonic() at which the worker began the task
    self.log = tempfile.NamedTemporaryFile(prefix='talkjax-worker-', delete=False)  # noqa: SIM115 (closed in close)
    self.process = context.Process(target=_work, args=(theirs, payload, import_from, self.log.name), daemon=True)
    with _environment({**dict.fromkeys(_THREADS, '1'), **_QUIET}):
      self.process.start()
    theirs.close()  # so that the pipe ends when the process does

  def give(self, task):
    self.task, self.begun = task, math.inf
    with contextlib.suppress(OSError):  # it died meanwhile: the next recv says so
      self.pipe.send(task)

  def last_words(self) -> str:
    self.process.join(10)
    code = self.process.exitcode
    if code is not None and code < 0:
      how = f'killed by signal {-code} ({signal.Signals(-code).name})'
    else:
      how = f'exit code {code}'
    self.log.seek(0)
    lines = self.log.read().decode(errors='replace').split('\n')
    said = next((line.strip() for line in reversed(lines) if line.strip()), '')
    return f'the worker process died: {how}' + (f', its last words: {said[:200]}' if said else '')

  def close(self, kill: bool = False):
    self.pipe.close()
    if not kill:
      self.process.join(10)
    # SIGTERM gives a worker no chance to clean up either, and a library may block it.
    self.process.kill()
    self.process.join(10)  # not for ever: the kernel keeps a process that waits for a dead network disk
    self.log.close()
    pathlib.Path(self.log.name).unlink(missing_ok=True)  # where it died before it could


def _work(pipe, payload: bytes, import_from: str | None, log: str):
  """A worker's life: tasks in, (result, error) out, until the pipe ends."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
  # What libraries print would tear the progress bar; it is kept for the last words.
  with open(log, 'w') as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
  os.unlink(log)  # both ends have it open: nothing stays behind, even if the parent is killed
  if import_from and import_from not in sys.path:
    sys.path.insert(0, import_from)
  function = pickle.loads(payload)
  import cv2  # after the environment is set, and only where it is needed

  cv2.setNumThreads(1)
  while True:
    try:
      task = pipe.recv()
    except (EOFError, OSError):
      return
    pipe.send(_BEGUN)  # the time limit does not count what was imported before
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

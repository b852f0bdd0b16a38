"""Reads files in processes of their own, with little memory and time, so that a crash is a result like others."""

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys

_MEMORY = 3 << 30  # bytes of addresses, numpy's libraries included
_SECONDS = 20


def limit() -> None:
  """Bounds this process: more memory is a MemoryError, more time SIGALRM."""
  resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
  signal.alarm(_SECONDS)


def outcomes(paths) -> dict[str, str]:
  """What became of reading each file: 'read', 'refused: SENTENCE', 'raised ERROR' or 'signal N', by file name."""
  command = [sys.executable, __file__, *map(str, paths)]
  done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=pathlib.Path(__file__).parent.parent)
  return json.loads(done.stdout)


def _outcome(path: str) -> str:
  from talkjax.errors import UserError
  from talkjax.weights.read import read_pickle, read_weights

  try:
    if not path.endswith('.safetensors'):
      read_pickle(path)  # all of it, as --kps does; the message is that of read_weights
    for array in read_weights(path).values():
      array.sum()  # touches all of its memory
  except UserError as error:
    return f'refused: {error}'
  except Exception as error:
    return f'raised {type(error).__name__}: {error}'
  return 'read'


def _in_a_fork(path: str) -> str:
  reading, writing = os.pipe()
  child = os.fork()
  if not child:
    limit()
    os.write(writing, _outcome(path)[:4000].encode())
    os._exit(0)
  os.close(writing)
  with os.fdopen(reading) as pipe:
    said = pipe.read()
  status = os.waitpid(child, 0)[1]
  return f'signal {os.WTERMSIG(status)}' if os.WIFSIGNALED(status) else said


if __name__ == '__main__':
  sys.path.insert(0, os.getcwd())
  from talkjax.weights import read  # noqa: F401 - once, for all forks

  print(json.dumps({os.path.basename(path): _in_a_fork(path) for path in sys.argv[1:]}))

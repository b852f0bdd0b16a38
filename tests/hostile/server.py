"""Runs commands that its parent names, one after another, in a process that may crash or hang.

A line of JSON on stdin is an attempt: `module`, `args`, `folder` (the current one) and `cached`, whether the weights of
a workdir are those of an earlier attempt. The answer is a line of JSON on the descriptor that the parent gives.
"""

import contextlib
import functools
import importlib
import io
import json
import os
import resource
import sys
import traceback

from absl import flags

from tests.hostile.harness import processor_seconds


def attempt(job: dict) -> dict:
  """Runs a command; its exit code, what it printed, and what it took."""
  before = processor_seconds()
  module, out = importlib.import_module(job['module']), io.TextIOWrapper(io.BytesIO(), 'utf-8', write_through=True)
  err = io.TextIOWrapper(io.BytesIO(), 'utf-8', 'backslashreplace', write_through=True)
  with contextlib.chdir(job['folder']), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    try:
      code = module.main([job['module'], *job['args']])
    except SystemExit as end:
      code = end.code
    except BaseException:
      traceback.print_exc()
      code = None
  printed = {name: stream.buffer.getvalue().decode() for name, stream in (('out', out), ('err', err))}
  mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
  return {'code': code, **printed, 'mib': mib, 'seconds': processor_seconds() - before}


def main(answers: int) -> None:
  from talkjax import generate, pipeline

  if not flags.FLAGS.is_parsed():
    flags.FLAGS(['server'])
  cached = functools.cache(pipeline.Pipeline)
  for line in sys.stdin:
    job = json.loads(line)
    generate.Pipeline = cached if job['cached'] else pipeline.Pipeline
    os.write(answers, json.dumps(attempt(job)).encode() + b'\n')


if __name__ == '__main__':
  main(int(sys.argv[1]))

"""How every command starts and ends: flags in, exit code out, one sentence per error.

Exit codes: 0 done, 1 the work could not be done, 2 the command line was wrong. A traceback is printed only with
`--debug`.
"""

import difflib
import math
import pathlib
import runpy
import sys
import traceback

import ml_collections
from absl import app, flags, logging

from talkjax.errors import UsageError, UserError
from talkjax.training.workdir import flatten

flags.DEFINE_bool('debug', False, 'Show the traceback of an error.')


_holders: dict[str, flags.FlagHolder] = {}


def flag(define, name: str, *args, **kwargs) -> flags.FlagHolder:
  """`define(name, ...)`, or the flag of that name which another command defined before in this process (tests)."""
  if name not in _holders:
    _holders[name] = define(name, *args, **kwargs)
  return _holders[name]


def run(main, argv=None):
  """Parses flags, runs `main(argv)`, and leaves by exit code (see the module's docstring)."""
  argv = list(sys.argv if argv is None else argv)
  app.define_help_flags()  # app.run would, but the flags are parsed before it
  debug = any(a in ('--debug', '-debug', '--debug=true', '--debug=True') for a in argv)
  try:
    rest = _parse(argv)
    logging.set_verbosity(logging.ERROR)  # libraries warn of what is none of a user's business
    app.run(main, argv=argv, flags_parser=lambda args: rest)
  except (flags.Error, UsageError) as error:
    _report(error, debug)
    sys.exit(2)
  except UserError as error:
    _report(error, debug)
    sys.exit(1)
  except KeyboardInterrupt:
    sys.exit(130)
  except Exception as error:  # an error nobody foresaw is still one sentence, and says how to see more
    _report(error, debug, prefix=f'{type(error).__name__}: ', hint=' (run again with --debug for the traceback)')
    sys.exit(1)


def _parse(argv: list[str]) -> list[str]:
  """flags.FLAGS(argv), with what config files and their overrides get wrong as one sentence each."""
  for value in [a.split('=', 1)[1] for a in argv if a.startswith(('--config=', '-config='))]:
    path = value.split(':')[0]
    if not pathlib.Path(path).is_file():
      there = sorted(str(p) for p in pathlib.Path('configs').glob('*.py') if p.stem not in ('common', '__init__'))
      near = f': there are {", ".join(there)}' if there else ': run in the root of the clone'
      raise UsageError(f'--config={value}: no file {path}{near}')
    config = _load_config(path, value.partition(':')[2] or None)
    for argument in argv:
      if argument.startswith(('--config.', '-config.')):
        check_key(config, argument.lstrip('-').split('=', 1)[0].removeprefix('config.'), argument)
  rest = flags.FLAGS(argv)
  if len(rest) > 1:
    raise UsageError(f'unexpected argument {rest[1]!r}: every option is written --name=value; see --help')
  return rest


def _load_config(path: str, arg: str | None) -> ml_collections.ConfigDict:
  # Once more than ml_collections does, whose own errors are tracebacks.
  try:
    return runpy.run_path(path)['get_config'](*([arg] if arg else []))
  except (ValueError, TypeError) as error:
    raise UsageError(f'--config={path}{":" + arg if arg else ""}: {error}') from error


def check_key(config: ml_collections.ConfigDict, key: str, what: str) -> None:
  """Raises UsageError, with near names, unless the config has 'a.b.c'."""
  names = list(flatten(config.to_dict()))
  if key not in names and not any(n.startswith(key + '.') for n in names):
    near = difflib.get_close_matches(key, names, n=3) or [
      n for n in names if n.split('.')[-1] == key.rsplit('.', maxsplit=1)[-1]
    ]
    hint = (
      f'nearest: {", ".join(near)}' if near else f'its keys are {", ".join(sorted({n.split(".")[0] for n in names}))}'
    )
    raise UsageError(f'{what}: the config has no key {key!r} ({hint})')


def parse_sweep(text: str | None) -> tuple[str, tuple[float, ...]] | None:
  """'audio_weight=0.5,1' -> ('audio_weight', (0.5, 1.0)).

  Raises:
    UsageError: anything else, or fewer than two values that differ.
  """
  if text is None:
    return None
  setting, _, values = text.partition('=')
  try:
    numbers = tuple(dict.fromkeys(float(v) for v in values.split(',')))
  except ValueError:
    numbers = ()
  if len(numbers) < 2 or not all(map(math.isfinite, numbers)):
    raise UsageError(f'--sweep={text}: expected a setting and two numbers or more, such as audio_weight=0.5,1,2,3')
  return setting, numbers


def _report(error, debug, prefix='', hint=''):
  if debug:
    traceback.print_exc()
  sentence = ' '.join(str(error).split())
  print(f'error: {prefix}{sentence}{hint}', file=sys.stderr)

"""How every command starts and ends: flags in, exit code out, one sentence per error.

Exit codes: 0 done, 1 the work could not be done, 2 the command line was wrong. A traceback is printed only with
`--debug`.
"""

import sys
import traceback

from absl import app, flags, logging

flags.DEFINE_bool('debug', False, 'Show the traceback of an error.')


class UserError(Exception):
  """What a user can mend: one sentence that names the thing, what was expected and the mend."""


class UsageError(UserError):
  """The command line itself is wrong (exit code 2)."""


def run(main, argv=None):
  """Parses flags, runs `main(argv)`, and leaves by exit code (see the module's docstring)."""
  argv = list(sys.argv if argv is None else argv)
  app.define_help_flags()  # app.run would, but the flags are parsed before it
  debug = any(a in ('--debug', '-debug', '--debug=true', '--debug=True') for a in argv)
  try:
    rest = flags.FLAGS(argv)
    if len(rest) > 1:
      raise UsageError(f'unexpected argument {rest[1]!r}: every option is written --name=value; see --help')
    logging.set_verbosity(logging.WARNING)
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


def _report(error, debug, prefix='', hint=''):
  if debug:
    traceback.print_exc()
  sentence = ' '.join(str(error).split())
  print(f'error: {prefix}{sentence}{hint}', file=sys.stderr)

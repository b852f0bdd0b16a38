"""How every command starts and ends: flags in, exit code out, one sentence per error.

Exit codes: 0 done, 1 the work could not be done, 2 the command line was wrong, 130 interrupted, 143 terminated. A
traceback is printed only with `--debug`; that of an unforeseen error goes to a file too.
"""

import contextlib
import errno
import glob
import os
import pathlib
import runpy
import shlex
import signal
import sys
import tempfile
import textwrap
import threading
import traceback
import types
from collections.abc import Callable, Iterator, Sequence

import ml_collections
from absl import flags, logging
from ml_collections import config_flags

from talkjax import options, systems
from talkjax.errors import UsageError, UserError
from talkjax.media import outputs
from talkjax.options import CONFIG, Option
from talkjax.training import ranges
from talkjax.training.workdir import flatten, read_system_config

_DEFINE = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool}
DEBUG = Option('debug', bool, 'Show the traceback of an error.', False)


def run(
  main: Callable[[types.SimpleNamespace], None],
  own: Sequence[Option],
  usage: str,
  argv: Sequence[str] | None = None,
  of_systems: Callable[[Option], bool] | None = None,
) -> int:
  """Parses the command line, calls `main` and returns the exit code.

  Args:
    main: called with the values of the command's own options as attributes; a `config` is a ConfigDict. With
      `of_systems`, `given` are the values given of the systems' options, by name.
    own: the options of the command.
    usage: the text above them in --help.
    argv: the command line, the program's name first; by default that of the process.
    of_systems: which options of systems the command accepts too.
  """
  argv = list(sys.argv if argv is None else argv)

  def parse_and_run():
    if asks_for_help(argv):
      print(describe(own, usage, _by_system(of_systems) if of_systems else {}))
      return
    arguments = parse(argv, own, of_systems)
    logging.set_verbosity(logging.FATAL)  # what libraries log, with tracebacks, is raised too, or no use for users
    main(arguments)

  return guard(parse_and_run, argv, debug=any(a in ('--debug', '-debug', '--debug=true', '--debug=True') for a in argv))


def asks_for_help(argv: Sequence[str]) -> bool:
  return any(a in ('--help', '-help', '-h') for a in argv[1:])


def guard(function: Callable[[], None], argv: Sequence[str], debug: bool) -> int:
  """Calls a function and returns the exit code; an error is printed as one sentence.

  Args:
    function: the command.
    argv: its command line. The traceback of an unforeseen error goes to its --workdir, or to a temporary file.
    debug: print tracebacks.
  """
  with _printing():
    try:
      with _terminable():
        function()
    except UsageError as error:
      _report(error, debug)
      return 2
    except UserError as error:
      _report(error, debug)
      return 1
    except KeyboardInterrupt:
      return 130
    except Exception as error:  # an unforeseen error is one sentence too, which says where to see more
      if why := outputs.full(error):
        where = getattr(error, 'filename', None) or 'a file'
        _report(f'cannot write {where} ({why}): free some disk space, and run the command again', debug)
        return 1
      hint = f' (its traceback is in {_write_traceback(argv)}; --debug prints it)'
      _report(error, debug, prefix=f'{type(error).__name__}: ', hint=hint)
      return 1
    return 0


class _Output:
  """A stream of text of which what nobody reads any more is lost, as when the program behind a pipe has ended."""

  def __init__(self, stream):
    self._stream = stream

  def __getattr__(self, name):
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    with self._lost_unread():
      self._stream.write(text)
    return len(text)

  def flush(self) -> None:
    with self._lost_unread():
      self._stream.flush()

  @contextlib.contextmanager
  def _lost_unread(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      if error.errno not in (errno.EPIPE, errno.EIO):  # the latter is of a terminal
        raise
      with open(os.devnull, 'w') as null:
        os.dup2(null.fileno(), self._stream.fileno())  # what is buffered goes there too


@contextlib.contextmanager
def _printing() -> Iterator[None]:
  """In the block any name can be printed, and the work goes on when nobody reads what is printed."""
  while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # it was closed, and would be that of the next file
    pass
  os.close(descriptor)
  with contextlib.ExitStack() as stack:
    for redirect, given in ((contextlib.redirect_stdout, sys.stdout), (contextlib.redirect_stderr, sys.stderr)):
      stream = _Output(given or stack.enter_context(open(os.devnull, 'w')))
      stack.enter_context(_any_name_printable(stream))
      stack.enter_context(redirect(stream))
      stack.callback(stream.flush)
    yield


@contextlib.contextmanager
def _any_name_printable(stream) -> Iterator[None]:
  """Names of files that are not UTF-8 can be printed to a stream in the block."""
  before = getattr(stream, 'errors', None)
  if before is None or not hasattr(stream, 'reconfigure'):
    yield
    return
  stream.reconfigure(errors='backslashreplace')
  try:
    yield
  finally:
    with contextlib.suppress(ValueError):  # it was closed
      stream.reconfigure(errors=before)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
  """SIGTERM ends the block with SystemExit(143), so that unfinished files are removed."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return

  def end(*_):
    sys.exit(143)

  before = signal.signal(signal.SIGTERM, end)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)


def parse(
  argv: Sequence[str], own: Sequence[Option], of_systems: Callable[[Option], bool] | None = None
) -> types.SimpleNamespace:
  """The values of a command line, see `run`. Raises UsageError for a wrong one, UserError for a wrong --workdir."""
  values = flags.FlagValues()
  names = {option.name for option in own}
  for option in (DEBUG, *own):
    if option is CONFIG:
      argv = _check_config(argv)
      config_flags.DEFINE_config_file('config', None, option.help, flag_values=values, sys_argv=list(argv))
    else:
      _DEFINE[option.kind](option.name, option.default, option.help, flag_values=values)
  shared = {}
  if of_systems:
    shared = {o.name: o for group in _by_system(of_systems, _value(argv, 'workdir')).values() for o in group}
    for option in shared.values():
      if option.name not in names:
        _DEFINE[option.kind](option.name, None, option.help, flag_values=values)
  try:
    with _importable((_value(argv, 'config') or '').split(':')[0]):
      rest = values(list(argv))
  except (flags.Error, ValueError, TypeError, SyntaxError) as error:  # the last three of wrong values of --config.KEY
    raise UsageError(str(error)) from error
  if len(rest) > 1:
    raise UsageError(f'unexpected argument {rest[1]!r}: every option is written --name=value; see --help')
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # grain reads absl's own flags
  arguments = types.SimpleNamespace(**{option.name: values[option.name].value for option in own})
  for option in own:
    if option is CONFIG or values[option.name].value is None:
      continue
    if values[option.name].present and values[option.name].value == '':  # as of a shell variable that is not set
      raise UsageError(f'--{option.name} is empty: give it a value, or leave it out')
    option.check(values[option.name].value)
  arguments.given = options.given({name: values[name].value for name in shared if name not in names})
  return arguments


def describe(own: Sequence[Option], usage: str, groups: dict[str, list[Option]]) -> str:
  """The text of --help: a line for each option, those of systems grouped by the systems that accept them."""
  lines = [usage.strip()]
  accepting: dict[tuple[str, str], list[str]] = {}  # by name and help: systems may mean different things by one name
  declared = {}
  for system, group in groups.items():
    for option in group:
      declared.setdefault((option.name, option.help), option)
      accepting.setdefault((option.name, option.help), []).append(system)
  shared: dict[str, list[Option]] = {}
  for key, accepted in accepting.items():
    shared.setdefault(f'Options of {", ".join(accepted)}', []).append(declared[key])
  sections = {'Options': (*own, DEBUG), **shared}
  for title, listed in sections.items():
    lines += ['', f'{title}:', *map(describe_option, listed)]
  if CONFIG in own:
    lines.append('  --config.KEY=VALUE'.ljust(26) + 'Any value in the config.')
  return '\n'.join(lines)


def describe_option(option: Option) -> str:
  """The line of an option in --help, wrapped."""
  default = '' if option.default is None or option is DEBUG else f' (default: {option.default})'
  wrapped = textwrap.wrap(option.help + default, 120, initial_indent=' ' * 26, subsequent_indent=' ' * 26)
  return f'  --{option.name}'.ljust(25) + ' ' + '\n'.join(wrapped).lstrip()


def files(name: str, value: str) -> tuple[str, ...]:
  """The files that a flag names: one, several separated by commas, or patterns (`*`, `?`, `[…]`).

  Raises:
    UsageError: a pattern matches nothing.
  """
  if os.path.isfile(value):
    return (value,)
  found = []
  for part in filter(None, value.split(',')):
    matches = sorted(glob.glob(part, recursive=True)) if glob.has_magic(part) else [part]
    if not matches:
      raise UsageError(f'--{name}: no file matches {part}: check the pattern')
    found += matches
  return tuple(found)


def _by_system(accept: Callable[[Option], bool], workdir: str | None = None) -> dict[str, list[Option]]:
  """The options of every system, and of the system of a workdir if it is one that is defined elsewhere."""
  known = systems.names()
  if workdir:
    known = [*dict.fromkeys([read_system_config(workdir).system, *known])]
  return {name: [o for o in systems.module(name).OPTIONS if accept(o)] for name in known}


def _value(argv: Sequence[str], name: str) -> str | None:
  """The value of --name in a command line that is not parsed yet."""
  prefixes = (f'--{name}=', f'-{name}=')
  found = [a.split('=', 1)[1] for a in argv if a.startswith(prefixes)]
  found += [b for a, b in zip(argv, argv[1:]) if a in (f'--{name}', f'-{name}')]
  return found[-1] if found else None


def _check_config(argv: Sequence[str]) -> list[str]:
  """A command line that ml_collections reads as it is meant.

  Each tuple of the config is given once, by its last value, as it joins them; a number that is set to None, and a value
  for what is None, become arguments of the config file, as it knows no type for them.

  Raises UsageError for what it would answer with a traceback: a wrong config file or key.
  """
  value = _value(argv, 'config')
  if value is None:
    return list(argv)
  path = value.split(':')[0]
  if not pathlib.Path(path).is_file():
    there = sorted(str(p) for p in pathlib.Path('configs').glob('*.py') if p.stem not in ('common', 'portrait'))
    near = f': there are {", ".join(there)}' if there else ': run in the root of the clone'
    raise UsageError(f'--config={value}: no file {path}{near}')
  config = load_config(path, value.partition(':')[2] or None)
  for argument in argv:
    if argument.startswith(('--config.', '-config.')):
      ranges.check_key(config, argument.lstrip('-').split('=', 1)[0].removeprefix('config.'), argument)
  values = flatten(config.to_dict())
  tuples = {f'config.{key}' for key, found in values.items() if isinstance(found, tuple)}
  numbers = {f'config.{key}' for key, found in values.items() if isinstance(found, int | float)}
  empty = {f'config.{key}' for key, found in values.items() if found is None}
  others, given, untyped, words = [], {}, [], iter(argv)
  for word in words:
    name, equals, text = word.lstrip('-').partition('=')
    if word.startswith('-') and name in empty and not equals:
      text = next(words, '')
    if word.startswith('-') and (name in empty or (name in numbers and text == 'None')):
      untyped.append(f'{name.removeprefix("config.")}={text}')
    elif word.startswith('-') and name in tuples and (text := text if equals else next(words, None)) is not None:
      given[name] = f'--{name}={text}'
    else:
      others.append(word)
  if untyped:
    file = f'--config={path}:' + ','.join([*filter(None, [value.partition(':')[2]]), *untyped])
    place = next(i for i, word in enumerate(others) if word.lstrip('-').partition('=')[0] == 'config')
    others[place : place + (1 if '=' in others[place] else 2)] = [file]
  return [*others, *given.values()]


def load_config(path: str, arg: str | None) -> ml_collections.ConfigDict:
  """The config of a file, which can lie anywhere, with its arguments. Raises UsageError for what is not one."""
  what = f'--config={path}{":" + arg if arg else ""}'
  try:
    with _importable(path):
      config = runpy.run_path(path)['get_config'](*([arg] if arg else []))
  except UserError:
    raise
  except (ValueError, TypeError) as error:
    raise UsageError(f'{what}: {error}') from error
  except (Exception, SystemExit) as error:  # any Python file may be named
    raise UsageError(f'{what}: no config can be read from that file ({type(error).__name__}: {error})') from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise UsageError(f'{what}: its get_config returns a {type(config).__name__}: expected a ConfigDict')
  return config


@contextlib.contextmanager
def _importable(path: str) -> Iterator[None]:
  """Config files import each other by the name of their folder, whatever the current folder is."""
  root = str(pathlib.Path(path).resolve().parent.parent)
  sys.path.insert(0, root)
  try:
    yield
  finally:
    sys.path.remove(root)


def _write_traceback(argv: Sequence[str]) -> str:
  """Writes the traceback of the current error to the workdir of a command line, or else to a temporary file."""
  text = f'{shlex.join(argv)}\n\n{traceback.format_exc()}'
  workdir = _value(argv, 'workdir')
  if workdir and os.path.isdir(workdir):
    path = pathlib.Path(workdir) / 'traceback.txt'
    with contextlib.suppress(OSError):
      path.write_text(text)
      return str(path)
  with tempfile.NamedTemporaryFile('w', prefix='talkjax_', suffix='.txt', delete=False) as file:
    file.write(text)
  return file.name


def _report(error, debug, prefix='', hint=''):
  if debug:
    traceback.print_exc()
  # Names and texts from files may have characters that control the terminal.
  sentence = ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in ' '.join(str(error).split()))
  print(f'error: {prefix}{sentence}{hint}', file=sys.stderr)

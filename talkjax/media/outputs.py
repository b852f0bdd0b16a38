"""Files that a command will write: checked before its work begins, and cleared of what killed runs left."""

import contextlib
import errno
import glob
import os
import pathlib
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator

from talkjax.errors import UsageError, UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MAX_NAME = 255  # bytes
PARTIAL = '.{name}.{process}.partial{suffix}'  # the name of a file while it is written


def partial(path) -> pathlib.Path:
  """The file, in the same folder, that this process writes before it gets its name."""
  path = pathlib.Path(path)
  return path.with_name(PARTIAL.format(name=path.stem, process=os.getpid(), suffix=path.suffix))


def remove_partial(path) -> None:
  """Removes what killed processes left of this file."""
  path = pathlib.Path(path)
  pattern = re.compile(
    re.escape(PARTIAL.format(name=path.stem, process='#', suffix=path.suffix)).replace(r'\#', r'(\d+)')
  )
  for name in os.listdir(path.parent):
    if (match := pattern.fullmatch(name)) and not _runs(int(match[1])):
      (path.parent / name).unlink(missing_ok=True)


def full(error: BaseException) -> str:
  """What an error says of a full disk; '' if it is about something else. Libraries in C++ have it in their messages."""
  if isinstance(error, OSError) and error.errno in FULL:
    return os.strerror(error.errno)
  return next((text for text in map(os.strerror, FULL) if text in str(error)), '')


@contextlib.contextmanager
def scratch() -> Iterator[pathlib.Path]:
  """A temporary folder, removed afterwards; those that killed processes of this host left are removed too.

  Raises:
    UserError: it cannot be made.
  """
  prefix, root = f'talkjax-{socket.gethostname()}-', pathlib.Path(tempfile.gettempdir())
  for old in root.glob(f'{glob.escape(prefix)}*'):
    process = old.name.removeprefix(prefix).partition('-')[0]
    if process.isdigit() and not _runs(int(process)):
      shutil.rmtree(old, ignore_errors=True)  # another user's stays
  try:
    folder = tempfile.TemporaryDirectory(prefix=f'{prefix}{os.getpid()}-', ignore_cleanup_errors=True)
  except OSError as error:
    raise UserError(f'no folder can be made in {root} ({error.strerror}): set TMPDIR to one with space') from error
  with folder as name:
    yield pathlib.Path(name)


def _runs(process: int) -> bool:
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  except OSError:  # of another user
    return True
  return True


def check(
  path: str,
  suffixes: Iterable[str],
  *,
  flag: str = 'output',
  inputs: Iterable[str] = (),
  replaceable: Callable[[str], bool] | None = None,
  remedy: str = 'choose another name, or add --overwrite',
) -> None:
  """Checks that a file can be written, and that nothing of the user's is lost by it.

  Args:
    path: the file.
    suffixes: that it may have, with the dot, in lower case.
    flag: the option that names it, for messages.
    inputs: files that are read.
    replaceable: whether an existing file may be replaced; None: any.
    remedy: where it may not.

  Raises:
    UsageError: the path is empty or has another suffix.
    UserError: it is an input, a folder or another file that is not replaced, or its folder cannot be written.
  """
  suffixes, what = tuple(suffixes), f'--{flag}={path}'
  if not path:
    raise UsageError(f'--{flag} is empty: name a file such as out{suffixes[0]}')
  if pathlib.Path(path).suffix.lower() not in suffixes:
    raise UsageError(f'{what}: expected a file name that ends in {" or ".join(suffixes)}')
  if os.path.isdir(path):
    raise UserError(f'{what} is a folder: name a file in it')
  if len(os.fsencode(os.path.basename(partial(path)))) > MAX_NAME:
    raise UserError(f'{what}: the name is too long: choose a shorter one')
  if os.path.lexists(path):
    if any(os.path.exists(other) and os.path.exists(path) and os.path.samefile(path, other) for other in inputs):
      raise UserError(f'{what} is an input, which would be lost: choose another name')
    if not os.path.isfile(path):
      raise UserError(f'{what} exists and is not a regular file: choose another name')
    if replaceable is not None and not replaceable(path):
      raise UserError(f'{what} exists and was not made by talkjax: {remedy}')
  check_folder(os.path.dirname(os.path.abspath(path)), what)


def check_folder(folder: str, what: str) -> None:
  """Raises UserError, which begins with `what`, unless files can be written to a folder that may not exist yet."""
  if not folder:
    raise UsageError(f'{what} is empty: name a folder')
  existing = pathlib.Path(folder).absolute()
  while not os.path.lexists(existing):
    existing = existing.parent
  if not existing.is_dir():
    raise UserError(f'{what}: {existing} is not a folder: choose another place')
  try:
    with tempfile.TemporaryFile(dir=existing):
      pass
  except OSError as error:
    raise UserError(
      f'{what}: the folder {existing} cannot be written ({error.strerror}): choose another place'
    ) from error


def check_space(folder: str | os.PathLike, needed: int, what: str, then: str = '') -> None:
  """Raises UserError if the disk of a folder, which may not exist yet, has less room than `needed` bytes.

  On a full disk the threads of a library would fail one by one, and leave a file that fills it. Buckets have room.
  """
  if '://' in os.fspath(folder):
    return
  path = pathlib.Path(folder).absolute()
  free = shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free
  if free < needed:
    raise UserError(
      f'{what} {needed / 2**20:,.1f} MiB, but {folder} has {free / 2**20:,.1f} MiB left: free some space{then}'
    )


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields the file to write, which gets the path when the block ends, and is removed when it fails or is interrupted.

  Its folder is created.

  Raises:
    UserError: it cannot be written.
  """
  temporary = partial(path)
  try:
    temporary.parent.mkdir(parents=True, exist_ok=True)
    remove_partial(path)
    yield temporary
    temporary.replace(path)
  except BaseException as error:
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)
    if not isinstance(error, OSError):
      raise
    raise UserError(f'cannot write {path} ({error.strerror}): check the folder and the free disk space') from error


def write_text(path: str, text: str) -> None:
  """Writes a text file atomically, see `replacing`."""
  with replacing(path) as temporary:
    temporary.write_text(text)

"""Opens files named by a user or a corpus. Only regular files are opened, so reading always terminates."""

import csv
import io
import os
import pathlib
import stat

from talkjax.errors import UserError

_KINDS = (
  (stat.S_ISDIR, 'a folder'),
  (stat.S_ISFIFO, 'a FIFO (named pipe)'),
  (stat.S_ISSOCK, 'a socket'),
  (stat.S_ISCHR, 'a device'),
  (stat.S_ISBLK, 'a device'),
)


def open_regular(path, expected: str) -> io.FileIO:
  """Opens a regular file, or a link to one, for reading.

  Args:
    path: the file.
    expected: the kind of file for the error message ('a video or audio file').

  Returns:
    the unbuffered file; its `name` is the path as a string.

  Raises:
    UserError: the file is missing or unreadable, or is a folder, a FIFO, a socket or a device.
  """
  path = pathlib.Path(path)
  try:
    _check(path, os.stat(path), expected)  # checked before opening, because opening a device can have side effects
    file = open(path, 'rb', buffering=0, opener=_open_nonblocking)  # noqa: SIM115 (the caller closes it)
  except (FileNotFoundError, NotADirectoryError, ValueError) as error:
    if path.is_symlink():
      raise UserError(f'{path} is a link to {os.readlink(path)}, which does not exist: give {expected}') from error
    raise UserError(f'no file {path}: check the path') from error
  except PermissionError as error:
    raise UserError(f'{path} cannot be read: check its permissions') from error
  except OSError as error:
    raise UserError(f'{path} cannot be opened ({error.strerror or error}): give {expected}') from error
  try:
    _check(path, os.fstat(file.fileno()), expected)  # the file may have been replaced since the first check
  except BaseException:
    file.close()
    raise
  return file


def read_bytes(path, expected: str) -> bytes:
  """Reads a regular file; arguments and errors as `open_regular`."""
  with open_regular(path, expected) as file:
    return file.read()


def read_csv(path) -> tuple[list[str], list[dict[str, str]]]:
  """The names of the columns of a CSV file and its lines, by these names; values that a line lacks are None.

  Raises:
    UserError: as `open_regular`, or it is no CSV file in UTF-8.
  """
  try:
    text = read_bytes(path, 'a CSV file').decode('utf-8-sig')
    reader = csv.DictReader(io.StringIO(text, newline=''))
    return list(reader.fieldnames or ()), list(reader)
  except (UnicodeDecodeError, csv.Error) as error:
    raise UserError(f'{path} is no CSV file in UTF-8 ({error}): export it again') from error


def _open_nonblocking(path, flags: int) -> int:
  # Without O_NONBLOCK, opening a FIFO would block until it has a writer.
  return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def _check(path: pathlib.Path, status: os.stat_result, expected: str) -> None:
  for is_kind, name in _KINDS:
    if is_kind(status.st_mode):
      raise UserError(f'{path} is {name}: give {expected}')

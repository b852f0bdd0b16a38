"""The lock of a workdir: one training at a time writes to it."""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import pathlib
import socket
from collections.abc import Iterator

from etils import epath

from talkjax.errors import UserError


@contextlib.contextmanager
def exclusive(workdir) -> Iterator[None]:
  """Holds the lock of a workdir, which is created; the file `lock` in it names host and process.

  In a local folder the system releases the lock when the process ends in whatever way. A bucket, or a file system
  without locks, has only the file, which a killed run leaves there: that of a process of this host that has ended is
  replaced.

  Raises:
    UserError: another process holds it, or the folder cannot be written.
  """
  path = epath.Path(workdir) / 'lock'
  created = not path.parent.exists()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    held = _lock_file(pathlib.Path(path), workdir) if '://' not in str(workdir) else None
    if held is None:
      _claim(path, workdir)
  except OSError as error:
    raise UserError(f'--workdir={workdir} cannot be written ({error.strerror}): choose a writable folder') from error
  try:
    yield
  finally:
    path.unlink(missing_ok=True)
    if held is not None:
      os.close(held)
    if created and not any(path.parent.iterdir()):  # the run failed before it wrote anything
      path.parent.rmdir()


def _lock_file(path: pathlib.Path, workdir) -> int | None:
  """The descriptor of the locked file, or None where the file system has no locks."""
  while True:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if os.path.exists(path) and os.path.samestat(os.fstat(file), os.stat(path)):
        os.truncate(file, 0)
        os.write(file, _owner().encode())
        return file
      os.close(file)  # the run that held it has just removed it
    except BlockingIOError:
      os.close(file)
      _refuse(path, workdir)
    except OSError as error:
      os.close(file)
      if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
        return None
      raise


def _claim(path: epath.Path, workdir) -> None:
  """Writes the file, unless it is that of a process that may still run."""
  owner = _read(path) if path.exists() else {}
  if owner and (owner.get('host') != socket.gethostname() or _runs(owner.get('process'))):
    _refuse(path, workdir, f', or remove {path} if that process has ended')
  path.write_text(_owner())


def _owner() -> str:
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
  return json.dumps({'host': socket.gethostname(), 'process': os.getpid(), 'since': now}) + '\n'


def _read(path) -> dict:
  try:
    owner = json.loads(path.read_text())
  except ValueError:  # it is being written, or damaged
    return {}
  return owner if isinstance(owner, dict) else {}


def _runs(process) -> bool:
  try:
    os.kill(int(process), 0)
  except (ProcessLookupError, TypeError, ValueError):
    return False
  except PermissionError:
    return True
  return True


def _refuse(path, workdir, remedy: str = '') -> None:
  owner = _read(path)
  who = 'process {process} on {host} (since {since})'.format_map({'process': '?', 'host': '?', 'since': '?'} | owner)
  raise UserError(
    f'--workdir={workdir} is being trained by {who}: wait until it ends, choose another --workdir{remedy}'
  )

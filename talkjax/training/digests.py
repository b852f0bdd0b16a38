"""Digests of the files of checkpoints: damage is recognised before any weight is used.

They are in WORKDIR/digests/STEP.json, written just before a checkpoint is committed. Checkpoints of earlier versions
have none and are not checked.
"""

import concurrent.futures
import hashlib
import json
from collections.abc import Iterator, Sequence

from etils import epath


def write(workdir, step: int) -> None:
  """Stores the digests of a checkpoint's items, and removes those of checkpoints that are gone.

  All its files are written; its folder may not have its final name yet.
  """
  workdir = epath.Path(workdir)
  checkpoints, target = workdir / 'checkpoints', workdir / 'digests' / f'{step}.json'
  folder = next(iter(checkpoints.glob(f'{step}.orbax-checkpoint-tmp*')), checkpoints / str(step))
  names = [name for name in _files(folder) if '/' in name]  # the commit writes its time into a file outside the items
  with concurrent.futures.ThreadPoolExecutor(4) as threads:
    values = threads.map(lambda name: _digest(folder / name), names)
  target.parent.mkdir(parents=True, exist_ok=True)
  temporary = target.with_name(f'{target.name}.tmp')
  temporary.write_text(json.dumps(dict(zip(names, values)), indent=1) + '\n')
  temporary.replace(target)
  for old in target.parent.glob('*.json'):
    if old != target and not (checkpoints / old.stem).exists():
      old.unlink(missing_ok=True)


def damage(workdir, step: int, items: Sequence[str] = ()) -> str:
  """What is wrong with a checkpoint: '' if all its files are as they were saved, or no digests are stored.

  Args:
    workdir: of the checkpoint.
    step: its step.
    items: the items that are to be read; () for all.
  """
  folder = epath.Path(workdir) / 'checkpoints' / str(step)
  path = epath.Path(workdir) / 'digests' / f'{step}.json'
  if not path.exists():
    return ''
  try:
    stored = dict(json.loads(path.read_text()))
  except (OSError, ValueError, TypeError, RecursionError):
    return f'its digests, {path}, are damaged: remove that file if the checkpoint is known to be good'
  stored = {name: value for name, value in stored.items() if not items or name.split('/')[0] in items}

  def problem(name: str) -> str:
    file = folder / name
    if not file.exists():
      return f'{name} is missing'
    return '' if _digest(file) == stored[name] else f'{name} has changed since it was saved'

  with concurrent.futures.ThreadPoolExecutor(4) as threads:
    return next(filter(None, threads.map(problem, stored)), '')


def _files(folder: epath.Path, prefix: str = '') -> Iterator[str]:
  """The paths of all files below a folder, relative to it."""
  for path in sorted(folder.iterdir(), key=lambda p: p.name):
    if path.is_dir():
      yield from _files(path, f'{prefix}{path.name}/')
    else:
      yield prefix + path.name


def _digest(path: epath.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()

"""Builds a corpus: makes the records of its clips in parallel and skips the clips that fail.

A TFDS builder lists its clips and passes them to `generate`, which returns the examples for TFDS to write:

    def _split_generators(self, dl_manager):
      return building.generate(self, {'train': {'clip-1': item, ...}, 'test': {...}}, make_record)

    def _generate_examples(self):
      raise NotImplementedError  # abstract in TFDS, and not called

`make_record(item) -> Record` is a pure module-level function (or a `functools.partial` of one) of one picklable item.
It raises `Skip` for a clip that can't be used. A clip is also skipped, with the reason, after any other error, after
the death of its worker process, and when it takes longer than `Options.clip_timeout`. Finished records are cached in a
folder next to the dataset, so an interrupted build resumes where it stopped; skipped clips are tried again. The dataset
depends only on the items and `make_record`, not on the number of workers.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tqdm
from etils import epath

from talkjax.corpora import pool, records
from talkjax.errors import UserError

REPORT = 'build_report.json'
# Seconds. A minute of 1080p video takes a core a minute and a half, and for a clip the video must be decoded from its
# start: an hour is enough for any useful clip. Few files hang, and the other workers continue in the meantime.
CLIP_TIMEOUT = 3600.0


class NotWritten(str):
  """Why a record could not be written, which is not the fault of its clip."""


class Skip(Exception):
  """A clip can't be used. The message is a short reason without details of the clip, so that reasons can be counted."""


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of the build process; none of them changes a record."""

  workers: int | None = None  # processes; None: one per core; 0: run in this process
  limit: int | None = None  # maximum number of clips per split
  beam: bool = False  # run on Apache Beam instead of local processes
  clip_timeout: float = CLIP_TIMEOUT  # maximum seconds per clip; not enforced with 0 workers or with Beam


_options = Options()


@contextlib.contextmanager
def options(**values) -> Iterator[None]:
  """Sets `Options` for builds in the `with` block, because TFDS cannot pass them to a builder."""
  global _options  # noqa: PLW0603
  previous, _options = _options, dataclasses.replace(_options, **values)
  try:
    yield
  finally:
    _options = previous


@dataclasses.dataclass
class Report:
  """The result for every clip, by split: the names of `kept` clips, and (name, reason) of `skipped` ones."""

  dataset: str
  kept: dict[str, list[str]]
  skipped: dict[str, list[tuple[str, str]]]
  seconds: float = 0.0
  limit: int | None = None

  def __str__(self) -> str:
    """A table of the kept and skipped clips."""
    rows = [('split', 'clips', 'kept', 'skipped', 'why')]
    for split in self.kept:
      reasons = collections.Counter(reason for _, reason in self.skipped[split]).most_common()
      kept, skipped = len(self.kept[split]), len(self.skipped[split])
      first, *others = [f'{count} x {reason}' for reason, count in reasons] or ['']
      rows.append((split, str(kept + skipped), str(kept), str(skipped), first))
      rows.extend(('', '', '', '', other) for other in others)
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
      '  '.join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:4], widths[1:])), row[4]]).rstrip()
      for row in rows
    ]
    return '\n'.join(lines)

  def to_json(self) -> dict:
    return {
      'dataset': self.dataset,
      'seconds': round(self.seconds, 1),
      'limit': self.limit,
      'splits': {
        split: {
          'kept': len(self.kept[split]),
          'skipped': len(self.skipped[split]),
          'reasons': dict(collections.Counter(reason for _, reason in self.skipped[split]).most_common()),
          'skipped_clips': dict(self.skipped[split]),
          'kept_clips': self.kept[split],
        }
        for split in self.kept
      },
    }


def generate(
  builder, splits: Mapping[str, Mapping[str, Any]], process: Callable[[Any], records.Record]
) -> dict[str, Any]:
  """Makes the records of all splits and returns the value for `_split_generators`.

  Args:
    builder: the calling TFDS builder, whose features are `records.features()`.
    splits: split -> name of a clip -> item. Items are picklable and their `repr` contains all of their content. Names
      are unique within a split.
    process: `make_record` of the module docstring.

  Returns:
    split -> generator of (name, example), or a Beam transform. Splits whose clips were all skipped are omitted.

  Raises:
    UserError: there are no clips, or all were skipped.
  """
  start = time.time()
  limit = _options.limit
  splits = {split: dict(list(items.items())[:limit]) for split, items in splits.items()}
  if not any(splits.values()):
    raise UserError(f'{builder.info.full_name}: there is not one clip to build from')
  job = _Job(process, os.fspath(partial_folder(builder)), _code_of(process))
  report = Report(builder.info.full_name, {s: [] for s in splits}, {s: [] for s in splits}, limit=limit)
  builder.talkjax_report, builder.talkjax_start = report, start
  try:
    job.folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(cannot_write(job.folder.parent, error.strerror)) from error
  if _options.beam:
    for note in job.folder.glob('*.skipped'):
      note.unlink()
    report.kept = {split: list(items) for split, items in splits.items()}
    return {split: _beam(job, split, items) for split, items in splits.items() if items}

  skipped = _make_all(builder.info.full_name, job, splits)
  for split, items in splits.items():
    report.skipped[split] = [(name, skipped[split, name]) for name in items if (split, name) in skipped]
    report.kept[split] = [name for name in items if (split, name) not in skipped]
  _raise_if_empty(report)
  return {
    split: _read(job, [(name, splits[split][name]) for name in names]) for split, names in report.kept.items() if names
  }


def partial_folder(builder) -> epath.Path:
  """The folder of the finished records of an incomplete build, next to the folder of the dataset."""
  final = epath.Path(builder.data_dir_root) / builder.info.full_name  # during a build, data_dir is a temporary folder
  return final.parent / f'.{final.name}.partial'


def remove_unfinished(builder) -> None:
  """Removes the temporary folders that TFDS leaves after builds that were killed or failed."""
  final = epath.Path(builder.data_dir_root) / builder.info.full_name
  for leftover in final.parent.glob(f'incomplete.*_{final.name}'):
    leftover.rmtree()


def finish(builder) -> Report | None:
  """Writes the report of a finished dataset into its folder, deletes the partial records and returns the report.

  Returns:
    the report, or None if the builder did not call `generate`.

  Raises:
    UserError: all clips were skipped, which is known this late only with Beam. The empty dataset is removed.
  """
  report, folder = getattr(builder, 'talkjax_report', None), partial_folder(builder)
  if report is None:
    return None
  if _options.beam:
    _collect_from_beam(report, folder)
    if not any(report.kept.values()):
      epath.Path(builder.data_dir).rmtree()
    _raise_if_empty(report)
  report.seconds = time.time() - builder.talkjax_start
  target = epath.Path(builder.data_dir) / REPORT
  target.write_text(json.dumps(report.to_json(), indent=2) + '\n')
  remove_unfinished(builder)
  if folder.exists():
    folder.rmtree()
  return report


def in_workers(
  function: Callable[[Any], Any], tasks: Sequence[Any], import_from: str | None = None
) -> Iterator[tuple[Any, Any, str | None]]:
  """`pool.unordered_map` with the workers and time limit of the current `Options`; an error is a reason to skip."""
  workers, limit = _options.workers, _options.clip_timeout
  workers = min(os.cpu_count() if workers is None else workers, len(tasks))
  for task, result, error in pool.unordered_map(function, tasks, workers, import_from, limit):
    if isinstance(error, pool.TimedOut):
      yield task, None, pool.TimedOut(f'took longer than --clip_timeout={limit:g} s')
    else:
      yield task, result, None if error is None else f'unexpected: {error}'


# --- one clip ---


@dataclasses.dataclass(frozen=True)
class _Job:
  """The task of a worker: makes the record of a clip and writes it to the folder, unless it exists there."""

  process: Callable[[Any], records.Record]
  directory: str
  code: str = ''  # digest of the builder's source: a change of the source makes all records again

  @property
  def folder(self) -> epath.Path:
    return epath.Path(self.directory)

  def path(self, name: str, item: Any) -> epath.Path:
    """The file of a clip; its name is a hash of the item and all settings."""
    bound = (self.process.args, self.process.keywords) if isinstance(self.process, functools.partial) else ()
    return self.folder / hashlib.sha256(repr((name, item, bound, self.code)).encode()).hexdigest()[:40]

  def __call__(self, task: tuple[str, str, Any]) -> str | None:
    """Makes the record of one (split, name, item); returns the reason if it was skipped, else None."""
    _, name, item = task
    path = self.path(name, item)
    if path.exists():
      return None
    try:
      record = self.process(item)
    except Skip as skip:
      return str(skip)
    except UserError as error:  # its message is already written for users
      return ' '.join(str(error).split())
    except Exception as error:
      return f'unexpected: {type(error).__name__}: {" ".join(str(error).split())[:200]}'
    if record.id != name:
      return f'unexpected: the record of {name!r} has the id {record.id!r}'
    features = records.features()
    data = features.serialize_example(records.to_example(record))
    temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    try:
      temporary.write_bytes(data)
      temporary.replace(path)
    except OSError as error:
      with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
      return NotWritten(cannot_write(self.folder, error.strerror))
    return None


def cannot_write(folder, why: str) -> str:
  """The sentence of a build that cannot write."""
  return f'cannot write {folder} ({why}): free some disk space; the same command then resumes'


def _make_all(title: str, job: _Job, splits) -> dict[tuple[str, str], str]:
  """Makes all missing records; returns (split, name) -> reason for the skipped clips."""
  tasks = [(split, name, item) for split, items in splits.items() for name, item in items.items()]
  todo = [task for task in tasks if not job.path(*task[1:]).exists()]
  skipped = {}
  with tqdm.tqdm(total=len(tasks), initial=len(tasks) - len(todo), desc=title, unit='clip', smoothing=0.05) as bar:
    kept = len(tasks) - len(todo)
    for task, reason, error in in_workers(job, todo, _import_folder(job.process)):
      problem = error or reason
      if isinstance(problem, NotWritten):
        raise UserError(problem)
      if problem is None:
        kept += 1
      else:
        skipped[task[:2]] = problem
      bar.set_postfix(kept=kept, skipped=len(skipped), refresh=False)
      bar.update()
  return skipped


def _read(job: _Job, items):
  features = records.features()
  for name, item in items:
    path = job.path(name, item)
    try:
      record = records.from_example(features.deserialize_example_np(path.read_bytes()))
    except Exception as error:  # whatever the parser answers to what are no records
      path.unlink(missing_ok=True)
      raise UserError(
        f'the record of clip {name} that an earlier build left in {path.parent} was damaged ({type(error).__name__}): '
        'the same command makes it again'
      ) from error
    yield name, records.to_example(record)


def _import_folder(process) -> str | None:
  """The folder that workers import the builder module from, which TFDS does not keep on the import path."""
  module = sys.modules.get(_function(process).__module__)
  if module is None or module.__name__ == '__main__' or not getattr(module, '__file__', None):
    return None
  return str(pathlib.Path(module.__file__).resolve().parents[module.__name__.count('.')])


def _code_of(process) -> str:
  """A digest of the source files in the folder of the builder."""
  module = sys.modules.get(_function(process).__module__)
  if not getattr(module, '__file__', None):
    return ''
  path = pathlib.Path(module.__file__)
  files = sorted(path.parent.glob('*.py')) if '.' in module.__name__ else [path]
  return hashlib.sha256(b'\0'.join(file.read_bytes() for file in files)).hexdigest()


def _function(process):
  return process.func if isinstance(process, functools.partial) else process


def _raise_if_empty(report: Report):
  if not any(report.kept.values()):
    reasons = collections.Counter(reason for clips in report.skipped.values() for _, reason in clips)
    (reason, count), *_ = reasons.most_common(1)
    total = sum(reasons.values())
    raise UserError(f'{report.dataset}: none of {total} clips could be used; {count} of them: {reason}')


# --- Apache Beam ---


def _beam(job: _Job, split: str, items: dict[str, Any]):
  try:
    import apache_beam as beam
    from apache_beam.internal.cloudpickle import cloudpickle
  except ImportError as error:
    raise UserError('--beam needs Apache Beam, which is not installed: pip install "talkjax[beam]"') from error
  # Beam workers have talkjax installed but not the builder folders, so the builder's code is pickled with the pipeline.
  cloudpickle.register_pickle_by_value(sys.modules[_function(job.process).__module__.split('.')[0]])
  tasks = [cloudpickle.dumps((split, name, item)) for name, item in items.items()]
  return beam.Create(tasks, reshuffle=True) | beam.FlatMap(functools.partial(_beam_clip, job))


def _beam_clip(job: _Job, task: bytes):
  split, name, item = task = pickle.loads(task)
  reason = job(task)
  if reason is None:
    yield from _read(job, [(name, item)])
  else:  # returned as a file, because the pipeline may run on other machines
    job.path(name, item).with_suffix('.skipped').write_text(json.dumps([split, name, reason]))


def _collect_from_beam(report: Report, folder: epath.Path):
  for split, name, reason in sorted(json.loads(note.read_text()) for note in folder.glob('*.skipped')):
    report.skipped[split].append((name, reason))
    report.kept[split].remove(name)

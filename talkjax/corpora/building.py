"""How a corpus is made: items become records in parallel, clip by clip, whatever single clips do.

A TFDS builder lists its clips and hands them here; what comes back is what TFDS writes:

    def _split_generators(self, dl_manager):
      return building.generate(self, {'train': {'clip-1': item, ...}, 'test': {...}}, make_record)

    def _generate_examples(self):
      raise NotImplementedError  # abstract in TFDS, and not called

`make_record(item) -> Record` is a pure module-level function (or a `functools.partial` of one) of one picklable item,
raising `Skip` for a clip that can't be used. Every other error, the death of its process and a clip that takes longer
than `Options.clip_timeout` skip that clip with its reason too. Finished records wait in a folder beside the dataset, so
that an interrupted build goes on where it was; what was skipped is tried again. The dataset depends on items and
`make_record` alone, not on how many workers ran.
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
# Seconds. A minute of 1080p video takes a core a minute and a half, and a clip needs all that comes before it in its
# video decoded: an hour is enough for what is worth having. Few files hang, and the other workers go on meanwhile.
CLIP_TIMEOUT = 3600.0


class Skip(Exception):
  """This clip can't be used; the message says why, in a few words that many clips may share."""


@dataclasses.dataclass(frozen=True)
class Options:
  """How to build, apart from what: nothing here changes a record."""

  workers: int | None = None  # processes; None: one a core; 0: none but this one
  limit: int | None = None  # only so many clips of each split
  beam: bool = False  # hand the work to Apache Beam instead
  clip_timeout: float = CLIP_TIMEOUT  # seconds a clip may take; not enforced without workers, nor by Beam


_options = Options()


@contextlib.contextmanager
def options(**values) -> Iterator[None]:
  """Sets `Options` for the builds inside the `with` block (TFDS has no way to hand them to a builder)."""
  global _options  # noqa: PLW0603
  before, _options = _options, dataclasses.replace(_options, **values)
  try:
    yield
  finally:
    _options = before


@dataclasses.dataclass
class Report:
  """What became of every clip. `kept` and `skipped` are by split: names, and (name, reason)."""

  dataset: str
  kept: dict[str, list[str]]
  skipped: dict[str, list[tuple[str, str]]]
  seconds: float = 0.0
  limit: int | None = None

  def __str__(self) -> str:
    """The table of kept and skipped."""
    rows = [('split', 'clips', 'kept', 'skipped', 'why')]
    for split in self.kept:
      why = collections.Counter(reason for _, reason in self.skipped[split]).most_common()
      kept, skipped = len(self.kept[split]), len(self.skipped[split])
      first, *others = [f'{count} x {reason}' for reason, count in why] or ['']
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
  """Makes the records of all splits and returns what `_split_generators` has to.

  Args:
    builder: the TFDS builder that asks. Its features are `records.features()`.
    splits: split -> name of a clip -> item. Items are picklable and their `repr` says all that they hold. Names are
      unique within a split.
    process: see the module's docstring.

  Returns:
    split -> generator of (name, example), or a Beam transform. A split that lost all its clips is left out.

  Raises:
    UserError: nothing to build, or nothing kept.
  """
  start = time.time()
  limit = _options.limit
  splits = {split: dict(list(items.items())[:limit]) for split, items in splits.items()}
  if not any(splits.values()):
    raise UserError(f'{builder.info.full_name}: there is not one clip to build from')
  job = _Job(process, os.fspath(partial_folder(builder)), _code_of(process))
  report = Report(builder.info.full_name, {s: [] for s in splits}, {s: [] for s in splits}, limit=limit)
  builder.talkjax_report, builder.talkjax_start = report, start
  job.folder.mkdir(parents=True, exist_ok=True)
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
  """Where the finished records of an unfinished build wait: beside the dataset's own folder."""
  final = epath.Path(builder.data_dir_root) / builder.info.full_name  # while it builds, data_dir is a temporary one
  return final.parent / f'.{final.name}.partial'


def finish(builder) -> Report | None:
  """After TFDS wrote the dataset: writes the report beside it, throws the waiting records away, returns the report.

  A builder that did not come to `generate` has none.

  Raises:
    UserError: nothing was kept (which only Beam finds out this late); the empty dataset is removed.
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
  # What TFDS left of builds that were killed goes too.
  for left in (folder, *folder.parent.glob(f'incomplete.*_{epath.Path(builder.data_dir).name}')):
    if left.exists():
      left.rmtree()
  return report


def in_workers(
  function: Callable[[Any], Any], tasks: Sequence[Any], import_from: str | None = None
) -> Iterator[tuple[Any, Any, str | None]]:
  """`pool.unordered_map` with the workers and the time limit of this build; an error is the reason to skip a clip."""
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
  """What every worker does to every clip: make its record, once, and put it into the folder."""

  process: Callable[[Any], records.Record]
  where: str
  code: str = ''  # of the builder: records that other code made are made again

  @property
  def folder(self) -> epath.Path:
    return epath.Path(self.where)

  def path(self, name: str, item: Any) -> epath.Path:
    """A clip's file; another item, or the same under other settings, is another file."""
    bound = (self.process.args, self.process.keywords) if isinstance(self.process, functools.partial) else ()
    return self.folder / hashlib.sha256(repr((name, item, bound, self.code)).encode()).hexdigest()[:40]

  def __call__(self, task: tuple[str, str, Any]) -> str | None:
    """Makes one clip of (split, name, item); returns why it was skipped, or None."""
    _, name, item = task
    path = self.path(name, item)
    if path.exists():
      return None
    try:
      record = self.process(item)
    except Skip as skip:
      return str(skip)
    except UserError as error:  # a sentence for users, from the rooms below
      return ' '.join(str(error).split())
    except Exception as error:
      return f'unexpected: {type(error).__name__}: {" ".join(str(error).split())[:200]}'
    if record.id != name:
      return f'unexpected: the record of {name!r} calls itself {record.id!r}'
    features = records.features()
    data = features.serialize_example(records.to_example(record))
    temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    temporary.write_bytes(data)
    temporary.replace(path)
    return None


def _make_all(title: str, job: _Job, splits) -> dict[tuple[str, str], str]:
  """Makes every record that is not there yet; returns (split, name) -> reason of the skipped."""
  tasks = [(split, name, item) for split, items in splits.items() for name, item in items.items()]
  todo = [task for task in tasks if not job.path(*task[1:]).exists()]
  skipped = {}
  with tqdm.tqdm(total=len(tasks), initial=len(tasks) - len(todo), desc=title, unit='clip', smoothing=0.05) as bar:
    kept = len(tasks) - len(todo)
    for task, reason, error in in_workers(job, todo, _import_folder(job.process)):
      why = error or reason
      if why is None:
        kept += 1
      else:
        skipped[task[:2]] = why
      bar.set_postfix(kept=kept, skipped=len(skipped), refresh=False)
      bar.update()
  return skipped


def _read(job: _Job, items):
  features = records.features()
  for name, item in items:
    example = features.deserialize_example_np(job.path(name, item).read_bytes())
    yield name, records.to_example(records.from_example(example))


def _import_folder(process) -> str | None:
  """The folder that workers must import from: TFDS takes a builder's module from a path that it then forgets."""
  module = sys.modules.get(_function(process).__module__)
  if module is None or module.__name__ == '__main__' or not getattr(module, '__file__', None):
    return None
  return str(pathlib.Path(module.__file__).resolve().parents[module.__name__.count('.')])


def _code_of(process) -> str:
  """A digest of the source in the builder's folder."""
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
  # Beam's workers have talkjax installed, but no folder of builders: the builder's code travels with the pipeline.
  cloudpickle.register_pickle_by_value(sys.modules[_function(job.process).__module__.split('.')[0]])
  tasks = [cloudpickle.dumps((split, name, item)) for name, item in items.items()]
  return beam.Create(tasks, reshuffle=True) | beam.FlatMap(functools.partial(_beam_clip, job))


def _beam_clip(job: _Job, task: bytes):
  split, name, item = task = pickle.loads(task)
  reason = job(task)
  if reason is None:
    yield from _read(job, [(name, item)])
  else:  # the pipeline may run anywhere: reasons come home as files
    job.path(name, item).with_suffix('.skipped').write_text(json.dumps([split, name, reason]))


def _collect_from_beam(report: Report, folder: epath.Path):
  for split, name, reason in sorted(json.loads(note.read_text()) for note in folder.glob('*.skipped')):
    report.skipped[split].append((name, reason))
    report.kept[split].remove(name)

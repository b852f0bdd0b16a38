"""The feature cache: precomputed outputs of frozen encoders, read by training.

`talkjax.build` writes it, and training itself where the states of a speech encoder or the coefficients of a face model
are missing. A cache is a folder in that of the corpus. It holds features of one or several kinds: `latents` (an
autoencoder's moments, one row per frame), `speech` (the states of a speech encoder, 50 per second), and `coefficients`
(of a morphable model, one row per frame, `talkjax.corpora.coefficients`). KIND.json describes the corpus, the encoder's
weights, and the clips of each split with their numbers of rows, in the corpus' order. The float16 rows are in
KIND-SPLIT-NUMBER.f16, CLIPS clips per file, which training maps into memory to read only the frames it needs; each
process compares the rows of a clip with their digest before it first uses them. Caches of earlier versions have no
digests. Where there are latents, records-SPLIT-NUMBER.array_record has the records of the same clips without frames,
which training reads instead of the corpus: most bytes of a record are its frames. KIND.json is written last; until then
KIND.json.partial lists the complete files.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm
from array_record.python import array_record_module

from talkjax.corpora import records
from talkjax.corpora.records import Record
from talkjax.errors import UserError

KINDS = ('latents', 'speech', 'coefficients', 'motion')
# By kind, the config key of the encoder that a run starts with; that of coefficients is in the cache itself.
ENCODER_KEYS = {'latents': 'pretrained.sd_vae', 'speech': 'audio.weights', 'motion': 'init_from'}
_compared: set[tuple[pathlib.Path, int, int]] = set()  # rows that this process has compared with their digest
_AGAIN = 'remove the folder {}, and encode the corpus again'
CLIPS = 64  # per file; an interrupted run loses at most one file


def fingerprint(params: Mapping[str, np.ndarray]) -> str:
  """A digest of the names, shapes and values of parameters by path."""
  digest = hashlib.sha256()
  for path, value in sorted(params.items()):
    digest.update(f'{path} {value.shape}'.encode())
    digest.update(np.ascontiguousarray(value, np.float32))
  return digest.hexdigest()[:16]


def write(
  folder: pathlib.Path,
  kind: str,
  about: Mapping[str, Any],
  splits: Mapping[str, Sequence[Record]],
  encode: Callable[[Record], Iterable[np.ndarray]],
  workers: int = 0,
) -> bool:
  """Encodes every record, resuming after an interruption. Returns whether there was anything to do.

  Args:
    folder: of the cache.
    kind: one of KINDS.
    about: the description stored in the JSON. To resume, all of it but `workdir` must be unchanged. `shape` is that of
      a row, `branch` that of the encoder in the parameters of a system.
    splits: the corpus' records.
    encode: record -> its rows, in chunks [n, *shape] float16.
    workers: processes that encode; 0 for this one. With any, `encode` is picklable and returns a list.

  Raises:
    UserError: the folder already has that kind with another description, it cannot be written, or a feature is not a
      finite float16.
  """
  with locked(folder):
    return _write_all(folder, kind, about, splits, lambda clips: _encoded(encode, clips, workers))


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
  """Makes the folder of a cache and locks it: a second run that needs the same features waits for them.

  Raises:
    UserError: the folder cannot be written.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / 'lock').open('w')
  except OSError as error:
    raise UserError(f'cannot write the feature cache {folder} ({error.strerror}): make the folder writable') from error
  with lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield


@contextlib.contextmanager
def _new_file(path: pathlib.Path) -> Iterator[Any]:
  """A file for writing, which is removed after an error."""
  try:
    with path.open('wb') as file:
      yield file
  except BaseException:
    path.unlink(missing_ok=True)
    raise


def _encoded(encode, clips: Iterable[Record], workers: int) -> Iterator[tuple[Record, Iterable[np.ndarray]]]:
  """Each record with its rows, in order."""
  if not workers:
    yield from ((record, encode(record)) for record in clips)
    return
  from talkjax.corpora import pool

  for record, rows, error in pool.ordered_map(encode, clips, workers, records.without_frames):
    if error:
      raise UserError(f'clip {record.id} could not be encoded: {error}')
    yield record, rows


def _write_all(folder, kind, about, splits, encode) -> bool:
  done, partial = folder / f'{kind}.json', folder / f'{kind}.json.partial'
  matches = lambda other: all(other.get(k) == v for k, v in about.items() if k != 'workdir')
  if done.exists():
    if differs := [k for k in about if k != 'workdir' and _read(done).get(k) != about[k]]:
      was = ', '.join(f'{k} {_read(done).get(k)} instead of {about[k]}' for k in differs)
      remedy = 'choose another folder with --feature_cache=NAME'
      if kind == 'coefficients':
        remedy = f'remove {folder} to replace it'
      raise UserError(f'{done} was made with other settings ({was}): {remedy}')
    return False
  index = _read(partial) if partial.exists() else {}
  if not index or not matches(index) or any('digests' not in s for s in index['splits'].values()):
    index = {**about, 'clips_a_file': CLIPS, 'splits': {split: _empty() for split in splits}}
  count = sum(map(len, splits.values()))
  started = {split: len(written['clips']) for split, written in index['splits'].items()}
  encoded = encode(clips[i] for split, clips in splits.items() for i in range(started[split], len(clips)))
  with (
    contextlib.closing(encoded),
    tqdm.tqdm(
      total=count, initial=sum(len(s['clips']) for s in index['splits'].values()), desc=kind, unit='clip'
    ) as bar,
  ):
    for split, clips in splits.items():
      written, clips_per_file = index['splits'][split], index['clips_a_file']
      for first in range(len(written['clips']), len(clips), clips_per_file):
        slim = []
        with _new_file(_file(folder, kind, split, first // clips_per_file)) as file:
          for _ in range(first, min(first + clips_per_file, len(clips))):
            (record, chunks), rows, digest = next(encoded), 0, hashlib.sha256()
            for chunk in chunks:
              if not np.isfinite(chunk).all():
                raise UserError(f'clip {record.id}: its {kind} are too large for float16, or not numbers')
              data = np.ascontiguousarray(chunk, '<f2')
              file.write(data)
              digest.update(data)
              rows += len(chunk)
            written['clips'].append(record.id)
            written['rows'].append(rows)
            written['digests'].append(digest.hexdigest()[:16])
            slim.append(records.without_frames(record))
            bar.update()
          file.flush()
          os.fsync(file.fileno())
        if kind == 'latents':
          _write_records(_records_file(folder, split, first // clips_per_file), slim)
        _write(partial, index)
  partial.replace(done)
  return True


@dataclasses.dataclass(frozen=True)
class FeatureCache:
  """Adds the cached features to records of one split: `cache(record)`.

  Attributes:
    name: its name in the config.
    folder: its folder.
    about: the description in the JSON, by kind.
    locations: (file, first row, number of rows, digest or '') of each clip, by kind and clip.
    record_files: array_records of the split's records without frames; none without latents, and in caches of earlier
      versions.
    key: of `config.data` that has the name.
  """

  name: str
  folder: pathlib.Path
  about: Mapping[str, Mapping[str, Any]]
  locations: Mapping[str, Mapping[str, tuple[pathlib.Path, int, int, str]]]
  record_files: tuple[str, ...] = ()
  key: str = 'feature_cache'

  @property
  def corpus(self) -> str:
    """The full name of its corpus."""
    return next(iter(self.about.values()))['corpus']

  @property
  def unusable(self) -> frozenset[int]:
    """Numbers of the clips of the split without coefficients, in which no face was found: training leaves them out."""
    found = self.locations.get('coefficients', {}).values()
    return frozenset(i for i, (_, _, rows, _) in enumerate(found) if not rows)

  def __call__(self, record: Record) -> Record:
    return dataclasses.replace(
      record, features={**record.features, **{kind: self._rows(kind, record.id) for kind in self.about}}
    )

  def _rows(self, kind: str, clip: str) -> np.ndarray:
    shape = tuple(self.about[kind]['shape'])
    if clip not in self.locations[kind]:
      raise UserError(f'{self.folder}/{kind}.json has no clip {clip}: remove it and encode the corpus again')
    path, first, rows, digest = self.locations[kind][clip]
    if not rows:
      return np.zeros((0, *shape), np.float16)
    damaged = f'{path} is damaged: {_AGAIN.format(self.folder)}'
    try:
      # Mapped on each access, because a memory map cannot be sent to other processes.
      values = np.memmap(path, '<f2', 'r', 2 * first * int(np.prod(shape)), (rows, *shape))
      version = path.stat().st_mtime_ns
    except (OSError, ValueError, TypeError) as error:
      raise UserError(f'{damaged} ({error})') from error
    if digest and (path, first, version) not in _compared:
      if hashlib.sha256(values).hexdigest()[:16] != digest:
        raise UserError(f'{damaged} (the {kind} of clip {clip} have changed since they were written)')
      _compared.add((path, first, version))
    return values

  def check_weights(self, params: Mapping[str, np.ndarray], branches: Sequence[str]) -> None:
    """Raises UserError unless a run starts with the encoders that computed this cache.

    Args:
      params: the parameters that the run loads, by path.
      branches: all branches of its parameters.
    """
    for kind, about in self.about.items():
      branch = about['branch']
      loaded = {path.removeprefix(f'{branch}/'): x for path, x in params.items() if path.startswith(f'{branch}/')}
      if branch in branches and (not loaded or fingerprint(loaded) != about['weights']):
        remedy = 'start from a stage that was trained on this corpus, or compute its coefficients with that model again'
        if kind in ENCODER_KEYS:
          remedy = (
            f'set --config.{ENCODER_KEYS[kind]}={about["workdir"]}, or encode the corpus with the one of this run'
          )
        raise UserError(
          f'{kind} of config.data.{self.key}={self.name} were made with the {branch} of {about["workdir"]}, but '
          f'this run {"starts with another" if loaded else "has none to start with"}: {remedy}'
        )


def open_cache(builder, name: str, split: str, key: str = 'feature_cache') -> FeatureCache:
  """The feature cache of a split of a corpus.

  Args:
    builder: the TFDS builder of the corpus.
    name: of the cache's folder in that of the corpus, or its path.
    split: name of the split.
    key: of `config.data` that has the name; that of coefficients is `coefficients`.

  Raises:
    UserError: there is no such cache, it is incomplete, or it is of another corpus.
  """
  folder, what = pathlib.Path(builder.data_dir) / name, f'config.data.{key}={name}'
  kinds = [kind for kind in KINDS if (folder / f'{kind}.json').exists()]
  sources = ':NETWORK_WORKDIR,BFM_WORKDIR' if name == 'deep3d' else ''
  options = f'--coefficients={name}{sources}' if key == 'coefficients' else f'--latents=WORKDIR --feature_cache={name}'
  command = f'`python -m talkjax.build data/{builder.name} {options}`'
  if not kinds and list(folder.glob('*.json.partial')):
    raise UserError(f'{what}: {folder} is incomplete; run the command that makes it again: {command}')
  if not kinds:
    expected = 'coefficients.json' if key == 'coefficients' else 'latents.json or speech.json'
    raise UserError(f'{what}: no {expected} in {folder}; make it with {command}')
  about, locations = {}, {}
  for kind in kinds:
    about[kind] = _described(folder / f'{kind}.json')
    if about[kind]['corpus'] != builder.info.full_name:
      raise UserError(f'{what} has {kind} of {about[kind]["corpus"]}, but the corpus is {builder.info.full_name}')
    written = about[kind].pop('splits').get(split, _empty())
    digests = written.get('digests') or [''] * len(written['clips'])
    count = builder.info.splits[split].num_examples
    if len(written['clips']) != count:
      raise UserError(
        f'{what} has {kind} of {len(written["clips"])} clips of split {split!r}, but the corpus has {count}: remove '
        f'{folder}/{kind}.json and encode the corpus again'
      )
    locations[kind], clips_per_file = {}, about[kind]['clips_a_file']
    for first in range(0, count, clips_per_file):
      clips, rows, checks = (
        each[first : first + clips_per_file] for each in (written['clips'], written['rows'], digests)
      )
      starts = itertools.accumulate(rows, initial=0)
      file = _file(folder, kind, split, first // clips_per_file)
      locations[kind] |= {clip: (file, start, n, check) for clip, start, n, check in zip(clips, starts, rows, checks)}
  files = []
  if 'latents' in about:
    files = [_records_file(folder, split, n) for n in range(-(-count // about['latents']['clips_a_file']))]
  complete = all(file.exists() for file in files)
  return FeatureCache(name, folder, about, locations, tuple(map(str, files)) if complete else (), key)


def _described(path: pathlib.Path) -> dict[str, Any]:
  """The description of a kind. Raises UserError unless it has what it should."""
  about = _read(path)
  counted = lambda s: isinstance(s, dict) and all(isinstance(s.get(k), list) for k in ('clips', 'rows'))
  whole = {
    'corpus': isinstance(about.get('corpus'), str),
    'branch': isinstance(about.get('branch'), str),
    'weights': isinstance(about.get('weights'), str),
    'shape': isinstance(about.get('shape'), list) and all(isinstance(n, int) and n > 0 for n in about['shape']),
    'clips_a_file': isinstance(about.get('clips_a_file'), int) and about['clips_a_file'] > 0,
    'splits': isinstance(about.get('splits'), dict) and all(map(counted, about['splits'].values())),
  }
  if wrong := [key for key, is_whole in whole.items() if not is_whole]:
    raise UserError(f'{path} is damaged ({", ".join(wrong)}): {_AGAIN.format(path.parent)}')
  return about


def _file(folder: pathlib.Path, kind: str, split: str, number: int) -> pathlib.Path:
  return folder / f'{kind}-{split}-{number:05}.f16'


def _records_file(folder: pathlib.Path, split: str, number: int) -> pathlib.Path:
  return folder / f'records-{split}-{number:05}.array_record'


def _write_records(path: pathlib.Path, slim: Sequence[Record]) -> None:
  features, writer = records.features(), array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
  for record in slim:
    writer.write(features.serialize_example(records.to_example(record)))
  writer.close()
  with path.open('rb') as file:
    os.fsync(file.fileno())


def _empty() -> dict[str, list]:
  return {'clips': [], 'rows': [], 'digests': []}


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    values = json.loads(path.read_text())
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f'{path} is damaged ({error}): {_AGAIN.format(path.parent)}') from error
  if not isinstance(values, dict):
    raise UserError(f'{path} is damaged (it is no JSON object): {_AGAIN.format(path.parent)}')
  return values


def _write(path: pathlib.Path, values: Mapping[str, Any]) -> None:
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_text(json.dumps(values) + '\n')
  temporary.replace(path)

"""The input pipeline: array_record shards -> records -> training examples -> sharded batches, resumable at any example.

`config.data.corpus` names one corpus, or several with weights: 'hdtf:2,vfhq:1' takes two examples of the first for one
of the second.

Order and iterator state depend on the batch size, the number of workers and the number of processes, so all three are
fixed for a run and checked when it is resumed (see `talkjax.training.checkpoint`).
"""

import contextlib
import functools
import math
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import cv2
import grain
import jax
import numpy as np
import tensorflow_datasets as tfds

from talkjax.corpora import records
from talkjax.corpora.feature_cache import FeatureCache
from talkjax.errors import UserError

EPOCHS = 2**32  # practically infinite; grain's own infinite repeat overflows with batches of one clip


def corpus_weights(text: str) -> dict[str, float]:
  """Reads `config.data.corpus`: 'hdtf:2,vfhq' is {'hdtf': 2.0, 'vfhq': 1.0}. A name may have a config: 'grid/s1'.

  Raises:
    UserError: a part is not a name, a corpus is named twice, or a weight is not a positive number.
  """
  weights, where = {}, f'config.data.corpus={text!r}'
  for part in text.split(','):
    name, colon, weight = part.strip().partition(':')
    if not re.fullmatch(r'[\w.-]+(/[\w.-]+)*', name):
      raise UserError(
        f'{where}: {name!r} is not the name of a corpus: expected names with optional weights, as in hdtf:2,vfhq:1'
      )
    if name in weights:
      raise UserError(f'{where}: {name!r} is named twice: give it one weight')
    try:
      weights[name] = float(weight) if colon else 1.0
    except ValueError:
      weights[name] = math.nan
    if not 0 < weights[name] < math.inf:
      raise UserError(f'{where}: the weight of {name!r} is {weight!r}: expected a number greater than 0')
  return weights


def first_corpus(data) -> str:
  """The corpus that evaluation and previews read: the first that `data.corpus` names."""
  return next(iter(corpus_weights(data.corpus)))


def locate(data, workdir) -> None:
  """Finds the folder `data.dir` of built corpora of a workdir, whatever the current folder is, and sets it.

  A relative one is looked for in the current folder, and then beside the workdir: in each folder that it lies in.

  Raises:
    UserError: the corpus is in none of them.
  """
  folder, corpus = pathlib.Path(data.dir).expanduser(), first_corpus(data)
  if folder.is_absolute() or (folder / corpus).is_dir():
    return
  found = next((p / folder for p in pathlib.Path(workdir).resolve().parents if (p / folder / corpus).is_dir()), None)
  if found is None:
    raise UserError(
      f'no corpus {corpus!r} under {data.dir!r}, neither in the current folder nor beside {workdir}: run the '
      f'command in the folder that has {data.dir}'
    )
  data.dir = str(found)


def open_corpus(data, split: str, caches: Sequence[FeatureCache] = (), name: str | None = None):
  """A random-access source of the records of one corpus.

  Args:
    data: the config's `data`: `dir` (the folder of built corpora) and `corpus`.
    split: a split of the corpus; TFDS slices ('train[:10]') are supported.
    caches: what adds cached features to the records; those of other corpora are ignored.
    name: of a corpus in `data.corpus`; None: the first.

  Returns:
    A grain MapDataset of `records.Record`, without frames where a cache has latents instead, and without the clips that
    a cache cannot serve (`FeatureCache.unusable`).

  Raises:
    UserError: the corpus is not built in `dir`, or has no such split.
  """
  name = name or first_corpus(data)
  builder = open_builder(data, split, name)
  caches = [cache for cache in caches if cache.corpus == builder.info.full_name]
  try:
    (part,) = tfds.core.ReadInstruction.from_spec(split).to_absolute(builder.info.splits)
  except Exception as error:  # TFDS asserts, among others
    raise UserError(
      f'split {split!r} of corpus {name!r}: {error or "not a slice"}: expected as in test[:10]'
    ) from error
  with refuse_damage(builder):
    if files := next((cache.record_files for cache in caches if cache.record_files), None):
      source = grain.MapDataset.source(_Checked(grain.sources.ArrayRecordDataSource(files), builder))
      source = source[part.from_ : part.to].map(functools.partial(_deserialize, builder=builder))
    else:
      source = grain.MapDataset.source(_Checked(builder.as_data_source(split=split), builder))
  if lacking := set().union(*(cache.unusable for cache in caches)):
    source = grain.MapDataset.source(_Chosen(source, part.from_ or 0, lacking))
  if not len(source):
    raise UserError(f'split {split!r} of corpus {name!r} is empty: choose another split')
  dataset = source.map(records.from_example)
  for cache in caches:
    dataset = dataset.map(cache)
  return dataset


@contextlib.contextmanager
def refuse_damage(builder, what: str = '') -> Iterator[None]:
  """Raises UserError for a corpus whose files cannot be read in the block; `what` is read."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # array_record, its index, protobuf and TFDS each fail in their own ways
    raise _damaged(builder.data_path, what, error) from error


def _damaged(folder, what: str, error: Exception) -> UserError:
  said = ' '.join(str(error).split())[:160]
  return UserError(
    f'the corpus in {folder} is damaged{what} ({type(error).__name__}: {said}): restore it from a copy, or build it '
    'again with --overwrite'
  )


class _Checked:
  """A source for grain whose errors are those of a damaged corpus."""

  def __init__(self, source, builder):
    self._source, self._builder = source, builder

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int):
    with refuse_damage(self._builder, f' at record {index} of {self._builder.info.full_name}'):
      return self._source[index]


def _deserialize(data: bytes, *, builder):
  with refuse_damage(builder):
    return builder.info.features.deserialize_example_np(data)


class _Chosen:
  """A source for grain without the elements of which `lacking` has the number; that of the first is `first`."""

  def __init__(self, source, first: int, lacking: set[int]):
    self._source = source
    self._kept = [i for i in range(len(source)) if i + first not in lacking]

  def __len__(self) -> int:
    return len(self._kept)

  def __getitem__(self, index: int):
    return self._source[self._kept[index]]


def all_splits(builder) -> dict[str, grain.MapDataset]:
  """The records of every split of a corpus that has any."""
  return {
    name: grain.MapDataset.source(builder.as_data_source(split=name)).map(records.from_example)
    for name, info in builder.info.splits.items()
    if info.num_examples
  }


def open_builder(data, split: str, corpus: str):
  """The TFDS builder of a corpus; arguments and errors as `open_corpus`."""
  builder, name = _find_builder(data, corpus), split.partition('[')[0]
  if name not in builder.info.splits or not builder.info.splits[name].num_examples:
    raise UserError(f'corpus {corpus!r} has no split {name!r}: it has {", ".join(builder.info.splits)}')
  return builder


def _find_builder(data, corpus: str):
  root = pathlib.Path(data.dir).expanduser() / corpus
  found = {p.parent.parent: p.parent for p in sorted(root.glob('**/dataset_info.json'))}  # the newest version of each
  if not found:
    folder, _, own = corpus.partition('/')
    how = f'data/{folder}{f" --config={own}" if own and "/" not in own else ""} --data_dir={data.dir}'
    raise UserError(
      f'no corpus {corpus!r} under {data.dir!r}: build it with `python -m talkjax.build {how}`, or set '
      '--config.data.dir to the folder it is in'
    )
  if len(found) > 1:
    names = ', '.join(f'{corpus}/{p.relative_to(root)}' for p in sorted(found))
    raise UserError(f'corpus {corpus!r} was built in several configs: choose one with --config.data.corpus ({names})')
  folder = found.popitem()[1]
  try:
    return tfds.builder_from_directory(folder)
  except Exception as error:  # of a damaged dataset_info.json or features.json
    raise _damaged(folder, ' in its descriptions', error) from error


def first_process() -> bool:
  """Whether this process computes the features that all read."""
  return jax.process_index() == 0


def wait_for_first_process(what: str) -> None:
  """Waits until the first process has come here too."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(what)


def training_iterator(data, read: Callable, batch_size: int, seed: int, caches: Sequence[FeatureCache] = ()):
  """An infinite grain iterator over shuffled batches of this process.

  Each corpus is shuffled in epochs of its own; several are interleaved in a fixed pattern that follows their weights.

  Args:
    data: the config's `data`: the fields of `open_corpus`, `split`, `workers` (processes; 0 reads in threads) and
      `examples_per_record`.
    read: `(record, generator) -> example`, a dict of numpy arrays with `examples_per_record` examples along axis 0.
    batch_size: global batch size over all processes.
    seed: of the order and of `generator`.
    caches: what adds cached features to the records.

  Returns:
    An iterator of dicts of numpy arrays [batch_size / processes, ...] that Orbax can save.

  Raises:
    UserError: batch_size is not a multiple of processes times examples per record, a corpus has fewer clips than there
      are processes, or corpora do not go together: their frames have different sizes, or their examples different
      fields.
  """
  processes, per_record = jax.process_count(), data.examples_per_record
  if batch_size % (processes * per_record):
    raise UserError(
      f'batch_size={batch_size} must be a multiple of processes x data.examples_per_record = {processes} x {per_record}'
    )
  cv2.setNumThreads(1)  # frames are small and reading is already parallel
  records_per_batch = batch_size // per_record // processes
  weights = corpus_weights(data.corpus)
  datasets = {name: open_corpus(data, data.split, caches, name) for name in weights}
  for name, dataset in datasets.items():
    if len(dataset) < processes:
      raise UserError(f'split {data.split!r} of {name!r} has {len(dataset)} clips, fewer than {processes} processes')
  if len(datasets) > 1:
    _check_alike({name: dataset[0] for name, dataset in datasets.items()}, read)
  shuffled = [d.seed(seed).shuffle()[jax.process_index() :: processes].repeat(EPOCHS) for d in datasets.values()]
  dataset = shuffled[0] if len(shuffled) == 1 else grain.MapDataset.mix(shuffled, list(weights.values()))
  # Each process draws its own randomness, each example its own generator.
  dataset = dataset.seed(seed + 1 + jax.process_index()).random_map(read)
  dataset = dataset.batch(records_per_batch, batch_fn=_concatenate)
  dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.prefetch))
  if data.workers:
    dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=data.workers))
  return iter(dataset)


def _check_alike(clips: Mapping[str, records.Record], read: Callable) -> None:
  """Raises UserError unless the examples of all corpora, one record of each given, can be in one batch."""
  if len({record.size for record in clips.values()}) > 1:
    sizes = ', '.join(f'{record.size[0]} x {record.size[1]} in {name}' for name, record in clips.items())
    raise UserError(
      f'config.data.corpus mixes frames of different sizes: {sizes}: build them at one size, or name others'
    )
  examples = {name: read(record, np.random.default_rng(0)) for name, record in clips.items()}
  fields = {name: {f'{k} {list(v.shape[1:])}' for k, v in e.items() if k != 'id'} for name, e in examples.items()}
  first, *others = fields
  for other in others:
    if differing := fields[first] ^ fields[other]:
      a, b = (', '.join(sorted(fields[name] & differing)) or 'not' for name in (first, other))
      raise UserError(
        f'config.data.corpus mixes examples of different fields: those of {first} have {a}, those of {other} {b}: give '
        'both feature caches of the same kinds and sizes'
      )


def _concatenate(examples) -> dict[str, np.ndarray]:
  return {k: np.concatenate([e[k] for e in examples]) for k in examples[0]}


def to_device(batch: dict[str, np.ndarray], sharding: jax.sharding.Sharding) -> dict[str, jax.Array]:
  """Moves a host batch to the mesh, sharded along axis 0 (each process provides its own part)."""
  return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def split_names(batch: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
  """Splits a batch into the arrays for the device and the clip names (`id`), which only messages use."""
  return {k: v for k, v in batch.items() if k != 'id'}, [str(n) for n in batch.get('id', ())]


def has_split(data, split: str) -> bool:
  """Whether the first corpus has records in a split; raises UserError if there is no such corpus."""
  return split.partition('[')[0] in all_splits(_find_builder(data, first_corpus(data)))


def eval_records(data, split: str, limit: int | None = None) -> Iterator[records.Record]:
  """The records of a split of the first corpus in their stored order, at most `limit`."""
  dataset = open_corpus(data, split)
  for i in range(len(dataset) if limit is None else min(limit, len(dataset))):
    yield dataset[i]

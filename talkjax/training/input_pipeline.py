"""The input pipeline: array_record shards -> records -> training examples -> sharded batches, resumable at any example.

Order and iterator state depend on the batch size, the number of workers and the number of processes, so all three are
fixed for a run and checked when it is resumed (see `talkjax.training.checkpoint`).
"""

import pathlib
from collections.abc import Callable, Iterator, Sequence

import cv2
import grain
import jax
import numpy as np
import tensorflow_datasets as tfds

from talkjax.corpora import records
from talkjax.corpora.feature_cache import FeatureCache
from talkjax.errors import UserError

EPOCHS = 2**32  # practically infinite; grain's own infinite repeat overflows with batches of one clip


def open_corpus(data, split: str, caches: Sequence[FeatureCache] = ()):
  """A random-access source of records.

  Args:
    data: the config's `data`: `dir` (the folder of built corpora), `corpus` (a name, or name/config).
    split: a split of the corpus; TFDS slices ('train[:10]') are supported.
    caches: what adds cached features to the records.

  Returns:
    A grain MapDataset of `records.Record`, without frames where a cache has latents instead.

  Raises:
    UserError: the corpus is not built in `dir`, or has no such split.
  """
  builder = open_builder(data, split)
  (part,) = tfds.core.ReadInstruction.from_spec(split).to_absolute(builder.info.splits)
  if files := next((cache.record_files for cache in caches if cache.record_files), None):
    source = grain.MapDataset.source(grain.sources.ArrayRecordDataSource(files))
    source = source[part.from_ : part.to].map(builder.info.features.deserialize_example_np)
  else:
    source = grain.MapDataset.source(builder.as_data_source(split=split))
  if not len(source):
    raise UserError(f'split {split!r} of corpus {data.corpus!r} is empty: choose another split')
  dataset = source.map(records.from_example)
  for cache in caches:
    dataset = dataset.map(cache)
  return dataset


def all_splits(builder) -> dict[str, grain.MapDataset]:
  """The records of every split of a corpus that has any."""
  return {
    name: grain.MapDataset.source(builder.as_data_source(split=name)).map(records.from_example)
    for name, info in builder.info.splits.items()
    if info.num_examples
  }


def open_builder(data, split: str):
  """The TFDS builder of the corpus; arguments and errors as `open_corpus`."""
  root = pathlib.Path(data.dir).expanduser() / data.corpus
  found = {p.parent.parent: p.parent for p in sorted(root.glob('**/dataset_info.json'))}  # the newest version of each
  if not found:
    folder = data.corpus.split('/')[0]
    raise UserError(
      f'no corpus {data.corpus!r} under {data.dir!r}: build it with `python -m talkjax.build data/{folder} '
      f'--data_dir={data.dir}`, or set --config.data.dir to the folder it is in'
    )
  if len(found) > 1:
    names = ', '.join(f'{data.corpus}/{p.relative_to(root)}' for p in sorted(found))
    raise UserError(
      f'corpus {data.corpus!r} was built in several configs: choose one with --config.data.corpus ({names})'
    )
  builder = tfds.builder_from_directory(found.popitem()[1])
  name = split.partition('[')[0]
  if name not in builder.info.splits or not builder.info.splits[name].num_examples:
    raise UserError(f'corpus {data.corpus!r} has no split {name!r}: it has {", ".join(builder.info.splits)}')
  return builder


def training_iterator(data, read: Callable, batch_size: int, seed: int, caches: Sequence[FeatureCache] = ()):
  """An infinite grain iterator over shuffled batches of this process.

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
    UserError: batch_size is not a multiple of processes times examples per record, or there are fewer clips than
      processes.
  """
  processes, per_record = jax.process_count(), data.examples_per_record
  if batch_size % (processes * per_record):
    raise UserError(
      f'batch_size={batch_size} must be a multiple of processes x data.examples_per_record = {processes} x {per_record}'
    )
  cv2.setNumThreads(1)  # frames are small and reading is already parallel
  dataset = open_corpus(data, data.split, caches)
  records_per_batch = batch_size // per_record // processes
  if len(dataset) < processes:
    raise UserError(
      f'split {data.split!r} of {data.corpus!r} has {len(dataset)} clips, fewer than {processes} processes'
    )
  dataset = dataset.seed(seed).shuffle()[jax.process_index() :: processes].repeat(EPOCHS)
  # Each process draws its own randomness, each example its own generator.
  dataset = dataset.seed(seed + 1 + jax.process_index()).random_map(read)
  dataset = dataset.batch(records_per_batch, batch_fn=_concatenate)
  dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.prefetch))
  if data.workers:
    dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=data.workers))
  return iter(dataset)


def _concatenate(examples) -> dict[str, np.ndarray]:
  return {k: np.concatenate([e[k] for e in examples]) for k in examples[0]}


def to_device(batch: dict[str, np.ndarray], sharding: jax.sharding.Sharding) -> dict[str, jax.Array]:
  """Moves a host batch to the mesh, sharded along axis 0 (each process provides its own part)."""
  return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def split_names(batch: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
  """Splits a batch into the arrays for the device and the clip names (`id`), which only messages use."""
  return {k: v for k, v in batch.items() if k != 'id'}, [str(n) for n in batch.get('id', ())]


def eval_records(data, split: str, limit: int | None = None) -> Iterator[records.Record]:
  """The records of a split in their stored order, at most `limit`."""
  dataset = open_corpus(data, split)
  for i in range(len(dataset) if limit is None else min(limit, len(dataset))):
    yield dataset[i]

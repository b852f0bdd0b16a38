import ctypes
import functools
import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from talkjax.corpora import building, pool, records
from talkjax.errors import UserError


def toy_record(item, shade=0):
  """Item (name, what to do) -> a record of three 8 x 8 frames; or a failure of the kind asked for."""
  name, what = item
  if what == 'skip':
    raise building.Skip('no sound')
  if what == 'user':
    raise UserError('the file is\nnot a video')
  if what == 'bug':
    raise ZeroDivisionError('by zero')
  if what == 'die':
    os.kill(os.getpid(), signal.SIGKILL)
  if what == 'crash':
    os.write(2, b'terrible things\n')
    os._exit(3)
  if what == 'hang':  # in C, with Python's lock, deaf to SIGTERM
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.PyDLL(None).sleep(600)
  if what == 'liar':
    name = 'somebody else'
  frame = records.encode_picture(np.full((8, 8, 3), shade + len(name), np.uint8))
  return records.Record(
    id=name, speaker='toy', gender='female', caption='', transcript='', fps=25.0, frames=(frame,) * 3, size=(8, 8),
    audio=np.arange(1920, dtype=np.int16), box=np.zeros((3, 4), np.float32),
    landmarks=np.zeros((3, 68, 2), np.float32), pose=np.zeros((3, 3), np.float32),
  )  # fmt: skip


class Toy(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')
  pkg_dir_path = epath.Path(__file__).parent  # TFDS looks for the descriptions of a package here
  splits = {}
  process = staticmethod(toy_record)

  def _info(self):
    return self.dataset_info_from_configs(features=records.features())

  def _split_generators(self, dl_manager):
    return building.generate(self, self.splits, self.process)

  def _generate_examples(self):
    raise NotImplementedError


def items(**what):
  return {name: (name, do) for name, do in what.items()}


def build(tmp_path, splits, process=toy_record, **options):
  builder = Toy(data_dir=tmp_path, file_format='array_record')
  builder.splits, builder.process = splits, process
  with building.options(**{'workers': 0, **options}):
    builder.download_and_prepare()
    return builder, building.finish(builder)


def read(builder, split):
  return [records.from_example(e) for e in builder.as_data_source(split)]


def test_every_kind_of_bad_clip_is_skipped_with_its_reason_and_the_others_go_on(tmp_path):
  whats = dict(a='fine', b='skip', c='user', d='bug', e='die', f='crash', g='liar', h='fine', i='skip')
  builder, report = build(tmp_path, {'train': items(**whats), 'test': items(z='fine')}, workers=2)
  assert sorted(r.id for r in read(builder, 'train')) == ['a', 'h']
  assert [r.id for r in read(builder, 'test')] == ['z']
  why = dict(report.skipped['train'])
  assert sorted(why) == ['b', 'c', 'd', 'e', 'f', 'g', 'i']
  assert why['b'] == 'no sound'
  assert why['c'] == 'the file is not a video'
  assert why['d'] == 'unexpected: ZeroDivisionError: by zero'
  assert 'signal 9' in why['e']
  assert 'exit code 3' in why['f'] and 'terrible things' in why['f']
  assert 'somebody else' in why['g']

  table = str(report).splitlines()
  assert table[0].split() == ['split', 'clips', 'kept', 'skipped', 'why']
  assert table[1].split()[:5] == ['train', '9', '2', '7', '2'] and table[1].endswith('2 x no sound')
  assert table[-1].split() == ['test', '1', '1', '0']
  saved = json.loads((tmp_path / 'toy/1.0.0' / building.REPORT).read_text())
  assert saved['splits']['train']['kept_clips'] == ['a', 'h']
  assert saved['splits']['train']['reasons']['no sound'] == 2
  assert saved['splits']['train']['skipped_clips']['d'] == why['d']


def test_an_interrupted_build_makes_nothing_twice_and_tries_the_skipped_again(tmp_path):
  log = tmp_path / 'log'
  flaky = functools.partial(logged_record, str(log))
  splits = {'train': items(a='fine', b='fine', c='later', d='fine')}
  builder = Toy(data_dir=tmp_path / 'data', file_format='array_record')
  builder.splits, builder.process = splits, functools.partial(stopping_record, flaky)
  with pytest.raises(KeyboardInterrupt), building.options(workers=0):
    builder.download_and_prepare()
  assert not builder.is_prepared()
  assert log.read_text().split() == ['a', 'b']

  done = {p.name for p in building.partial_folder(builder).iterdir()}
  assert len(done) == 2 and not any(name.endswith('.tmp') for name in done)
  (tmp_path / 'data/toy/incomplete.KILLED_1.0.0').mkdir()  # as TFDS leaves it when it has no time to clean up
  # The same work under the same name; only the stop is gone.
  builder.process = functools.partial(stopping_record, flaky)
  with building.options(workers=0):
    os.environ['TOY_GO_ON'] = '1'
    try:
      builder.download_and_prepare()
    finally:
      del os.environ['TOY_GO_ON']
    building.finish(builder)
  assert log.read_text().split() == ['a', 'b', 'c', 'd']
  assert sorted(r.id for r in read(builder, 'train')) == ['a', 'b', 'c', 'd']
  assert [p.name for p in (tmp_path / 'data/toy').iterdir()] == ['1.0.0']


@pytest.mark.parametrize('damaged', [b'', b'\xff' * 100])
def test_a_damaged_record_of_an_interrupted_build_is_named_and_made_again(damaged, tmp_path, monkeypatch):
  def again():
    builder = Toy(data_dir=tmp_path / 'data', file_format='array_record')
    builder.splits = {'train': items(a='fine', b='later')}
    builder.process = functools.partial(stopping_record, toy_record)
    with building.options(workers=0):
      builder.download_and_prepare()
      building.finish(builder)
    return sorted(record.id for record in read(builder, 'train'))

  with pytest.raises(KeyboardInterrupt):
    again()
  (record,) = (tmp_path / 'data').rglob('.*.partial/*')
  record.write_bytes(damaged)
  monkeypatch.setenv('TOY_GO_ON', '1')
  with pytest.raises(UserError, match='the record of clip a that an earlier build left .* the same command makes it'):
    again()
  assert again() == ['a', 'b']


def logged_record(log, item):
  with open(log, 'a') as file:
    file.write(item[0] + '\n')
  return toy_record(item)


def stopping_record(process, item):
  if item[1] == 'later' and 'TOY_GO_ON' not in os.environ:
    raise KeyboardInterrupt
  return process(item)


def test_records_do_not_depend_on_the_number_of_workers(tmp_path):
  splits = {'train': items(**{f'clip{i}': 'fine' for i in range(7)})}
  here, _ = build(tmp_path / '0', splits, workers=0)
  there, _ = build(tmp_path / '3', splits, workers=3)
  files = [sorted(p.name for p in (tmp_path / n / 'toy/1.0.0').iterdir()) for n in '03']
  assert files[0] == files[1]
  shard = next(name for name in files[0] if 'train' in name)
  assert (tmp_path / '0/toy/1.0.0' / shard).read_bytes() == (tmp_path / '3/toy/1.0.0' / shard).read_bytes()
  assert [r.id for r in read(here, 'train')] == [r.id for r in read(there, 'train')]


def test_other_settings_are_other_records(tmp_path):
  job = building._Job(toy_record, str(tmp_path))
  darker = building._Job(functools.partial(toy_record, shade=9), str(tmp_path))
  assert job.path('a', ('a', 'fine')) != job.path('a', ('a', 'other'))
  assert job.path('a', ('a', 'fine')) != darker.path('a', ('a', 'fine'))


def test_nothing_kept_is_an_error_that_says_the_commonest_reason(tmp_path):
  with pytest.raises(UserError, match='none of 3 clips could be used; 2 of them: no sound'):
    build(tmp_path, {'train': items(a='skip', b='bug'), 'test': items(c='skip')})
  assert not Toy(data_dir=tmp_path).is_prepared()
  with pytest.raises(UserError, match='not one clip'):
    build(tmp_path, {'train': {}})


def test_a_split_without_clips_is_left_out_and_the_table_shows_it(tmp_path):
  builder, report = build(tmp_path, {'train': items(a='fine'), 'test': items(b='skip')})
  assert list(builder.info.splits) == ['train']
  assert str(report).splitlines()[-1].split() == ['test', '1', '0', '1', '1', 'x', 'no', 'sound']


def test_limit_takes_the_first_clips_of_each_split(tmp_path):
  _, report = build(tmp_path, {'train': items(a='fine', b='fine', c='fine'), 'test': items(d='fine')}, limit=2)
  assert report.kept == {'train': ['a', 'b'], 'test': ['d']}


def test_pool_runs_more_tasks_than_workers_and_survives_all_of_them_dying():
  results = list(pool.unordered_map(toy_record, [(str(i), 'crash') for i in range(3)], 2))
  assert sorted(task[0] for task, _, _ in results) == ['0', '1', '2']
  assert all(result is None and 'exit code 3' in error for _, result, error in results)
  assert list(pool.unordered_map(toy_record, [], 2)) == []


def test_a_clip_that_overruns_the_time_limit_is_skipped_and_its_worker_replaced(tmp_path):
  whats = dict(a='fine', b='hang', c='hang', d='fine', e='skip', f='hang', g='fine')
  start = time.monotonic()
  _, report = build(tmp_path, {'train': items(**whats)}, workers=2, clip_timeout=5)
  assert time.monotonic() - start < 60
  assert sorted(report.kept['train']) == ['a', 'd', 'g']
  late = 'took longer than --clip_timeout=5 s'
  assert dict(report.skipped['train']) == {'b': late, 'c': late, 'e': 'no sound', 'f': late}
  assert not multiprocessing.active_children()


def nap(seconds):
  time.sleep(seconds)
  return os.getpid()


def test_the_time_limit_counts_from_when_a_worker_begins_a_task():
  results = list(pool.unordered_map(nap, [0.3] * 4 + [30], 1, time_limit=1.0))  # more than 1 s in all, start included
  assert [task for task, _, _ in results] == [0.3] * 4 + [30]
  assert len({pid for _, pid, _ in results[:4]}) == 1 and all(error is None for _, _, error in results[:4])
  _, pid, error = results[4]
  assert pid is None and isinstance(error, pool.TimedOut) and error == 'took longer than 1 s'


def test_a_result_that_waits_to_be_taken_is_not_late():
  results = []
  for task, _, error in pool.unordered_map(nap, [0.1, 0.2, 0.3], 3, time_limit=2.0):
    results.append((task, error))
    time.sleep(2.5)  # whoever takes the results is slow
  assert sorted(results) == [(0.1, None), (0.2, None), (0.3, None)]


@pytest.mark.parametrize('limit', [1e300, float('inf')])
def test_any_time_limit_is_possible(limit):
  ((_, pid, error),) = pool.unordered_map(nap, [0], 1, time_limit=limit)
  assert pid and error is None

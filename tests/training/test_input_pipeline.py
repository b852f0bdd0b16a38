"""Records of one corpus or several become batches: in which proportions, in which order, and resumed anywhere."""

import collections
import dataclasses
import itertools
import shutil

import ml_collections
import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from talkjax.corpora import feature_cache, records
from talkjax.errors import UserError
from talkjax.training import input_pipeline
from talkjax.weights import encoders
from tests.example_record import full_record

# By config of the corpus: its clips, and the height and width of their frames.
CLIPS = {'a': (6, (24, 16)), 'b': (4, (24, 16)), 'wide': (3, (24, 32)), 'silent': (3, (24, 16))}


class Mixed(tfds.core.GeneratorBasedBuilder):
  """Corpora of a few clips, one a config."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in CLIPS]
  pkg_dir_path = epath.Path(__file__).parent

  def _info(self):
    return self.dataset_info_from_configs(features=records.features())

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    name = self.builder_config.name
    count, size = CLIPS[name]
    for i in range(count):
      record = full_record(2 + i, f'{name}{i}', size)
      if name == 'silent':
        record = dataclasses.replace(record, audio=np.zeros(0, np.int16))
      yield record.id, records.to_example(record)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('mixed')
  for name in CLIPS:
    Mixed(config=name, data_dir=folder, file_format='array_record').download_and_prepare()
  return folder


def data_of(folder, corpus, **changes):
  fields = {'split': 'train', 'examples_per_record': 1, 'workers': 0, 'threads': 2, 'prefetch': 2}
  return ml_collections.ConfigDict({'dir': str(folder), 'corpus': corpus, **fields, **changes})


def read(record, generator):
  if not len(record.audio):
    raise UserError(f'clip {record.id} has no sound')
  return {'draw': generator.normal(size=(1, 3)), 'id': np.array([record.id])}


def batches_of(data, seed=0, caches=(), read=read):
  return input_pipeline.training_iterator(data, read, 2, seed, caches)


def names_of(iterator, batches):
  return [str(n) for batch in itertools.islice(iterator, batches) for n in batch['id']]


def test_a_mixture_has_the_clips_of_each_corpus_in_proportion_to_its_weight(folder):
  names = names_of(batches_of(data_of(folder, 'mixed/a:2,mixed/b')), 36)
  counts = collections.Counter(name[0] for name in names)
  assert counts == {'a': 48, 'b': 24}
  of_a = [name for name in names if name[0] == 'a']
  for epoch in range(8):  # each clip once, in an order of its own
    assert sorted(of_a[6 * epoch : 6 * epoch + 6]) == [f'a{i}' for i in range(6)]
  assert of_a[:6] != of_a[6:12]
  equal = collections.Counter(name[0] for name in names_of(batches_of(data_of(folder, 'mixed/a, mixed/b')), 20))
  assert equal == {'a': 20, 'b': 20}


@pytest.mark.parametrize('corpus', ['mixed/a', 'mixed/a:3,mixed/b:1.5'])
@pytest.mark.parametrize('stop', [1, 7])
def test_a_mixture_resumes_with_the_same_examples(folder, corpus, stop):
  iterator = batches_of(data_of(folder, corpus))
  for _ in range(stop):
    next(iterator)
  state = iterator.get_state()
  expected = list(itertools.islice(iterator, 12))
  resumed = batches_of(data_of(folder, corpus))
  resumed.set_state(state)
  for batch, other in zip(expected, itertools.islice(resumed, 12), strict=True):
    np.testing.assert_array_equal(batch['id'], other['id'])
    np.testing.assert_array_equal(batch['draw'], other['draw'])


def test_one_corpus_is_read_alike_with_and_without_a_weight(folder):
  plain, weighted = (list(itertools.islice(batches_of(data_of(folder, c)), 6)) for c in ('mixed/a', 'mixed/a:3'))
  for batch, other in zip(plain, weighted, strict=True):
    np.testing.assert_array_equal(batch['draw'], other['draw'])


def test_evaluation_reads_the_first_corpus(folder):
  names = [record.id for record in input_pipeline.eval_records(data_of(folder, 'mixed/b:5,mixed/a'), 'train')]
  assert sorted(names) == ['b0', 'b1', 'b2', 'b3']


def test_each_corpus_has_a_feature_cache_of_its_own(folder):
  data = data_of(folder, 'mixed/a,mixed/b', feature_cache='cache')
  for name, value in (('mixed/a', 1), ('mixed/b', 2)):
    builder = input_pipeline.open_builder(data, 'train', name)
    about = {'corpus': builder.info.full_name, 'branch': 'wav2vec2', 'weights': '', 'workdir': '', 'shape': [1]}
    rows = lambda record, value=value: iter([np.full((len(record.frames), 1), value, np.float16)])
    cache = epath.Path(builder.data_dir) / 'cache'
    feature_cache.write(cache, 'speech', about, input_pipeline.all_splits(builder), rows)
  caches, _ = encoders.open_caches(ml_collections.ConfigDict({'data': data}), None)
  cached = lambda record, _: {'value': record.features['speech'][:1, 0], 'id': np.array([record.id])}
  for batch in itertools.islice(batches_of(data, caches=caches, read=cached), 8):
    assert [{'a': 1, 'b': 2}[str(name)[0]] for name in batch['id']] == batch['value'].tolist()
  other = data_of(folder, 'mixed/a,mixed/wide', feature_cache='cache')
  with pytest.raises(UserError, match='no latents.json or speech.json in .*wide'):
    encoders.open_caches(ml_collections.ConfigDict({'data': other}), None)


@pytest.mark.parametrize(
  ('corpus', 'sentence'),
  [
    ('mixed/a,other', "no corpus 'other' under .*: build it with"),
    ('mixed/a:0,mixed/b', "the weight of 'mixed/a' is '0': expected a number greater than 0"),
    ('mixed/a:-1,mixed/b', "the weight of 'mixed/a' is '-1'"),
    ('mixed/a,mixed/b:much', "the weight of 'mixed/b' is 'much'"),
    ('mixed/a:inf,mixed/b', "the weight of 'mixed/a' is 'inf'"),
    ('mixed/a:nan,mixed/b', "the weight of 'mixed/a' is 'nan'"),
    ('mixed/a,', "'' is not the name of a corpus: expected names with optional weights, as in hdtf:2,vfhq:1"),
    ("('mixed/a','mixed/b')", 'is not the name of a corpus'),
    ('mixed/a:2,mixed/a', "'mixed/a' is named twice: give it one weight"),
    (
      'mixed/a,mixed/wide',
      'frames of different sizes: 24 x 16 in mixed/a, 24 x 32 in mixed/wide: build them at one size',
    ),
    ('mixed/a:1000,mixed/silent', 'clip silent. has no sound'),  # before the first step
  ],
)
def test_a_mixture_that_makes_no_sense_is_refused_in_one_sentence(folder, corpus, sentence):
  with pytest.raises(UserError, match=sentence):
    batches_of(data_of(folder, corpus))


def test_corpora_whose_examples_differ_are_refused(folder):
  """As one with cached latents and one without."""

  def differs(record, _):
    kind = 'target' if record.id.startswith('a') else 'target_moments'
    return {kind: np.zeros((1, 4)), 'id': np.array([record.id])}

  sentence = r'those of mixed/a have target \[4\], those of mixed/b target_moments \[4\]: give both feature caches'
  with pytest.raises(UserError, match=sentence):
    batches_of(data_of(folder, 'mixed/a,mixed/b'), read=differs)


@pytest.fixture
def corpus(puppets, tmp_path):
  """(data of a config, the folder of its corpus), which may be damaged."""
  shutil.copytree(puppets / 'puppets', tmp_path / 'puppets')
  (folder,) = (p.parent for p in tmp_path.rglob('dataset_info.json'))
  return ml_collections.ConfigDict({'dir': str(tmp_path), 'corpus': 'puppets/tiny'}), folder


def read_all(data):
  return [record.id for record in input_pipeline.eval_records(data, 'train')]


@pytest.mark.parametrize('part', [0.02, 0.4])
@pytest.mark.parametrize('how', ['flip', 'cut'])
def test_damaged_shards_are_said_to_be(corpus, how, part):
  data, folder = corpus
  shard = next(p for p in folder.iterdir() if 'train' in p.name)
  content = bytearray(shard.read_bytes())
  at = int(part * (len(content) - 1))
  if how == 'flip':
    content[at] ^= 0x10
  shard.write_bytes(content[:at] if how == 'cut' else content)
  with pytest.raises(
    UserError, match=f'the corpus in {folder} is damaged.*: restore it from a copy, or build it again'
  ):
    read_all(data)


@pytest.mark.parametrize('name', ['dataset_info.json', 'features.json'])
@pytest.mark.parametrize('content', ['', '{', '[]'])
def test_damaged_descriptions_are_said_to_be(corpus, name, content):
  data, folder = corpus
  (folder / name).write_text(content)
  with pytest.raises(UserError, match='is damaged'):
    read_all(data)


@pytest.mark.parametrize('split', ['train[', 'train[x]', 'train[:10', 'train+'])
def test_a_split_is_a_slice(corpus, split):
  with pytest.raises(UserError, match='split'):
    input_pipeline.open_corpus(corpus[0], split)


def test_a_corpus_is_found_beside_the_workdir(tmp_path, monkeypatch):
  (tmp_path / 'project/datasets/puppets').mkdir(parents=True)
  (tmp_path / 'elsewhere').mkdir()
  monkeypatch.chdir(tmp_path / 'elsewhere')
  data = ml_collections.ConfigDict({'dir': 'datasets', 'corpus': 'puppets'})
  with pytest.raises(UserError, match='neither in the current folder nor beside .*nowhere: run the command in'):
    input_pipeline.locate(data, tmp_path / 'nowhere')
  input_pipeline.locate(data, '../project/runs/tiny')
  assert data.dir == str(tmp_path / 'project/datasets')
  monkeypatch.chdir(tmp_path / 'project')
  data.dir = 'datasets'
  input_pipeline.locate(data, tmp_path / 'nowhere')
  assert data.dir == 'datasets'

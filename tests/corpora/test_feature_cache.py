"""Features that frozen encoders compute once for a corpus: written by the command, read in training."""

import dataclasses
import importlib
import json
import os
import pickle
import shutil
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from configs import emo, vexpress
from talkjax import build, systems, train
from talkjax.corpora import feature_cache
from talkjax.errors import UsageError, UserError
from talkjax.nn.autoencoder import Autoencoder
from talkjax.nn.wav2vec2 import Wav2Vec2
from talkjax.systems.audio import Sound
from talkjax.training import checkpoint, input_pipeline
from talkjax.weights import encoders
from tests.commands import ROOT
from tests.example_record import full_record
from tests.micro import ENCODER, program_from_numpy, random_params, training_batch

WIDTHS = (32, 32)
MICRO = {
  'size': 32,
  'frames': 4,
  'batch_size': 2,
  'model.widths': (32,),
  'model.attention': (True,),
  'latents.kind': 'vae',
  'latents.widths': WIDTHS,
  'framing': 0.0,
  'aids.reference': 'none',
  'data.corpus': 'puppets/tiny',
  'data.feature_cache': 'both',
  'load': (('sd_vae', 'autoencoder', '', ''),),
  'steps': 2,
  'log_every': 1,
  'checkpoint_every': 2,
  'sample_every': 0,
}
OF = {
  emo: {'model.locator': (8, 8), 'model.audio_hidden': 16},
  vexpress: {'model.guider': (8, 8), 'windows.frames': 4, 'windows.overlap': 1},
}


BRANCHES = {'latents': 'autoencoder', 'speech': 'wav2vec2'}


def micro(file, folder, kind='wav2vec2', **changes):
  config = file.get_config('tiny,stage=2')
  config.pretrained = {'sd_vae': 'random'}
  values = {**MICRO, **OF[file], 'audio.kind': kind, 'audio.weights': str(folder / 'system'), **changes}
  config.update_from_flattened_dict(values)
  config.audio.wav2vec2 = ENCODER
  config.data.dir = str(folder)
  return config


@pytest.fixture(scope='module')
def nets():
  """The encoders and their parameters, by the kind of features."""
  made = {'latents': (Autoencoder(WIDTHS), (1, 8, 8, 3)), 'speech': (Wav2Vec2(**ENCODER), (1, 800))}
  shapes = lambda net, shape: jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(shape))['params']
  return {kind: (net, random_params(shapes(net, shape))) for kind, (net, shape) in made.items()}


@pytest.fixture(scope='module')
def folder(puppets, nets, tmp_path_factory):
  """A data_dir with a corpus, its feature cache `both`, and workdirs of the encoders."""
  folder = tmp_path_factory.mktemp('encoded')
  shutil.copytree(puppets / 'puppets', folder / 'puppets')
  params = {BRANCHES[kind]: params for kind, (_, params) in nets.items()}
  checkpoint.save_params(folder / 'system', micro(emo, folder), params, 0)
  for name, kind in (('sd_vae', 'latents'), ('wav2vec2', 'speech')):
    about = ml_collections.ConfigDict({'pretrained_network': name})
    checkpoint.save_params(folder / name, about, nets[kind][1], 0)
  encode(folder, '--feature_cache=both', f'--latents={folder}/system', f'--speech={folder}/system')
  return folder


def encode(folder, *arguments):
  corpus = ['--config=tiny', f'--data_dir={folder}', '--size=32', '--workers=0']
  build.build(['build', str(ROOT / 'data/puppets'), *corpus, *arguments])


def cache_folder(folder, name):
  """The folder of a cache."""
  (info,) = folder.glob('puppets/tiny/*/dataset_info.json')
  return info.parent / name


def build_with_batch(config):
  system = systems.build(config)
  return system, training_batch(config, system)


@pytest.mark.slow
@pytest.mark.parametrize('file', [emo, vexpress])
def test_the_loss_is_that_from_pixels(file, folder, nets):
  system, pixels = build_with_batch(micro(file, folder, 'mel', **{'data.feature_cache': ''}))
  _, moments = build_with_batch(micro(file, folder, 'mel'))
  assert pixels['target'].shape == (2, 4, 32, 32, 3) and moments['target_moments'].shape == (2, 4, 16, 16, 8)
  assert moments['target_moments'].dtype == moments['reference_moments'].dtype == np.float16
  params = random_params(jax.eval_shape(system.init, jax.random.key(0), moments))
  params = {**params, 'autoencoder': nets['latents'][1]}
  loss = jax.jit(lambda batch, seed: system.loss(params, batch, jax.random.key(seed), True)[0])
  for seed in range(3):
    np.testing.assert_allclose(loss(moments, seed), loss(pixels, seed), rtol=2e-3)


@pytest.mark.parametrize('split', ['train', 'train[2:7]', 'train[50%:]'])
def test_training_from_latents_reads_no_frame_of_the_corpus(folder, split, tmp_path):
  config = micro(emo, folder, 'mel', **{'data.split': split, 'batch_size': 4})
  system, expected = build_with_batch(config)
  whole = input_pipeline.open_corpus(config.data, split)  # with frames
  caches, _ = encoders.open_caches(config, system.encoder)
  slim = input_pipeline.open_corpus(config.data, split, caches)
  assert [r.id for r in slim] == [r.id for r in whole]
  for record, full in zip(slim, whole):
    assert len(record.frames) == len(full.frames) and not any(record.frames)
    np.testing.assert_array_equal(record.landmarks, full.landmarks)
    np.testing.assert_array_equal(record.audio, full.audio)
  # Training reads them: the corpus' own shards, 19 MB for ten seconds at 512 x 512, may even be absent.
  shutil.copytree(folder / 'puppets', tmp_path / 'puppets')
  for shard in (tmp_path / 'puppets').glob('*/*/puppets-*.array_record*'):
    shard.unlink()
  config.data.dir = str(tmp_path)
  found = training_batch(config, system)
  assert found.keys() == expected.keys()
  for key, value in expected.items():
    np.testing.assert_array_equal(found[key], value)


@pytest.mark.parametrize('kind', ['wav2vec2', 'speech_encoder'])
@pytest.mark.parametrize('file', [emo, vexpress])
def test_training_has_the_features_of_generation(file, kind, folder, nets):
  """The states of the whole clip, whether they are cached or computed."""
  changes = {} if kind == 'wav2vec2' else {'data.feature_cache': '', 'audio.weights': ''}
  config = micro(file, folder, kind, **{'latents.kind': 'fold', **changes})
  system = systems.build(config)
  caches, encoder = encoders.open_caches(config, system.encoder)
  caches = pickle.loads(pickle.dumps(caches))  # as reading processes get them
  record = next(iter(input_pipeline.open_corpus(config.data, 'train')))
  cached = dataclasses.replace(caches[-1](record), frames=record.frames)
  cached.features.pop('latents', None)
  model = importlib.import_module(f'talkjax.systems.{config.system}.model')
  params = unflatten_dict(encoder, sep='/')
  computed = model.make_networks(config).audio_features.of_sound(params, Sound.of_record(record))
  count, m = len(record.frames), config.margin
  expected = np.pad(computed, ((m, m), (0, 0)))
  for seed in range(4):
    start = int(np.random.default_rng(seed).integers(0, count - config.frames + 1))
    features = system.read(cached, np.random.default_rng(seed))['audio']
    assert features.dtype == np.float16
    np.testing.assert_allclose(features[0], expected[start : start + 4 + 2 * m], atol=4e-3, rtol=1e-3)


def test_states_are_computed_once_and_found_again(folder):
  config = micro(emo, folder, 'speech_encoder', **{'data.feature_cache': '', 'audio.weights': ''})
  system = systems.build(config)
  first, _ = encoders.open_caches(config, system.encoder)
  files = {path: path.stat().st_mtime_ns for path in first[0].folder.iterdir() if path.name != 'lock'}
  second, _ = encoders.open_caches(config, system.encoder)
  assert first == second
  assert files == {path: path.stat().st_mtime_ns for path in first[0].folder.iterdir() if path.name != 'lock'}
  assert first[0].about['speech']['branch'] == 'speech_encoder'


@pytest.mark.parametrize('file', [emo, vexpress])
def test_no_encoder_runs(file, folder):
  system, batch = build_with_batch(micro(file, folder))
  params = jax.eval_shape(system.init, jax.random.key(0), batch)
  slim = {k: v for k, v in params.items() if k not in BRANCHES.values()}
  assert len(slim) == len(params) - 2
  jax.eval_shape(lambda params: system.loss(params, batch, jax.random.key(0), True), slim)  # needs neither


def test_training_keeps_what_generation_needs(folder, nets, tmp_path, monkeypatch):
  monkeypatch.setattr(train, 'training_program', program_from_numpy)
  state = train.train(micro(emo, folder, **{'pretrained.sd_vae': str(folder / 'sd_vae')}), str(tmp_path / 'run'))
  for kind, (_, params) in nets.items():
    trained = state.params[BRANCHES[kind]]
    assert jax.tree.all(jax.tree.map(np.array_equal, trained, params))


def test_other_weights_than_those_of_the_cache_are_refused(folder, nets, tmp_path):
  net, params = nets['latents']
  other = jax.tree.map(lambda x: x * 1.001, params)
  checkpoint.save_params(tmp_path / 'other', ml_collections.ConfigDict({'pretrained_network': 'sd_vae'}), other, 0)
  with pytest.raises(UserError, match='latents of .*=both were made with the autoencoder .* starts with another'):
    train.train(micro(emo, folder, **{'pretrained.sd_vae': str(tmp_path / 'other')}), str(tmp_path / 'run'))
  net, params = nets['speech']
  other = jax.tree.map(lambda x: x * 1.001, params)
  about = ml_collections.ConfigDict({'pretrained_network': 'wav2vec2'})
  checkpoint.save_params(tmp_path / 'other_speech', about, other, 0)
  changes = {'pretrained.sd_vae': str(folder / 'sd_vae'), 'audio.weights': str(tmp_path / 'other_speech')}
  sentence = r'speech of .* but this run starts with another: set --config.audio.weights=.*/system'
  with pytest.raises(UserError, match=sentence):
    train.train(micro(emo, folder, **changes), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('file', 'kind', 'changes', 'sentence'),
  [
    (
      emo,
      'mel',
      {'data.feature_cache': 'nothing'},
      'data.feature_cache=nothing: no latents.json or speech.json in .*; make it with',
    ),
    (emo, 'mel', {'latents.kind': 'fold'}, "data.feature_cache=both has latents .* config.latents.kind is 'fold'"),
    (emo, 'mel', {'size': 64}, 'has latents of 32 x 32 pixels, and config.size is 64: encode .* --size=64'),
    (vexpress, 'mel', {'augment.flip': 0.5}, 'augment.flip=0.5 mirrors images, and config.data.feature_cache=both'),
    (
      emo,
      'wav2vec2',
      {'data.feature_cache': 'last'},
      'has 1 layers of 16 channels of wav2vec2, but this system needs 2',
    ),
    (emo, 'mel', {'data.feature_cache': 'moved'}, 'has latents of other/1.0.0, but the corpus is puppets/tiny'),
    (emo, 'mel', {'data.feature_cache': 'short'}, "of 1 clips of split 'train', but the corpus has"),
  ],
)
def test_what_does_not_fit_is_refused(folder, file, kind, changes, sentence, tmp_path):
  if changes.get('data.feature_cache') == 'last':
    encode(folder, '--feature_cache=last', f'--speech={folder}/system', '--speech_layers=last')
  elif name := changes.get('data.feature_cache'):
    about = json.loads((cache_folder(folder, 'both') / 'latents.json').read_text())
    if name == 'moved':
      about['corpus'] = 'other/1.0.0'
    about['splits']['train'] = {k: v[:1] for k, v in about['splits']['train'].items()}
    if name != 'nothing':
      cache_folder(folder, name).mkdir()
      (cache_folder(folder, name) / 'latents.json').write_text(json.dumps(about))
  with pytest.raises(UserError, match=sentence):
    train.train(micro(file, folder, kind, **changes), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('arguments', 'error', 'sentence'),
  [
    (['--latents={folder}/nowhere'], UserError, 'nowhere is not a workdir'),
    (['--latents={folder}/wav2vec2'], UserError, 'wav2vec2 has no autoencoder: expected a workdir'),
    (['--speech={folder}/sd_vae'], UserError, 'sd_vae has no speech encoder: expected a workdir'),
    (['--speech={folder}/wav2vec2'], UserError, 'set config.model as it was|lacks parameter'),  # not the published size
    (['--latents={folder}/system', '--size=33'], UsageError, '--size=33: expected a multiple of 2'),
    (['--speech={folder}/system', '--speech_layers=some'], UsageError, '--speech_layers=some: expected .* all or last'),
    (
      ['--latents={folder}/system', '--feature_cache=both', '--size=64'],
      UserError,
      '32 instead of 64.*cache=NAME',
    ),
  ],
)
def test_bad_requests_write_nothing(folder, arguments, error, sentence):
  before = sorted(folder.rglob('*'))
  with pytest.raises(error, match=sentence):
    encode(folder, '--feature_cache=bad', *[a.format(folder=folder) for a in arguments])
  assert sorted(folder.rglob('*')) == before


def test_an_interrupted_run_resumes_and_is_never_taken_for_complete(folder, monkeypatch, capsys):
  monkeypatch.setattr(feature_cache, 'CLIPS', 3)
  config = micro(emo, folder, 'mel', **{'data.feature_cache': 'half'})
  clips = list(input_pipeline.open_corpus(config.data, 'train'))[:8]
  about = {'corpus': 'c', 'weights': 'w', 'workdir': 'a', 'shape': [2]}
  place, encoded = cache_folder(folder, 'half'), []

  def rows(record, stop=None):
    encoded.append(record.id)
    for i in range(len(record.frames)):
      yield np.full((1, 2), i, np.float16)
      if record.id == stop:
        raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    feature_cache.write(place, 'latents', about, {'train': clips}, lambda r: rows(r, clips[4].id))
  with pytest.raises(UserError, match='half is incomplete; run the command that makes it again'):
    train.train(config, str(folder / 'run'))
  encoded.clear()
  assert feature_cache.write(place, 'latents', {**about, 'workdir': 'b'}, {'train': clips}, rows)
  assert encoded == [c.id for c in clips[3:]]  # files of three clips: the first was complete
  made = json.loads((place / 'latents.json').read_text())
  assert made['splits']['train']['rows'] == [len(c.frames) for c in clips]
  assert not list(place.glob('*.partial')) and len(list(place.glob('*.f16'))) == 3
  assert not feature_cache.write(place, 'latents', about, {'train': clips}, rows)
  # A run of another encoder does not resume it.
  shutil.rmtree(place)
  with pytest.raises(KeyboardInterrupt):
    feature_cache.write(place, 'latents', about, {'train': clips}, lambda r: rows(r, clips[4].id))
  encoded.clear()
  feature_cache.write(place, 'latents', {**about, 'weights': 'x'}, {'train': clips}, rows)
  assert encoded == [c.id for c in clips]
  encode(folder, '--feature_cache=both', f'--latents={folder}/system')
  assert 'latents are already in' in capsys.readouterr().out
  with pytest.raises(UserError, match='too large for float16'):
    feature_cache.write(place, 'speech', about, {'train': clips}, lambda r: iter([np.full((1, 2), np.inf)]))


def test_a_cache_without_records_is_read_with_those_of_the_corpus(folder):
  """As earlier versions wrote it."""
  shutil.copytree(cache_folder(folder, 'both'), cache_folder(folder, 'both').with_name('earlier'))
  for file in cache_folder(folder, 'earlier').glob('records-*'):
    file.unlink()
  config = micro(emo, folder, 'mel', **{'data.feature_cache': 'earlier'})
  caches, _ = encoders.open_caches(config, None)
  (record, *_) = input_pipeline.open_corpus(config.data, 'train', caches)
  assert record.frame(0).any() and record.features['latents'].shape[0] == len(record.frames)


def written(folder, tmp_path_name='cache'):
  """(the folder of a cache of two clips, the clips, what was encoded)."""
  clips = [full_record(frames, name) for frames, name in ((3, 'a'), (4, 'b'))]
  encode = lambda record: [np.full((len(record.frames), 2), len(record.frames), np.float16)]
  about = {'corpus': 'c', 'branch': 'b', 'weights': 'w', 'workdir': '', 'shape': [2]}
  feature_cache.write(folder, 'motion', about, {'train': clips}, encode)
  return clips


def opened(folder):
  split = types.SimpleNamespace(num_examples=2)
  info = types.SimpleNamespace(full_name='c', splits={'train': split})
  builder = types.SimpleNamespace(data_dir=str(folder.parent), info=info, name='c')
  return feature_cache.open_cache(builder, folder.name, 'train')


@pytest.mark.parametrize('byte', [0, 13, 27])
def test_one_bit_of_the_rows_is_noticed(tmp_path, byte):
  folder = tmp_path / 'cache'
  clips = written(folder)
  path = folder / 'motion-train-00000.f16'
  assert [opened(folder)(clip).features['motion'][0, 0] for clip in clips] == [3, 4]
  data = bytearray(path.read_bytes())
  data[byte] ^= 1
  path.write_bytes(data)
  os.utime(path, ns=(0, 0))
  good, bad = clips[::-1] if byte < 12 else clips
  assert opened(folder)(good).features['motion'].shape == (len(good.frames), 2)
  with pytest.raises(
    UserError, match=f'{path} is damaged: remove the folder .*the motion of clip {bad.id} have changed'
  ):
    opened(folder)(bad)
  index = json.loads((folder / 'motion.json').read_text())
  del index['splits']['train']['digests']  # a cache of an earlier version
  (folder / 'motion.json').write_text(json.dumps(index))
  opened(folder)(bad)


@pytest.mark.parametrize('content', [None, b'', b'short'])
def test_rows_that_are_gone(tmp_path, content):
  clips = written(tmp_path / 'cache')
  path = tmp_path / 'cache/motion-train-00000.f16'
  path.unlink() if content is None else path.write_bytes(content)
  with pytest.raises(UserError, match='motion-train-00000.f16 is damaged: remove the folder'):
    opened(tmp_path / 'cache')(clips[0])


@pytest.mark.parametrize(
  'change', [b'', b'{', b'[]', {'shape': 'x'}, {'shape': [0]}, {'clips_a_file': 0}, {'splits': []}, {'corpus': None}]
)
def test_a_description_that_is_damaged(tmp_path, change):
  written(tmp_path / 'cache')
  path = tmp_path / 'cache/motion.json'
  if isinstance(change, dict):
    change = json.dumps(json.loads(path.read_text()) | change).encode()
  path.write_bytes(change)
  with pytest.raises(UserError, match='motion.json is damaged .*: remove the folder .*, and encode the corpus again'):
    opened(tmp_path / 'cache')


def test_an_interrupted_file_is_removed(tmp_path):
  def encode(record):
    yield np.zeros((1, 2), np.float16)
    raise RuntimeError('stopped')

  with pytest.raises(RuntimeError, match='stopped'):
    feature_cache.write(tmp_path / 'cache', 'motion', {'shape': [2]}, {'train': [full_record(3, 'a')]}, encode)
  assert not list((tmp_path / 'cache').glob('*.f16'))

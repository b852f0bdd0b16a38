"""config.json: written, read, and read as earlier versions wrote it."""

import copy
import json

import ml_collections
import pytest
from etils import epath

from talkjax.errors import UserError
from talkjax.training.workdir import FREE_KEYS, flatten, read_config, read_system_config, upgrade, write_config

# Every key that was renamed, in a config as an earlier version wrote it, and that config today.
OLD = {
  'system': 'vexpress',
  'foundations': {'sd15': 'runs/sd15', 'wav2vec2': 'runs/wav2vec2'},
  'weights': {'reference': 1.0, 'audio': 3.0},
  'latents': {'kind': 'fold', 'change': 6.0},
  'windows': {'frames': 12, 'overlap': 4, 'budget': 8, 'kept': 256},
  'data': {'dir': 'datasets', 'encoded': 'features'},
  'diffusion': {'linear_start': 1e-6, 'linear_end': 0.01, 'steps': 2000, 'prior': 0.03},
  'augment': {'hidden_mouth': 1.0},
  'foundation': 'sd15',
  'load': [['sd15', 'backbone', '', ''], ['wav2vec2', 'wav2vec2', '', '']],
  'init_new': ['^audio/', '^wav2vec2/'],
  'train': [['^autoencoder/', False], ['^wav2vec2/', False], ['.*', True]],
  'audio': {'kind': 'mel', 'context': 12, 'encoder': {'width': 16}},
}
NEW = {
  'system': 'vexpress',
  'pretrained': {'sd15': 'runs/sd15'},
  'context_scales': {'reference': 1.0, 'audio': 3.0},
  'latents': {'kind': 'fold'},
  'framing': 0.0,
  'aids': {'reference': 'concatenated', 'prior': 0.03, 'hidden_mouth': 1.0, 'modulation': False},
  'windows': {'frames': 12, 'overlap': 4, 'batch_size': 8, 'cache_mib': 256},
  'data': {'dir': 'datasets', 'feature_cache': 'features'},
  'diffusion': {'start': 1e-6, 'end': 0.01, 'steps': 2000, 'huber': 0.0},
  'augment': {},
  'pretrained_network': 'sd15',
  'load': [['sd15', 'backbone', '', '']],
  'init_new': ['^audio/'],
  'train': [['.*', True]],
  'audio': {'kind': 'mel', 'weights': 'runs/wav2vec2', 'wav2vec2': {'width': 16}, 'speech_encoder': {}},
}


def test_a_config_comes_back_resolved(tmp_path):
  config = ml_collections.ConfigDict({'seed': 3, 'model': {'widths': (8, 16)}, 'rate': 1e-5, 'init_from': ''})
  config.model.context = config.get_ref('seed')
  write_config(epath.Path(tmp_path / 'new' / 'run'), config)
  back = read_config(tmp_path / 'new' / 'run')
  assert back.to_dict() == {'seed': 3, 'model': {'widths': [8, 16], 'context': 3}, 'rate': 1e-5, 'init_from': ''}
  assert [p.name for p in (tmp_path / 'new' / 'run').iterdir()] == ['config.json']


def test_a_folder_without_a_config_is_no_workdir(tmp_path):
  with pytest.raises(UserError, match=r'is not a workdir .*no config\.json.*: expected the --workdir of'):
    read_config(tmp_path)


def test_every_free_key_may_change_and_no_other(tmp_path):
  workdir = epath.Path(tmp_path)
  config = ml_collections.ConfigDict(dict.fromkeys(FREE_KEYS, 1) | {'seed': 0})
  write_config(workdir, config)
  config.update(dict.fromkeys(FREE_KEYS, 2))
  write_config(workdir, config)
  assert read_config(workdir).to_dict() == config.to_dict()
  config.seed = 1
  with pytest.raises(UserError, match=r'these keys differ: seed \(0 there, 1 here\); choose another --workdir'):
    write_config(workdir, config)


def test_keys_that_one_of_two_configs_lacks_are_named(tmp_path):
  write_config(epath.Path(tmp_path), ml_collections.ConfigDict({'a': {'b': 1}}))
  with pytest.raises(UserError, match=r'a\.b \(1 there, absent here\), a\.c \(absent there, 1 here\)'):
    write_config(epath.Path(tmp_path), ml_collections.ConfigDict({'a': {'c': 1}}))


def test_an_old_config_has_todays_keys():
  assert upgrade(copy.deepcopy(OLD)) == NEW
  assert upgrade(copy.deepcopy(NEW)) == NEW


@pytest.mark.parametrize('key', sorted(flatten(OLD).keys() - flatten(NEW).keys() - {'audio.context', 'latents.change'}))
def test_each_key_is_renamed_alone(key):
  """Nothing else changes, so that a config of any age is read."""
  old = ml_collections.ConfigDict()
  value = flatten(OLD)[key]
  nested = value
  for part in reversed(key.split('.')):
    nested = {part: nested}
  old.update(nested)
  assert list(flatten(upgrade(old.to_dict())).items()) != [(key, value)]
  assert list(flatten(upgrade(old.to_dict())).values()) == [value]
  assert flatten(upgrade(old.to_dict())).items() <= flatten(NEW).items()


@pytest.mark.parametrize(
  'config',
  [
    {},
    {'seed': 0, 'model': {'weights': 1, 'foundation': 2}},
    {'latents': 'fold', 'windows': 4, 'data': None, 'diffusion': []},  # no dicts, so they have no such keys
    {'latents': {}, 'windows': {}, 'data': {}, 'diffusion': {}},
    {'system': 'emo'},
    {'system': 'speech_edit', 'sampler': {'spacing': 'leading'}},
  ],
)
def test_a_config_without_these_keys_is_untouched(config):
  assert upgrade(copy.deepcopy(config)) == config


def test_keys_that_earlier_versions_did_not_have_get_what_they_did():
  emo = {'system': 'emo', 'diffusion': {'steps': 1000}}
  assert upgrade(emo) == {'system': 'emo', 'diffusion': {'steps': 1000, 'noise_offset': 0.0, 'huber': 0.0}}
  edit = {'system': 'speech_edit', 'diffusion': {'linear_start': 1e-6}, 'sampler': {'name': 'ddim'}}
  assert upgrade(edit) == {
    'system': 'speech_edit',
    'diffusion': {'start': 1e-6, 'zero_snr': False},
    'sampler': {'name': 'ddim', 'spacing': 'trailing'},
  }
  kept = {'system': 'emo', 'diffusion': {'noise_offset': 0.1, 'huber': 0.05}}
  assert upgrade(copy.deepcopy(kept)) == kept
  second, third = ({'system': 'fd2talk', 'stage': n, 'latents': {}, 'aids': {}} for n in (2, 3))
  assert upgrade(copy.deepcopy(second)) == second
  upgraded = third | {'framing': 0.0, 'aids': {'reference': 'none', 'hidden_mouth': 0.0}}
  assert upgrade(copy.deepcopy(third)) == upgraded
  joint = {'system': 'joint_av', 'joined': {'renderer': copy.deepcopy(third), 'wav2lip': 'damaged'}}
  assert upgrade(joint) == {'system': 'joint_av', 'joined': {'renderer': upgraded, 'wav2lip': 'damaged'}}


@pytest.mark.parametrize(
  'old, reference',
  [
    ({'residual_scale': 0.0, 'overlay': False, 'flow': False}, 'none'),
    ({'residual_scale': 1.5}, 'concatenated'),
    ({'residual_scale': 1.5, 'overlay': True, 'flow': False}, 'overlay'),
    ({'overlay': True, 'flow': True}, 'flow'),  # of fd2talk
  ],
)
def test_three_keys_of_earlier_versions_are_one(old, reference):
  config = {'system': 'speech_edit', 'latents': {'kind': 'vae'}, 'aids': {**old, 'prior': 0.03}}
  assert upgrade(config)['aids'] == {'reference': reference, 'prior': 0.03}


def test_a_residual_of_another_scale_is_refused():
  with pytest.raises(UserError, match=r'residual_scale=2\.0: it is 6\.0 now in these latents, so train .* again'):
    upgrade({'latents': {'kind': 'fold'}, 'aids': {'residual_scale': 2.0}})


def test_a_modulation_without_keypoints_is_refused():
  old = {'system': 'emo', 'latents': {'kind': 'fold'}, 'aids': {'residual_scale': 6.0, 'overlay': True}}
  assert upgrade(copy.deepcopy(old))['aids']['reference'] == 'overlay'
  with pytest.raises(UserError, match=r'overlay=True: an earlier version trained .*: train it again, or use that'):
    upgrade(old | {'aids': old['aids'] | {'modulation': True}})


def test_a_key_that_is_gone_is_dropped():
  assert upgrade({'audio': {'context': 12}}) == {'audio': {}}


def test_a_run_of_an_earlier_version_resumes(tmp_path):
  workdir = epath.Path(tmp_path)
  (workdir / 'config.json').write_text(json.dumps(OLD))
  assert read_config(workdir).to_dict() == NEW
  write_config(workdir, ml_collections.ConfigDict(NEW))
  assert json.loads((workdir / 'config.json').read_text()) == NEW


def test_a_workdir_that_is_of_no_system(tmp_path):
  for config, sentence in (
    ({'pretrained_network': 'sd15'}, 'has the pretrained network sd15'),
    ({}, 'names no system'),
  ):
    write_config(epath.Path(tmp_path), ml_collections.ConfigDict(config))
    with pytest.raises(UserError, match=f'{sentence}: expected the --workdir of a training run'):
      read_system_config(tmp_path)
    (tmp_path / 'config.json').unlink()


@pytest.mark.parametrize('name', ['metrics.jsonl', 'parameters.txt', 'samples'])
def test_files_of_others_are_not_replaced(tmp_path, name):
  (tmp_path / name).write_text('mine')
  (tmp_path / 'lock').touch()
  with pytest.raises(UserError, match=f'has {name}, which a run would replace, but no config.json'):
    write_config(epath.Path(tmp_path), ml_collections.ConfigDict({'seed': 0}))
  assert not (tmp_path / 'config.json').exists()

"""Workdirs that a system opens through the fields of another: their configs are checked as its own is."""

import json

import ml_collections
import pytest

from configs import fd2talk
from talkjax.errors import UserError
from talkjax.systems import joined


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'size': -1}, r'config\.json is damaged \(config\.size=-1: expected 8 to 65536\)'),
    ({'model': 3}, r'config\.json is damaged \(config\.model=3: expected a group of keys\)'),
    ({'system': None}, 'has a config.json that names no system'),
    ({'stage': 1}, 'stage 1, which has no renderer: give another workdir'),
  ],
)
def test_a_workdir_that_cannot_be_joined(changes, sentence, tmp_path):
  config = fd2talk.get_config(f'tiny,stage={changes.get("stage", 3)}')
  values = {k: v for k, v in {**json.loads(config.to_json()), **changes}.items() if v is not None}
  (tmp_path / 'config.json').write_text(json.dumps(values))
  own = ml_collections.ConfigDict({'renderer': '', 'joined': {}})
  with pytest.raises(UserError, match=sentence):
    joined.config_of('renderer', own, 'renderer', str(tmp_path))
  # Before a training begins too.
  with pytest.raises(UserError, match=sentence):
    joined.with_configs(ml_collections.ConfigDict({'renderer': str(tmp_path), 'joins': ('renderer',), 'joined': {}}))


def test_the_config_that_training_kept_names_a_system():
  own = ml_collections.ConfigDict({'renderer': 'runs/fd_3', 'joined': {'renderer': {'size': 64}}})
  with pytest.raises(UserError, match='renderer=runs/fd_3: config.joined.renderer names no system'):
    joined.config_of('renderer', own, 'renderer')


@pytest.mark.parametrize('name', ['nothing', 'captions'])
def test_joins_names_keys_of_workdirs(name):
  own = ml_collections.ConfigDict({'joins': (name,), 'captions': ('A man is talking',)})
  with pytest.raises(
    UserError, match=rf"config\.joins=\('{name}',\): expected names of renderer, wav2lip, super_resolution"
  ):
    joined.with_configs(own)

"""What a config starts from: pretrained networks and earlier stages that it needs, and what is said where they lack."""

import ml_collections
import numpy as np
import pytest
from etils import epath

from configs import emo, fd2talk, vexpress, wav2lip
from talkjax import systems, train
from talkjax.errors import UserError
from talkjax.training import checkpoint, input_pipeline
from talkjax.training.workdir import write_config
from tests.micro import ENCODER
from tests.steps import SMALL, portrait_config


def test_wav2lip_needs_its_expert(puppets, tmp_path):
  config = wav2lip.get_config('paper')
  config.data.update({**SMALL, 'dir': str(puppets)})
  with pytest.raises(UserError, match='^config.pretrained.wav2lip_syncnet is not set, .* --source=wav2lip_syncnet'):
    train.train(config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_motion_of_paper_needs_coefficients_and_a_lip_expert(puppets, tmp_path):
  config = fd2talk.get_config('paper,stage=1,audio.weights=random')
  config.data.update({**SMALL, 'dir': str(puppets)})
  with pytest.raises(UserError, match='^config.lip_expert is not set'):
    train.train(config, str(tmp_path / 'run'))
  config.lip_expert = 'random'
  config.audio.wav2vec2 = ENCODER
  with pytest.raises(UserError, match='coefficients.*--coefficients=deep3d'):
    train.train(config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run' / 'config.json').exists()


@pytest.mark.parametrize(('stage', 'name'), [(1, 'sd15'), (1, 'sd_vae'), (2, 'animatediff')])
@pytest.mark.parametrize('system', [emo, vexpress])
def test_paper_needs_its_pretrained_networks(system, stage, name, puppets, tmp_path):
  config = portrait_config(system, 'paper', stage, puppets)
  config.pretrained[name] = ''
  with pytest.raises(UserError, match=f'^config.pretrained.{name} is not set, .* talkjax.convert --source={name} '):
    train.train(config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('system', [emo, vexpress])
def test_paper_is_conditioned_on_wav2vec2(system, puppets, tmp_path):
  """From the stage that adds audio on; its weights are needed, and another kind is one key."""
  kinds = [system.get_config(f'paper,stage={stage}').audio.kind for stage in (1, 2, 3)]
  assert kinds == ['none', 'wav2vec2', 'wav2vec2']
  config = portrait_config(system, 'paper', 2, puppets)
  config.audio.weights = ''
  sentence = 'config.audio.kind=wav2vec2 needs weights: set --config.audio.weights .* --source=wav2vec2`'
  with pytest.raises(UserError, match=sentence):
    train.train(config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()
  config.audio.kind = 'mel'
  features = systems.build(config).read(
    next(input_pipeline.eval_records(config.data, 'train', 1)), np.random.default_rng(0)
  )
  assert features['audio'].shape[-1] == config.audio.bands * config.audio.columns


@pytest.mark.parametrize('system', [emo, vexpress])
@pytest.mark.parametrize('stage', [2, 3])
def test_later_stages_of_paper_need_an_earlier_one(system, stage, puppets, tmp_path):
  config = portrait_config(system, 'paper', stage, puppets)
  config.init_from = ''
  with pytest.raises(UserError, match='^the frozen autoencoder .* --config.init_from '):
    train.train(config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_an_earlier_stage_may_have_the_pretrained_networks(tmp_path):
  """As the workdir made of Moore-AnimateAnyone has the motion modules."""
  config = vexpress.get_config('paper,stage=2')
  system = systems.build(config)
  with_motion = {'autoencoder': {'a': np.ones(1)}, 'backbone': {'down_blocks_0_motion_modules_0': {'a': np.ones(1)}}}
  without = {**with_motion, 'backbone': {'conv_in': {'a': np.ones(1)}}}
  checkpoint.save_params(tmp_path / 'with', config, with_motion, 0)
  checkpoint.save_params(tmp_path / 'without', config, without, 0)
  config.init_from = str(tmp_path / 'with')
  train.check_sources(config, system)
  config.init_from = str(tmp_path / 'without')
  with pytest.raises(UserError, match='animatediff'):
    train.check_sources(config, system)


def test_wav2vec2_has_the_sizes_of_its_workdir(tmp_path):
  """Of the converted one, or of the earlier stage that had it."""
  about = ml_collections.ConfigDict({'pretrained_network': 'wav2vec2', 'wav2vec2': ENCODER})
  checkpoint.save_params(tmp_path / 'large', about, {'a': np.ones(1)}, 0)
  second = train.with_encoder_sizes(emo.get_config(f'paper,stage=2,audio.weights={tmp_path}/large'))
  write_config(epath.Path(tmp_path / 'second'), second)
  third = train.with_encoder_sizes(emo.get_config(f'paper,stage=3,init_from={tmp_path}/second'))
  for config in (second, third):
    assert systems.build(config).encoder.shape == (ENCODER['layers'], ENCODER['width'])
  base = train.with_encoder_sizes(emo.get_config('paper,stage=2,audio.weights=random'))
  assert systems.build(base).encoder.shape == (12, 768)

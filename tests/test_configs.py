"""Every config and size has a training step that fits its data; behind the marker `slow`, all stages take one."""

import jax
import numpy as np
import pytest

from configs import (
  autoencoder,
  common,
  emo,
  fd2talk,
  portrait,
  speech_edit,
  speech_encoder,
  super_resolution,
  vexpress,
  wav2lip,
)
from talkjax import systems, train
from talkjax.errors import UsageError
from talkjax.systems.sampling import make_schedule, make_table
from talkjax.training.compile import train_patterns
from talkjax.training.state import trainable_mask
from talkjax.weights import packaged
from talkjax.weights.speech import KINDS
from tests.micro import program_from_numpy
from tests.steps import ONE, SMALL, check_step, portrait_config

STAGES = [(system, size, stage) for system in (emo, vexpress) for size in portrait.SIZES for stage in (1, 2, 3)]

SAMPLED = (
  [(speech_edit, size) for size in speech_edit.SIZES]
  + [(super_resolution, 'tiny')]
  + [(fd2talk, f'{size},stage={stage}') for size in fd2talk.SIZES for stage in (1, 3)]
  + [(system, f'{size},stage={stage}') for system, size, stage in STAGES]
)


@pytest.mark.parametrize(('system', 'arg'), SAMPLED, ids=lambda value: getattr(value, '__name__', value))
def test_sampling_starts_at_the_noise_level_where_training_ends(system, arg):
  config = system.get_config(arg)
  table, schedule = make_table(config), make_schedule(config.diffusion)
  np.testing.assert_allclose(table.signal_scale[0], np.sqrt(schedule.alpha_bar[-1]), rtol=1e-3, atol=1e-3)


def speech_edit_config(size, puppets):
  config = speech_edit.get_config(size)
  config.update(ONE)
  config.optimizer.warmup = 0
  config.model.num_res_blocks = 1  # half of what is to be compiled
  config.audio.weights = ''
  config.data.update({**SMALL, 'align': True, 'dir': str(puppets)})
  return config


@pytest.fixture
def take_step(tmp_path, monkeypatch):
  """Trains for a step on the corpus: a state of the same shapes comes out, in which only what trains has moved."""

  def take(config, frozen=('autoencoder', *KINDS)):
    programs = []

    def record(*args):
      programs.append(program_from_numpy(*args))
      return programs[-1]

    monkeypatch.setattr(train, 'training_program', record)
    state = train.train(config, str(tmp_path))
    assert int(state.step) == 1
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(state) == shapes(programs[0].state)
    assert all(x.dtype == 'float32' for x in jax.tree.leaves(state.params))
    # What is frozen has no average.
    moved = jax.tree.map(lambda p, average: not np.array_equal(p, average), state.params, state.averaged)
    learns = trainable_mask(state.params, train_patterns(config, systems.build(config)))
    pairs = list(zip(jax.tree.leaves(moved), jax.tree.leaves(learns)))
    assert not any(m for m, trains in pairs if not trains) and any(m for m, _ in pairs)
    for branch in frozen:
      assert not any(jax.tree.leaves(learns.get(branch, {})))

  return take


@pytest.mark.slow
@pytest.mark.parametrize('change', ['', ',loss.adversarial=0.5', ',loss.lpips=0'])
@pytest.mark.parametrize('size', autoencoder.SIZES)
def test_every_size_of_the_autoencoder_has_a_step(size, change, puppets):
  config = autoencoder.get_config(size + change)
  config.update(ONE)
  config.update_from_flattened_dict({'size': 32, 'latents.widths': (32, 64)})
  config.data.update({**SMALL, 'dir': str(puppets)})
  assert {name for name, *_ in config.load} <= set(config.pretrained)
  check_step(config, ('lpips',))


@pytest.mark.parametrize('size', fd2talk.SIZES)
def test_every_size_of_the_wider_decoder_has_a_step(size, puppets):
  config = fd2talk.get_config(f'{size},stage=2')
  config.update(ONE)
  config.update_from_flattened_dict({'size': 32, 'latents.widths': (32, 64)})
  config.data.update({**SMALL, 'dir': str(puppets)})
  check_step(config, ('lpips',))


@pytest.mark.parametrize('system', [emo, vexpress])
def test_small_sizes_may_diffuse_in_the_latents_of_puppets_autoencoder(system, puppets):
  """By one argument, from which sizes and weights follow; later stages take them from the first."""
  first, second = (system.get_config(f'tiny,stage={stage},latents.kind=vae') for stage in (1, 2))
  widths = tuple(packaged.about('puppets_autoencoder')['latents']['widths'])
  assert tuple(first.latents.widths) == tuple(second.latents.widths) == widths
  assert [config.pretrained.get('autoencoder') for config in (first, second)] == ['puppets_autoencoder', None]
  assert system.get_config('tiny,stage=1').latents.kind == 'fold'
  first.update(ONE)
  first.audio.kind = 'mel'
  first.data.update({**SMALL, 'dir': str(puppets)})
  train.check_sources(first, systems.build(first))
  check_step(first)


@pytest.mark.parametrize(
  ('size', 'width'),
  [pytest.param(size, 64, marks=pytest.mark.slow) for size in speech_edit.SIZES] + [('tiny', 32)],
)
def test_every_size_of_speech_edit_takes_a_step(size, width, puppets, take_step):
  """Behind the marker `slow` all sizes at their own width."""
  config = speech_edit_config(size, puppets)
  assert config.model.width == 64
  config.model.width = width
  take_step(config)


def super_resolution_config(size, puppets):
  config = super_resolution.get_config(size)
  config.update(ONE)
  config.update_from_flattened_dict({'size': 64, 'model.width': 32, 'model.num_res_blocks': 1})
  config.optimizer.warmup = 0
  config.data.update({**SMALL, 'dir': str(puppets)})
  return config


def test_every_size_of_super_resolution_has_a_step(puppets):
  for size in super_resolution.SIZES:
    check_step(super_resolution_config(size, puppets), frozen=())


def test_super_resolution_takes_a_step(puppets, take_step):
  take_step(super_resolution_config('tiny', puppets), frozen=())


def test_super_resolution_of_paper_has_the_published_layout():
  config = super_resolution.get_config('paper')
  batch = {'image': np.zeros((1, config.size, config.size, 3), np.uint8)}
  shapes = jax.eval_shape(systems.build(config).init, jax.random.key(0), batch)
  assert sum(x.size for x in jax.tree.leaves(shapes)) == 311_027_910


@pytest.mark.parametrize('size', speech_encoder.SIZES)
def test_every_size_of_the_speech_encoder_takes_a_step(size, puppets, take_step):
  config = speech_encoder.get_config(size)
  config.update(ONE)
  config.data.update({**SMALL, 'dir': str(puppets)})
  config.optimizer.warmup = 0
  take_step(config, frozen=())


def wav2lip_config(size, puppets):
  config = wav2lip.get_config(size)
  config.update(ONE)
  config.optimizer.warmup = 0
  config.data.update({**SMALL, 'dir': str(puppets)})
  return config


@pytest.mark.parametrize('size', wav2lip.SIZES)
def test_every_size_of_wav2lip_has_a_step(size, puppets):
  check_step(wav2lip_config(size, puppets), (*KINDS, 'expert'))


def test_wav2lip_takes_a_step(puppets, take_step):
  config = wav2lip_config('tiny', puppets)
  config.update_from_flattened_dict({'size': 32, 'model.width': 32, 'model.multipliers': (1,)})
  take_step(config)


# The three stages in order are in tests/systems.
@pytest.mark.slow
@pytest.mark.parametrize(('system', 'size', 'stage'), STAGES, ids=lambda value: getattr(value, '__name__', value))
def test_every_stage_and_size_takes_a_step(system, size, stage, puppets, take_step):
  take_step(portrait_config(system, size, stage, puppets))


def test_bfloat16_recomputed_and_accumulated(puppets, tmp_path):
  config = speech_edit.get_config('tiny,dtype=bfloat16,remat=True,optimizer.accumulate=2,model.width=32')
  config.update({**ONE, 'batch_size': 2, 'size': 32})
  config.model.multipliers = (1,)
  config.data.update({**SMALL, 'dir': str(puppets)})
  state = train.train(config, str(tmp_path))
  assert all(x.dtype == 'float32' for x in jax.tree.leaves(state.params))  # the arithmetic alone is bfloat16


def test_table_1():
  paper, single = speech_edit.get_config(), speech_edit.get_config('grid_s1')
  shared = {'width': 64, 'num_res_blocks': 2, 'head_channels': 32, 'dropout': 0.2}
  for config in (paper, single):
    assert config.size == 128 and config.optimizer.learning_rate == 5e-5
    assert {k: config.model[k] for k in shared} == shared
  assert (paper.diffusion.schedule, paper.diffusion.steps, paper.model.multipliers) == ('cosine', 1000, (1, 2, 3))
  assert (single.diffusion.schedule, single.diffusion.steps) == ('linear', 2000)
  assert (single.diffusion.start, single.diffusion.end) == (1e-6, 0.01)
  # The results of Table 2 are without the warping that section 4.4 suggests.
  assert dict(paper.augment) == dict(single.augment) == {'warp': 0.0, 'noise': 0.0}
  assert single.model.multipliers == (1, 2, 4, 8) and not single.model.attention_downsamples


def test_arguments():
  assert common.parse('tiny,steps=3,data.corpus=grid/s1', ('paper', 'tiny')) == (
    'tiny',
    {'steps': 3, 'data.corpus': 'grid/s1'},
  )
  assert common.parse('steps=3', ('paper', 'tiny')) == ('paper', {'steps': 3})
  assert common.parse('tiny,a=(1,2),b=[3],c=4', ('tiny',)) == ('tiny', {'a': (1, 2), 'b': [3], 'c': 4})
  assert speech_edit.get_config('tiny,model.width=96').model.width == 96
  with pytest.raises(ValueError, match='not one of paper, tiny'):
    common.parse('tyni', ('paper', 'tiny'))
  with pytest.raises(UsageError, match='nearest: model.width'):
    speech_edit.get_config('tiny,model.widht=96')

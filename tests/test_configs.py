"""Every config and size takes a training step that fits its data; behind the marker `slow`, every stage does."""

import shutil

import jax
import ml_collections
import numpy as np
import pytest
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from configs import (
  autoencoder,
  caption_classifier,
  common,
  emo,
  fd2talk,
  joint_av,
  lip_expert,
  portrait,
  speech_edit,
  speech_encoder,
  super_resolution,
  vexpress,
  wav2lip,
)
from talkjax import systems, train
from talkjax.errors import UsageError, UserError
from talkjax.systems import joined
from talkjax.systems.sampling import make_schedule, make_table
from talkjax.training import checkpoint, input_pipeline
from talkjax.training.compile import train_patterns, training_program
from talkjax.training.state import trainable_mask
from talkjax.training.workdir import write_config
from talkjax.weights import encoders, packaged
from talkjax.weights.speech import KINDS
from tests import made_up_face
from tests.micro import ENCODER, program_from_numpy

# One example at a time and one clip: what is proven is that the size builds, fits its data and learns from it.
ONE = {'batch_size': 1, 'steps': 1, 'checkpoint_every': 1000, 'sample_every': 0}
SMALL = {'examples_per_record': 1, 'corpus': 'puppets/tiny', 'workers': 0}

# A full-size U-Net does not fit here, and a small one compiles in seconds: the same configs, narrower.
NARROW = {
  'size': 32,
  'model.widths': (32,),
  'model.attention': (True,),
  'model.layers': 1,
  'model.context': 32,
  'model.audio_tokens': 2,
  'latents.widths': (32, 32),
}
NARROW_AUDIO = {
  emo: {'model.audio_hidden': 32},
  vexpress: {
    'model.audio_features': 32,
    'model.audio_layers': 1,
    'model.audio_heads': 2,
    'model.audio_head_features': 8,
  },
}


STAGES = [(system, size, stage) for system in (emo, vexpress) for size in portrait.SIZES for stage in (1, 2, 3)]
# Those that take a step without the marker `slow`.
FAST = [(system, size, stage) for system in (emo, vexpress) for size, stage in (('paper', 2), ('small', 3))]


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
  config.data.update({**SMALL, 'align': True, 'dir': str(puppets)})
  return config


def portrait_config(system, size, stage, puppets):
  config = system.get_config(f'{size},stage={stage}')
  config.update(ONE)
  config.optimizer.warmup = 0
  config.update_from_flattened_dict(NARROW | NARROW_AUDIO[system])
  config.data.update({**SMALL, 'dir': str(puppets)})
  if size == 'paper':  # its pretrained networks are not available
    config.init_from = 'random' if stage > 1 else ''
    config.pretrained.update(dict.fromkeys(config.pretrained, 'random'))
    config.audio.update(weights='random', wav2vec2=ENCODER)
  return config


def check_step(config, frozen=('autoencoder', 'morphable', *KINDS)):
  """Traces the training step on an example of the corpus: a state goes in and one of the same shapes comes out."""
  system = systems.build(config)
  caches, _ = encoders.open_caches(config, system.encoder, system.features)
  iterator = input_pipeline.training_iterator(config.data, system.read, config.batch_size, config.seed, caches)
  program = training_program(config, system, input_pipeline.split_names(next(iterator))[0])
  state, metrics = jax.eval_shape(program.step, program.state, program.batch)
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shapes(state) == shapes(program.state)
  assert metrics['loss'].shape == ()
  # Those have indices of vertices and pictures too.
  floats = {k: x for k, x in state.params.items() if k not in ('morphable', 'corpus')}
  assert all(x.dtype == 'float32' for x in jax.tree.leaves(floats))
  learns = trainable_mask(state.params, train_patterns(config, system))
  assert any(jax.tree.leaves(learns))
  for branch in frozen:
    assert not any(jax.tree.leaves(learns.get(branch, {})))


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


@pytest.mark.parametrize('size', speech_edit.SIZES)
@pytest.mark.parametrize('width', [32, pytest.param(64, marks=pytest.mark.slow)])
def test_every_size_of_speech_edit_takes_a_step(size, width, puppets, take_step):
  """At half the width of all sizes, and behind the marker `slow` at their own."""
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


def test_wav2lip_needs_its_expert(puppets, tmp_path):
  with pytest.raises(UserError, match='^config.pretrained.wav2lip_syncnet is not set, .* --source=wav2lip_syncnet'):
    train.train(wav2lip_config('paper', puppets), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


@pytest.fixture(scope='module')
def faces(puppets, tmp_path_factory):
  """A data_dir whose tiny puppets have coefficients of a made-up morphable model."""
  folder = tmp_path_factory.mktemp('faces')
  shutil.copytree(puppets / 'puppets', folder / 'puppets')
  made_up_face.write_cache(folder)
  return folder


MOTION = [(lip_expert, size) for size in lip_expert.SIZES] + [(fd2talk, f'{size},stage=1') for size in fd2talk.SIZES]


@pytest.mark.parametrize(('system', 'arg'), MOTION, ids=lambda value: getattr(value, '__name__', value))
def test_every_size_of_motion_has_a_step(system, arg, faces):
  config = system.get_config(arg)
  config.update(ONE)
  config.update_from_flattened_dict({f'morphable.{k}': v for k, v in made_up_face.SIZES.items()})
  config.data.update({**SMALL, 'dir': str(faces), 'coefficients': 'mesh_pca'})
  if system is lip_expert:
    config.update({'batch_size': 2})
    config.data.examples_per_record = 2
  if arg.startswith('paper'):
    config.audio.update(weights='random', wav2vec2=ENCODER)
  check_step(config)


JOINT = [(system, size) for system in (joint_av, caption_classifier) for size in system.SIZES]


def joint_config(system, size, faces):
  config = system.get_config(size)
  config.update(ONE)
  if 'morphable' in config:
    config.update_from_flattened_dict({f'morphable.{k}': v for k, v in made_up_face.SIZES.items()})
  else:
    config.model.update(width=32, num_res_blocks=1, head_channels=32, multipliers=(1, 2), video_attention=(2,))
    config.model.update(cross_attention=(2,), windows=(1,))
  config.optimizer.warmup = 0
  config.data.update({**SMALL, 'dir': str(faces)})
  return config


@pytest.mark.parametrize(('system', 'size'), JOINT, ids=lambda value: getattr(value, '__name__', value))
def test_every_size_of_joint_samples_has_a_step(system, size, faces):
  check_step(joint_config(system, size, faces), (*KINDS, 'morphable', 'corpus'))


@pytest.mark.parametrize('system', [joint_av, caption_classifier], ids=lambda system: system.__name__)
def test_joint_samples_take_a_step(system, faces, tmp_path):
  config = joint_config(system, 'tiny', faces)
  config.model.update(width=16, blocks=1, heads=2)
  config.space.update(people=2, code=2)
  state = train.train(config, str(tmp_path))
  moved = jax.tree.map(lambda p, average: not np.array_equal(p, average), state.params, state.averaged)
  assert {branch for branch, tree in moved.items() if any(jax.tree.leaves(tree))} == {'network'}
  assert state.params['corpus']['portraits'].any() and state.params['corpus']['sound_std'].min() > 0  # were measured


def test_a_joined_workdir_is_kept_and_frozen(faces, tmp_path):
  captions = joint_config(caption_classifier, 'tiny', faces)
  config = joint_config(joint_av, 'tiny', faces)
  for own in (captions, config):
    own.model.update(width=16, blocks=1, heads=2)
    own.space.update(people=2, code=2)
  other = train.train(captions, str(tmp_path / 'captions')).averaged
  config.caption_classifier = str(tmp_path / 'captions')
  config.steps = 2
  kept = train.train(config, str(tmp_path / 'joint')).params['joined']['caption_classifier']
  assert jax.tree.all(jax.tree.map(np.array_equal, kept, other))
  saved, params, _ = checkpoint.load_params(tmp_path / 'joint')
  found = joined.open_joined('caption_classifier', params, saved, 'classify')
  assert found.config.system == 'caption_classifier' and found.system.classify
  config.caption_classifier = str(tmp_path / 'none')
  with pytest.raises(UserError, match='none is not a workdir'):
    train.train(config, str(tmp_path / 'other'))


def test_pixels_start_from_the_published_network(faces, tmp_path):
  config = joint_config(joint_av, 'paper', faces)
  config.model.update(multipliers=(1,), video_attention=(), cross_attention=(), windows=(), middle_window=None)
  config.space.update(frames=2, size=8, fps=25.0)
  shapes = training_program_of(config).state.params['network']
  published = {path: x for path, x in flatten_dict(shapes, sep='/').items() if 'caption' not in path}
  values = {path: np.full(x.shape, 0.25, np.float32) for path, x in published.items()}
  about = ml_collections.ConfigDict({'pretrained_network': 'mm_diffusion'})
  checkpoint.save_params(tmp_path / 'published', about, unflatten_dict(values, '/'), 0)
  config.pretrained.mm_diffusion = str(tmp_path / 'published')
  config.optimizer.learning_rate = 1e-9
  learned = flatten_dict(train.train(config, str(tmp_path / 'run')).params['network'], sep='/')
  assert all(np.allclose(learned[path], 0.25, atol=1e-6) for path in values)
  assert np.asarray(learned['caption_embed/embedding']).std() > 0  # new


def training_program_of(config):
  system = systems.build(config)
  iterator = input_pipeline.training_iterator(config.data, system.read, config.batch_size, config.seed)
  return training_program(config, system, input_pipeline.split_names(next(iterator))[0])


FRAMES = {
  **{k: v for k, v in NARROW.items() if k not in ('model.audio_tokens', 'latents.widths')},
  'model.heads': (4,),
  'first_stage.model.width': 16,
  'first_stage.model.layers': 1,
  'first_stage.model.heads': 2,
}


def frames_config(size, faces):
  config = fd2talk.get_config(f'{size},stage=3')
  config.update({**ONE, 'init_from': 'random', 'motion': 'true'})  # there is no earlier stage
  config.update_from_flattened_dict(FRAMES | {f'morphable.{k}': v for k, v in made_up_face.SIZES.items()})
  config.morphable.name = 'mesh_pca'
  if size == 'paper':
    config.latents.update(widths=(32, 32), codebook=16)
    config.audio.update(weights='random', wav2vec2=ENCODER)
  config.optimizer.warmup = 0
  config.data.update({**SMALL, 'dir': str(faces), 'coefficients': 'mesh_pca'})
  return config


@pytest.mark.parametrize('size', fd2talk.SIZES)
def test_every_size_of_frames_has_a_step(size, faces):
  check_step(frames_config(size, faces))


def test_the_frames_of_fd2talk_take_a_step(faces, tmp_path):
  state = train.train(frames_config('tiny', faces), str(tmp_path))
  assert int(state.step) == 1
  moved = jax.tree.map(lambda p, average: not np.array_equal(p, average), state.params, state.averaged)
  assert {branch for branch, tree in moved.items() if any(jax.tree.leaves(tree))} == {'frames'}


def test_frames_learned_from_predicted_motion_need_stage_1(faces, tmp_path):
  config = frames_config('tiny', faces)
  config.motion = 'predicted'
  with pytest.raises(UserError, match='^config.motion=predicted .* --config.init_from to a workdir .*motion=true'):
    train.train(config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run' / 'config.json').exists()


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


# The three stages in order are in tests/systems.
@pytest.mark.parametrize(
  ('system', 'size', 'stage'),
  [pytest.param(*case, marks=() if case in FAST else pytest.mark.slow) for case in STAGES],
  ids=lambda value: getattr(value, '__name__', value),
)
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

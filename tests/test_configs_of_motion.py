"""Every config and size that learns motion, frames from motion, or sound and picture together has a training step."""

import shutil

import jax
import ml_collections
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from configs import caption_classifier, fd2talk, joint_av, lip_expert
from talkjax import systems, train
from talkjax.errors import UserError
from talkjax.systems import joined
from talkjax.training import checkpoint, input_pipeline
from talkjax.training.compile import training_program
from talkjax.weights.speech import KINDS
from tests import made_up_face
from tests.micro import ENCODER
from tests.steps import NARROW, ONE, SMALL, check_step


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


@pytest.mark.parametrize(
  ('system', 'size'),
  [pytest.param(*case, marks=pytest.mark.slow if case[1] in ('gpu', 'puppets') else ()) for case in JOINT],
  ids=lambda value: getattr(value, '__name__', value),
)
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


@pytest.mark.slow
def test_pixels_start_from_the_published_network(faces, tmp_path):
  config = joint_config(joint_av, 'paper', faces)
  config.model.update(multipliers=(1,), video_attention=(), cross_attention=(), windows=(), middle_window=None)
  config.space.update(frames=2, size=8, fps=25.0)
  config.guidance.overlap = 1
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


@pytest.mark.slow
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

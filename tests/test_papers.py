"""docs/papers.md: every key has the value that it says in `paper`, and a training starts from what the papers name."""

import ast
import re

import jax
import pytest

from configs import caption_classifier, emo, fd2talk, joint_av, speech_edit, vexpress
from talkjax import benchmark, systems
from talkjax.training import input_pipeline
from talkjax.training.compile import train_patterns, training_program
from talkjax.training.state import trainable_mask
from talkjax.training.workdir import flatten
from tests import paper_stages
from tests.commands import ROOT
from tests.micro import ENCODER

FILES = {
  file.__name__.rpartition('.')[2]: file for file in (speech_edit, emo, vexpress, fd2talk, joint_av, caption_classifier)
}


def statements():
  """(system, argument of its config, key, value) of every `key=value` in the tables."""
  system = None
  for line in (ROOT / 'docs' / 'papers.md').read_text().splitlines():
    if line.startswith('`configs/'):
      system = line.removeprefix('`configs/').partition('.py')[0]
    cells = re.split(r'(?<!\\)\|', line)
    if len(cells) != 6 or '`' not in cells[3]:
      continue
    for sizes, keys in re.findall(r'([\w, ]+): ((?:[^;`]|`[^`]*`)*)', cells[3]):
      for key, value in re.findall(r'`([\w.]+)=([^`]*)`', keys):
        for size in sizes.replace(' ', '').split(','):
          yield system, f'paper,stage={size}' if size.isdigit() else size, key, value.replace('\\|', '|')


@pytest.mark.parametrize(('system', 'argument', 'key', 'value'), list(statements()))
def test_the_config_has_the_value(system, argument, key, value):
  assert flatten(FILES[system].get_config(argument).to_dict())[key] == ast.literal_eval(value)


def test_every_table_is_read():
  found = list(statements())
  assert {(system, argument) for system, argument, *_ in found} == {
    *(('speech_edit', size) for size in ('paper', 'grid_s1')),
    *((system, f'paper,stage={stage}') for system in ('emo', 'vexpress', 'fd2talk') for stage in (1, 2, 3)),
    ('joint_av', 'paper'),
    ('caption_classifier', 'paper'),
  }
  assert len(found) > 150


@pytest.mark.slow
@pytest.mark.parametrize('system', ['emo', 'vexpress'])
def test_a_training_starts_from_what_the_paper_says(system, puppets, tmp_path):
  """`paper`, all default keys: what each stage loads, initialises, trains and freezes, and its audio features."""
  first, second, third = paper_stages.stages(system, tmp_path, puppets)
  # Stage 1: backbone and ReferenceNet from Stable Diffusion, its autoencoder frozen, no audio (EMO 3.3, V-Express 2.3).
  assert set(first.loaded) == {('sd15', 'backbone'), ('sd15', 'reference'), ('sd_vae', 'autoencoder')}
  assert set(first.frozen) == {'autoencoder'} and {'backbone', 'reference'} <= set(first.trained)
  assert first.audio == 'none' and 'audio' not in first.trained
  # Stage 2 adds motion layers, which start from AnimateDiff, and audio from wav2vec 2.0, which is frozen.
  version = paper_stages.VERSIONS.get(system, {}).get('animatediff', 'animatediff')
  assert (version, 'backbone (motion)') in second.loaded and ('wav2vec2', 'wav2vec2') in second.loaded
  assert {'autoencoder', 'wav2vec2'} <= set(second.frozen) and 'audio' in second.fresh
  # A frame has the states of all layers in emo (3.2), two states of the last one in V-Express (2.2).
  states = ENCODER['layers'] if system == 'emo' else 2
  assert second.audio == 'wav2vec2' and second.audio_shape[-1] == states * ENCODER['width']
  # Stage 3 loads everything from stage 2 but emo's speed layers.
  assert {source for source, _ in third.loaded} <= {'stage_2', 'wav2vec2'}
  assert third.audio_shape == second.audio_shape
  if system == 'emo':
    assert set(second.frozen) == {'autoencoder', 'wav2vec2'}
    assert 'speed' in third.fresh and set(third.trained) == {'backbone (motion)', 'speed'}
  else:
    assert set(third.frozen) == {'autoencoder', 'wav2vec2'} and not third.fresh
    assert {'reference', 'guider'} <= set(second.frozen)


@pytest.mark.slow
def test_fd2talk_starts_from_what_the_paper_says(puppets, tmp_path):
  expert, first, second, third = paper_stages.stages('fd2talk', tmp_path, puppets)
  frozen = {'morphable', 'wav2vec2'}
  # The lip expert is trained on mouth vertices and sound, and frozen in stage 1 (3.4.1), which generates both motions.
  assert set(expert.frozen) == frozen and len(expert.trained) == len(expert.fresh) == 1
  assert set(first.trained) == set(first.fresh) == {'expression_transformer', 'pose_transformer'}
  assert set(first.frozen) == {'lip_expert', *frozen} and ('stage_0', 'lip_expert') in first.loaded
  # wav2vec 2.0 (3.2): the last layer's states.
  assert first.audio == 'wav2vec2' and first.audio_shape[1] == 8 and first.audio_shape[-1] % ENCODER['width'] == 0
  # Stage 2 starts from VQGAN and trains it alone; only what reads the portrait's latents is new (3.3, eq. 13).
  assert {('vqgan', 'autoencoder'), ('lpips', 'lpips')} <= set(second.loaded)
  assert set(second.fresh) == set(second.trained) == {'autoencoder'}
  assert second.fresh['autoencoder'] < second.loaded['vqgan', 'autoencoder']
  assert {'expression_transformer', 'pose_transformer', 'lpips'} <= set(second.frozen)
  # Stage 3 trains the U-Net; autoencoder and motion, whose predictions it learns from, are frozen (3.4.2).
  assert set(third.trained) == set(third.fresh) == {'frames'}
  assert set(third.frozen) == {'autoencoder', 'expression_transformer', 'pose_transformer', *frozen}
  assert {('stage_2', branch) for branch in set(third.frozen) - frozen} <= set(third.loaded)


@pytest.mark.parametrize(('system', 'audio'), [('speech_edit', 'mel'), ('joint_av', 'none')])
def test_systems_that_are_trained_from_scratch(system, audio, puppets, tmp_path):
  """Video editing 3.2; of joint_av section V.A names no weights."""
  (stage,) = paper_stages.stages(system, tmp_path, puppets)
  assert not stage.loaded and not stage.frozen and stage.trained == stage.fresh
  assert stage.audio == audio


def counts():
  """(config file's name, argument, all parameters in millions, those of each part, frozen parts) of the last table."""
  _, _, text = (ROOT / 'docs' / 'papers.md').read_text().partition('## Parameters')
  for name, argument, total, parts in re.findall(r'\| `(\w+)\.py:([^`]+)` \| ([\d.]+) \| (.*) \|', text):
    frozen = set(re.findall(r'\((\w+) ', parts))
    case = (name, argument, float(total), {k: float(v) for k, v in re.findall(r'(\w+) ([\d.]+)', parts)}, frozen)
    yield pytest.param(*case, marks=pytest.mark.slow if float(total) > 100 else ())


@pytest.mark.parametrize(('name', 'argument', 'total', 'parts', 'frozen'), list(counts()))
def test_the_parameters_are_those_of_the_table(name, argument, total, parts, frozen, puppets):
  config = FILES[name].get_config(argument)
  config.update_from_flattened_dict(
    {'data.dir': str(puppets), 'data.corpus': 'puppets/tiny', 'data.examples_per_record': 1, 'data.workers': 0}
  )
  config.batch_size = 1
  if name == 'joint_av':
    config.data.segments = 'any'  # the tiny corpus has no digits
  system = systems.build(config)
  batch, _ = input_pipeline.split_names(next(benchmark.training_input(config, system, 1)))
  params = training_program(config, system, batch).state.params
  millions = {branch: sum(x.size for x in jax.tree.leaves(p)) / 1e6 for branch, p in params.items()}
  assert {branch: round(count, 1) for branch, count in millions.items()} == parts
  assert round(sum(millions.values()), 1) == total
  trains = trainable_mask(params, train_patterns(config, system))
  assert {branch for branch, mask in trains.items() if not any(jax.tree.leaves(mask))} == frozen

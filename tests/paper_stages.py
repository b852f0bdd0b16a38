"""What a training of `paper` starts from: prints what each stage loads, what it freezes, and its audio features.

  python -m tests.paper_stages

All keys have their defaults but the workdirs of the pretrained networks, which are made up; networks and pictures are
as small as those weights. Each stage starts from the one before, as in docs/recipes.md, and the lip expert of fd2talk
is a stage before its first. The last line of a stage is the kind of audio and the shape of its features in a batch.
"""

import contextlib
import dataclasses
import pathlib
import shutil
import sys
import tempfile
from unittest import mock

import jax
import ml_collections
import numpy as np
from absl import flags

from configs import emo, fd2talk, joint_av, lip_expert, speech_edit, vexpress
from talkjax import train
from talkjax.training import checkpoint, sharding
from talkjax.training.compile import train_patterns, training_program
from talkjax.training.state import trainable_mask
from tests import commands, made_up, made_up_face
from tests.micro import ENCODER

SYSTEMS = {'speech_edit': speech_edit, 'emo': emo, 'vexpress': vexpress, 'fd2talk': fd2talk, 'joint_av': joint_av}
NETWORKS = ('sd15', 'sd_vae', 'animatediff', 'wav2vec2')
VERSIONS = {'vexpress': {'animatediff': 'animatediff_v2'}}  # its temporal layers are in the middle block too
MOTION = {'frames': 8, 'model.width': 16, 'model.layers': 1, 'model.heads': 2}
EXPERT = {'features': 8, 'width': 16, 'layers': 1}
FIRST_STAGE = {f'first_stage.{key}': value for key, value in MOTION.items()}
LATENTS = {'size': 32, 'latents.widths': (32, 32), 'latents.layers': 1, 'latents.codebook': 8}
# By stage of fd2talk, 0 for the lip expert: what makes it small.
FD2TALK = {
  0: {f'model.{key}': value for key, value in EXPERT.items()},
  1: {**MOTION, **{f'expert.{key}': value for key, value in EXPERT.items()}, 'windows.overlap': 3},
  2: {**FIRST_STAGE, **LATENTS},
  3: {
    **FIRST_STAGE, **LATENTS, 'first_stage.windows.overlap': 3, 'first_stage.sampler.steps': 1, 'model.widths': (32,),
    'model.attention': (True,), 'model.layers': 1, 'model.heads': (4,), 'model.context': 16, 'model.guider': (8, 8, 8),
  },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Stage:
  """What a stage starts with.

  Attributes:
    system: the name of the system.
    stage: 1, 2 or 3; 0 is the lip expert of fd2talk, 1 the only stage of some systems.
    loaded: by (source, branch of the parameters), how many numbers it gives.
    fresh: by branch, how many numbers are initialised.
    trained: by branch, how many numbers train.
    frozen: by branch, how many do not.
    audio: `config.audio.kind`.
    audio_shape: of the audio features of a batch, () without.
  """

  system: str
  stage: int
  loaded: dict[tuple[str, str], int]
  fresh: dict[str, int]
  trained: dict[str, int]
  frozen: dict[str, int]
  audio: str
  audio_shape: tuple[int, ...]


class Reached(Exception):
  """A training has loaded all that it starts from."""


def stages(system: str, folder: pathlib.Path, puppets: pathlib.Path) -> list[Stage]:
  """The stages of a system in order; workdirs are made in `folder`, and the corpus is in `puppets`."""
  with made_up.narrow_networks():
    if system == 'fd2talk':
      return _fd2talk(folder, puppets)
    if system in ('emo', 'vexpress'):
      return _portrait(system, folder, puppets)
    config = _on_puppets(made_up.narrow(SYSTEMS[system].get_config('paper')), puppets)
    return [_start(system, 1, config, folder / 'stage_1')]


def _on_puppets(config: ml_collections.ConfigDict, puppets: pathlib.Path) -> ml_collections.ConfigDict:
  config.data.update({'dir': str(puppets), 'corpus': 'puppets/tiny', 'workers': 0, 'examples_per_record': 1})
  config.batch_size = jax.device_count()
  return config


def _fd2talk(folder: pathlib.Path, puppets: pathlib.Path) -> list[Stage]:
  """With the coefficients of `made_up_face` in place of Deep3D's."""
  found, data = [], folder / 'datasets'
  shutil.copytree(puppets, data)
  made_up_face.write_cache(data)
  for source in ('wav2vec2', 'vqgan', 'lpips'):
    made_up.workdir(source, folder / source)
  for stage, changes in FD2TALK.items():
    config = fd2talk.get_config(f'paper,stage={stage}') if stage else lip_expert.get_config('paper')
    config.update_from_flattened_dict(changes)
    config = _on_puppets(config, data)
    if stage != 2:
      config.data.coefficients = 'mesh_pca'
    config.morphable.update(made_up_face.SIZES, name='mesh_pca')
    config.audio.update(weights=str(folder / 'wav2vec2'), wav2vec2=ENCODER)
    if stage == 1:
      config.lip_expert = str(folder / 'stage_0')
    if stage > 1:
      config.init_from = str(folder / f'stage_{stage - 1}')
    config.pretrained.update({source: str(folder / source) for source in config.pretrained})
    found.append(_start('fd2talk', stage, config, folder / f'stage_{stage}'))
  return found


def _portrait(system: str, folder: pathlib.Path, puppets: pathlib.Path) -> list[Stage]:
  """The stages of emo or vexpress."""
  found = []
  names = {source: VERSIONS.get(system, {}).get(source, source) for source in NETWORKS}
  for source, name in names.items():
    made_up.workdir(source, folder / name)
  for stage in (1, 2, 3):
    config = _on_puppets(made_up.narrow(SYSTEMS[system].get_config(f'paper,stage={stage}')), puppets)
    config.pretrained.update({source: str(folder / names[source]) for source in config.pretrained})
    if stage == 2:
      config.audio.weights = str(folder / 'wav2vec2')
    if stage > 1:
      config.init_from = str(folder / f'stage_{stage - 1}')
    found.append(_start(system, stage, config, folder / f'stage_{stage}'))
  return found


def _start(system: str, stage: int, config, workdir: pathlib.Path) -> Stage:
  """Trains until the first step would be taken, and saves what the training starts from as its workdir."""
  programs, sources = [], {}

  def record(config, of, example):
    programs.append((config, of, training_program(config, of, example)))
    return programs[-1][-1]

  def read(source, *args, **how):
    values = load_part(source, *args, **how)
    sources.update(dict.fromkeys(values, pathlib.Path(source).name))
    return values

  def load(*args):
    loaded.update(load_all(*args))
    return loaded

  loaded, load_part, load_all = {}, checkpoint.load_part, train._load
  with (
    contextlib.suppress(Reached),
    mock.patch.object(train, 'training_program', record),
    mock.patch.object(checkpoint, 'load_part', read),
    mock.patch.object(train, '_load', load),
    mock.patch.object(checkpoint, 'Checkpoints', mock.Mock(side_effect=Reached)),
  ):
    train.train(config, str(workdir))
  config, of, program = programs[-1]
  shapes = program.state.params
  params = jax.tree_util.tree_map_with_path(
    lambda path, x: loaded.get(sharding.path_name(path), np.zeros(x.shape, x.dtype)), shapes
  )
  checkpoint.save_params(workdir, config, params, 1)
  trains = jax.tree.leaves(trainable_mask(shapes, train_patterns(config, of)))
  counts = {name: {} for name in ('loaded', 'fresh', 'trained', 'frozen')}

  def count(kind, key, x):
    counts[kind][key] = counts[kind].get(key, 0) + x.size

  for (path, x), learns in zip(jax.tree_util.tree_leaves_with_path(shapes), trains):
    name = sharding.path_name(path)
    branch = name.partition('/')[0]
    if branch == 'backbone':
      branch = 'backbone (motion)' if 'motion_modules' in name else 'backbone'
    if name in loaded:
      count('loaded', (sources.get(name, branch), branch), x)  # what cached features are of has a way of its own
    else:
      count('fresh', branch, x)
    count('trained' if learns else 'frozen', branch, x)
  audio = program.batch.get('audio')
  kind = config.audio.kind if 'audio' in config else 'none'
  return Stage(system, stage, **counts, audio=kind, audio_shape=() if audio is None else audio.shape)


def describe(stage: Stage) -> str:
  """A stage in a few lines."""
  join = lambda of: ', '.join(f'{name} {count:,}' for name, count in of.items()) or 'nothing'
  loads = {f'{branch} from {source}': n for (source, branch), n in stage.loaded.items()}
  lines = [f'{stage.system}, stage {stage.stage}: numbers by branch']
  lines += [f'  {name:8} {join(of)}' for name, of in (('loads', loads), ('new', stage.fresh))]
  lines += [f'  {name:8} {join(of)}' for name, of in (('trains', stage.trained), ('freezes', stage.frozen))]
  return '\n'.join([*lines, f'  {"audio":8} {stage.audio} {list(stage.audio_shape) or ""}'])


def main() -> int:
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(['paper_stages'])  # grain reads absl flags
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    puppets = commands.build_puppets(folder / 'datasets')
    for system in SYSTEMS:
      for stage in stages(system, folder / system, puppets):
        print(describe(stage), flush=True)
  return 0


if __name__ == '__main__':
  sys.exit(main())

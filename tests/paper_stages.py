"""What a training of `paper` starts from: prints what each stage loads, what it freezes, and its audio features.

  python -m tests.paper_stages

All keys have their defaults but the workdirs of the pretrained networks, which are made up; networks and pictures are
as small as those weights. Each stage starts from the one before, as in docs/recipes.md. The last line of a stage is the
kind of audio and the shape of its features in a batch.
"""

import contextlib
import dataclasses
import pathlib
import sys
import tempfile
from unittest import mock

import jax
import numpy as np
from absl import flags

from configs import emo, vexpress
from talkjax import train
from talkjax.training import checkpoint, sharding
from talkjax.training.compile import train_patterns, training_program
from talkjax.training.state import trainable_mask
from tests import commands, made_up

SYSTEMS = {'emo': emo, 'vexpress': vexpress}
NETWORKS = ('sd15', 'sd_vae', 'animatediff', 'wav2vec2')
VERSIONS = {'vexpress': {'animatediff': 'animatediff_v2'}}  # its temporal layers are in the middle block too


@dataclasses.dataclass(frozen=True)
class Stage:
  """What a stage starts with.

  Attributes:
    system: the name of the system.
    stage: 1, 2 or 3.
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
  found = []
  names = {source: VERSIONS.get(system, {}).get(source, source) for source in NETWORKS}
  with made_up.narrow_networks():
    for source, name in names.items():
      made_up.workdir(source, folder / name)
    for stage in (1, 2, 3):
      config = made_up.narrow(SYSTEMS[system].get_config(f'paper,stage={stage}'))
      config.data.update({'dir': str(puppets), 'corpus': 'puppets/tiny'})
      config.batch_size = jax.device_count()
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
      count('loaded', (sources.get(name, 'wav2vec2'), branch), x)  # the speech encoder has a way of its own
    else:
      count('fresh', branch, x)
    count('trained' if learns else 'frozen', branch, x)
  audio = program.batch.get('audio')
  return Stage(system, stage, **counts, audio=config.audio.kind, audio_shape=() if audio is None else audio.shape)


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

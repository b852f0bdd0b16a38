"""A workdir of every system, small enough that generating with it takes a second; their weights are random."""

import dataclasses
import pathlib

import jax
import ml_collections
import numpy as np

from configs import autoencoder, joint_av, lip_expert, speech_edit, super_resolution, wav2lip
from talkjax import systems
from talkjax.systems import coefficients, joined
from talkjax.systems.joint import spaces
from talkjax.training import checkpoint
from tests import made_up_face, micro, renderer

SIZES = {f'morphable.{k}': v for k, v in made_up_face.SIZES.items()}
CHANGES = {
  speech_edit: {
    'size': 32, 'model.width': 32, 'model.multipliers': (1,), 'model.patch_size': 4, 'batch_size': 4,
    'data.examples_per_record': 4, 'sampler.steps': 1,
  },
  wav2lip: {
    'size': 32, 'model.width': 32, 'model.multipliers': (1,), 'audio.kind': 'mel', 'batch_size': 2,
    'data.examples_per_record': 2,
  },
  super_resolution: {
    'size': 32, 'crop_size': 16, 'model.width': 32, 'model.multipliers': (1,), 'batch_size': 2,
    'data.examples_per_record': 2, 'sampler.steps': 1,
  },
  autoencoder: {'size': 16, 'batch_size': 2, 'latents.widths': (8, 8)},
  lip_expert: {
    'audio.kind': 'mel', 'audio.bands': 8, 'model.features': 8, 'model.width': 16, 'model.layers': 1,
    'data.examples_per_record': 8, 'batch_size': 8, **SIZES,
  },
}  # fmt: skip


JOINT = {
  'space.frames': 8, 'space.size': 32, 'space.people': 3, 'space.code': 2, 'model.width': 16, 'model.blocks': 1,
  'model.heads': 2, 'sampler.steps': 1, 'guidance.overlap': 2, 'data.corpus': 'puppets/tiny',
  'data.examples_per_record': 2,
}  # fmt: skip

# By config file and arguments, of trainings that read the coefficients of `made_up_face`.
NEWER = {
  'fd2talk.py:tiny,stage=1': {
    'frames': 8, 'windows.overlap': 3, 'sampler.steps': 1, 'model.width': 16, 'model.layers': 1, 'model.heads': 2,
    'audio.kind': 'mel', 'audio.bands': 8, 'audio.columns': 4, 'expert.features': 8, 'expert.width': 16,
    'expert.layers': 1,
    'data.examples_per_record': 4, 'batch_size': 4, 'data.corpus': 'puppets/tiny', 'steps': 2, **SIZES,
  },
  'joint_av.py:tiny': {**JOINT, **SIZES, 'batch_size': 2, 'steps': 2},
}  # fmt: skip


def config_of(file, puppets, arguments: str = 'tiny', **changes) -> ml_collections.ConfigDict:
  made = file.get_config(arguments)
  made.update_from_flattened_dict(
    {**CHANGES.get(file, {}), 'data.corpus': 'puppets/tiny', 'data.dir': str(puppets), **changes}
  )
  return made


def make(root: pathlib.Path, puppets: pathlib.Path) -> None:
  """Writes the workdirs under a folder, by the names of their systems; that of fd2talk's renderer is `renderer`."""
  made = {
    'speech_edit': micro.setup(config_of(speech_edit, puppets)),
    'emo': micro.setup(micro.emo_config(3, puppets, **{'sampler.steps': 1})),
    'vexpress': micro.setup(micro.vexpress_config(3, puppets, **{'sampler.steps': 1})),
    'autoencoder': micro.setup(config_of(autoencoder, puppets)),
    'wav2lip': micro.setup(config_of(wav2lip, puppets)),
    'super_resolution': micro.setup(config_of(super_resolution, puppets)),
  }
  saved = {name: (each.config, each.params) for name, each in made.items()}
  drawn = renderer.make(puppets)
  checkpoint.save_params(root / 'renderer', drawn.config, drawn.params, 0)
  saved |= {
    'fd2talk': (drawn.change(**{'sampler.steps': 1, 'first_stage.sampler.steps': 1}), drawn.params),
    'lip_expert': _lip_expert(puppets),
    'joint_av': _joint_av(drawn, root / 'renderer'),
  }
  for name, (config, params) in saved.items():
    checkpoint.save_params(root / name, config, params, 0)


def _joint_av(drawn: renderer.Made, workdir: pathlib.Path):
  """With a renderer in `workdir`."""
  config = joint_av.get_config('tiny')
  sizes = {f'morphable.{k}': v for k, v in dataclasses.asdict(drawn.model.sizes).items()}
  config.update_from_flattened_dict({**JOINT, **sizes, 'data.dir': drawn.config.data.dir, 'renderer': str(workdir)})
  config = joined.with_configs(config)
  params = _params(config, drawn.records[0]) | {coefficients.BRANCH: drawn.model.arrays()}
  measured = systems.build(config).collect(drawn.records)
  corpus = {path.partition('/')[2]: value for path, value in measured.items()}
  return config, params | {spaces.CORPUS: corpus, joined.BRANCH: {'renderer': drawn.params}}


def _lip_expert(puppets: pathlib.Path):
  config = config_of(lip_expert, puppets)
  return config, _params(config, made_up_face.record()) | {coefficients.BRANCH: made_up_face.branch()}


def _params(config, record):
  system = systems.build(config)
  batch = system.read(record, np.random.default_rng(0))
  shapes = jax.eval_shape(system.init, jax.random.key(0), {k: v for k, v in batch.items() if k != 'id'})
  return micro.random_params(shapes)

"""A workdir of every system, small enough that generating with it takes a second; their weights are random."""

import dataclasses
import pathlib

import jax
import ml_collections
import numpy as np

from configs import autoencoder, fd2talk, lip_expert, speech_edit
from talkjax import systems
from talkjax.faces import landmarks, mesh_pca
from talkjax.systems import coefficients
from talkjax.training import checkpoint, input_pipeline
from tests import made_up_face, micro

CHANGES = {
  speech_edit: {
    'size': 32, 'model.width': 32, 'model.multipliers': (1,), 'model.patch_size': 4, 'batch_size': 4,
    'data.examples_per_record': 4, 'sampler.steps': 1,
  },
  autoencoder: {'size': 16, 'batch_size': 2, 'latents.widths': (8, 8)},
  fd2talk: {
    'size': 32, 'batch_size': 2, 'model.widths': (32,), 'model.attention': (True,), 'model.heads': (4,),
    'model.context': 16, 'model.guider': (8, 8, 8), 'sampler.steps': 1, 'frames_at_once': 4,
    'first_stage.model.width': 16, 'first_stage.model.layers': 1, 'first_stage.model.heads': 2,
    'first_stage.sampler.steps': 1, 'audio.kind': 'mel', 'data.examples_per_record': 2,
  },
  lip_expert: {
    'audio.kind': 'mel', 'audio.bands': 8, 'model.features': 8, 'model.width': 16, 'model.layers': 1,
    'data.examples_per_record': 8, 'batch_size': 8, **{f'morphable.{k}': v for k, v in made_up_face.SIZES.items()},
  },
}  # fmt: skip


def config_of(file, puppets, arguments: str = 'tiny', **changes) -> ml_collections.ConfigDict:
  made = file.get_config(arguments)
  made.update_from_flattened_dict({**CHANGES[file], 'data.corpus': 'puppets/tiny', 'data.dir': str(puppets), **changes})
  return made


def make(root: pathlib.Path, puppets: pathlib.Path) -> dict[str, pathlib.Path]:
  """Writes the workdirs under a folder; returns them by system."""
  made = {
    'speech_edit': micro.setup(config_of(speech_edit, puppets)),
    'emo': micro.setup(micro.emo_config(3, puppets, **{'sampler.steps': 1})),
    'vexpress': micro.setup(micro.vexpress_config(3, puppets, **{'sampler.steps': 1})),
    'autoencoder': micro.setup(config_of(autoencoder, puppets)),
  }
  saved = {name: (each.config, each.params) for name, each in made.items()}
  saved |= {'fd2talk': _fd2talk(puppets), 'lip_expert': _lip_expert(puppets)}
  for name, (config, params) in saved.items():
    checkpoint.save_params(root / name, config, params, 0)
  return {name: root / name for name in saved}


def _fd2talk(puppets: pathlib.Path):
  config = config_of(fd2talk, puppets, 'tiny,stage=3')
  records = [micro.cut(r, 9) for r in input_pipeline.eval_records(config.data, 'test', 2)]
  tracks = [landmarks.find_faces(map(r.frame, range(0, 9, 2)), r.id) for r in records]
  model = mesh_pca.fit([(str(i), t.mesh, r.size) for i, (r, t) in enumerate(zip(records, tracks))], 2, 4).model
  rows = np.repeat(mesh_pca.coefficients(model, tracks[0].mesh, records[0].size), 2, 0)[:9].astype(np.float16)
  config.update_from_flattened_dict({f'morphable.{k}': v for k, v in dataclasses.asdict(model.sizes).items()})
  record = dataclasses.replace(records[0], features={'coefficients': rows})
  return config, _params(config, record) | {coefficients.BRANCH: model.arrays()}


def _lip_expert(puppets: pathlib.Path):
  config = config_of(lip_expert, puppets)
  return config, _params(config, made_up_face.record()) | {coefficients.BRANCH: made_up_face.branch()}


def _params(config, record):
  system = systems.build(config)
  batch = system.read(record, np.random.default_rng(0))
  shapes = jax.eval_shape(system.init, jax.random.key(0), {k: v for k, v in batch.items() if k != 'id'})
  return micro.random_params(shapes)

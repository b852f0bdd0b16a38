"""Stage 3 of fd2talk at a size that a test can afford, on drawn puppets whose faces are found."""

import dataclasses
from collections.abc import Callable

import jax
import ml_collections
import numpy as np

from configs import fd2talk as config_file
from talkjax import systems
from talkjax.faces import landmarks, mesh_pca
from talkjax.systems import coefficients
from talkjax.training import input_pipeline
from tests import micro

IDENTITY, EXPRESSION = 2, 4
SMALL = {
  'size': 32,
  'framing': 0.0,
  'batch_size': 2,
  'model.widths': (32,),
  'model.attention': (True,),
  'model.heads': (4,),
  'model.context': 16,
  'model.guider': (8, 8, 8),
  'sampler.steps': 2,
  'frames_at_once': 4,
  'first_stage.model.width': 16,
  'first_stage.model.layers': 1,
  'first_stage.model.heads': 2,
  'first_stage.sampler.steps': 2,
  'audio.kind': 'mel',  # needs no feature cache
  'data.corpus': 'puppets/tiny',
  'data.examples_per_record': 2,
}


@dataclasses.dataclass(frozen=True)
class Made:
  """What tests share; `change(**changes)` is another config with the sizes of `model`."""

  records: list
  model: mesh_pca.MorphableModel
  config: ml_collections.ConfigDict
  change: Callable
  system: systems.System
  params: dict


def make(puppets) -> Made:
  """Records with coefficients, the model that was fitted to their faces, and fd2talk's stage 3 of it."""
  data = config_file.get_config('tiny,stage=3,data.corpus=puppets/tiny').data
  data.dir = str(puppets)
  records = [micro.cut(r, 9) for r in input_pipeline.eval_records(data, 'test', 2)]
  tracks = [landmarks.find_faces(map(r.frame, range(0, 9, 2)), r.id) for r in records]
  clips = [(str(i), t.mesh, r.size) for i, (r, t) in enumerate(zip(records, tracks))]
  model = mesh_pca.fit(clips, IDENTITY, EXPRESSION).model
  rows = [np.repeat(mesh_pca.coefficients(model, m, s), 2, 0)[:9].astype(np.float16) for _, m, s in clips]
  records = [dataclasses.replace(r, features={'coefficients': x}) for r, x in zip(records, rows)]

  def change(**changes):
    own = config_file.get_config('tiny,stage=3')
    sizes = {f'morphable.{k}': v for k, v in dataclasses.asdict(model.sizes).items()}
    own.update_from_flattened_dict(SMALL | sizes | {'data.dir': str(puppets)} | changes)
    return own

  config = change()
  return Made(records, model, config, change, systems.build(config), params_of(config, records, model))


def params_of(config, records, model, seed: int = 0):
  system = systems.build(config)
  batch = system.read(records[0], np.random.default_rng(0))
  shapes = jax.eval_shape(system.init, jax.random.key(0), {k: v for k, v in batch.items() if k != 'id'})
  return {**micro.random_params(shapes, seed), coefficients.BRANCH: model.arrays()}

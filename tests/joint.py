"""joint_av with random weights, on drawn puppets."""

import dataclasses
import types

import jax
import numpy as np

from configs import joint_av
from talkjax import systems
from talkjax.systems import joined
from talkjax.systems.joint import spaces
from talkjax.training import checkpoint
from tests import micro

MAN, WOMAN = joint_av.CAPTIONS
SMALL = {
  'space.frames': 8,
  'space.size': 40,
  'space.people': 3,
  'space.code': 2,
  'model.width': 16,
  'model.blocks': 1,
  'model.heads': 2,
  'sampler.steps': 3,
  'guidance.overlap': 2,
  'data.corpus': 'puppets/tiny',
  'data.examples_per_record': 2,
}
PIXELS = {
  'space.frames': 4,
  'space.size': 12,
  'space.fold_samples': 20,
  'model.width': 32,
  'model.multipliers': (1,),
  'model.video_attention': (),
  'model.cross_attention': (1,),
  'model.windows': (1,),
  'sampler.steps': 2,
  'guidance.overlap': 1,
  'data.corpus': 'puppets/tiny',
  'data.examples_per_record': 2,
}


def make(drawn, file=joint_av, workdir=None, **changes) -> types.SimpleNamespace:
  """A system of `motion` with random weights, on the records of `drawn`; `workdir` is its renderer."""
  config = file.get_config('tiny')
  sizes = {f'morphable.{k}': v for k, v in dataclasses.asdict(drawn.model.sizes).items()}
  known = {k: v for k, v in SMALL.items() if k.partition('.')[0] in config}
  config.update_from_flattened_dict(known | sizes | changes)
  config.data.dir = drawn.config.data.dir
  if workdir:
    config.renderer = str(workdir)
    config = joined.with_configs(config)
  system = systems.build(config)
  batch = system.read(drawn.records[0], np.random.default_rng(0))
  batch = {k: v for k, v in batch.items() if k != 'id'}
  params = dict(micro.random_params(jax.eval_shape(system.init, jax.random.key(0), batch)))
  params['morphable'] = drawn.model.arrays()
  measured = system.collect(drawn.records)
  params[spaces.CORPUS] = {path.partition('/')[2]: value for path, value in measured.items()}
  if workdir:
    params[joined.BRANCH] = {'renderer': checkpoint.load_params(workdir)[1]}
  return types.SimpleNamespace(config=config, system=system, params=params, batch=batch, records=drawn.records)


def make_with_renderer(drawn, folder) -> types.SimpleNamespace:
  """The same with `drawn` as its renderer, whose workdir is written into a folder."""
  checkpoint.save_params(folder / 'workdir', drawn.config, drawn.params, 1)
  return make(drawn, workdir=folder / 'workdir')


def make_pixels(folder) -> types.SimpleNamespace:
  """A system of `pixels`, on the corpora in a folder."""
  config = joint_av.get_config('pixels')
  config.update_from_flattened_dict(PIXELS)
  config.data.dir = str(folder)
  return micro.setup(config)

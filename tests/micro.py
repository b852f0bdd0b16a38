"""Portrait systems at a size that a test can afford."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from configs import emo, vexpress
from talkjax import options, pipeline, systems
from talkjax.corpora.records import Record
from talkjax.media.segments import AUDIO_RATE
from talkjax.training import input_pipeline
from talkjax.training.compile import Program, training_program
from talkjax.weights import encoders

SHARED = {
  'size': 32,
  'frames': 4,
  'batch_size': 2,
  'model.widths': (32,),
  'model.attention': (True,),
  'sampler.steps': 2,
  'audio.kind': 'mel',  # needs no feature cache
  'data.corpus': 'puppets/tiny',
  'data.examples_per_record': 1,
}
# By config file: the changes of all stages, and those of the first, which learns from single images.
CHANGES = {
  emo: ({'model.locator': (8, 8, 8), 'model.audio_hidden': 16}, {'frames': 1}),
  vexpress: (
    {'model.guider': (8, 8, 8), 'windows.frames': 4, 'windows.overlap': 1},
    {'frames': 1, 'windows.frames': 1, 'windows.overlap': 0},
  ),
}
# wav2vec 2.0 of two layers.
ENCODER = {'width': 16, 'layers': 2, 'heads': 2, 'hidden': 16, 'conv_widths': (16,) * 7, 'position_groups': 4}


def config(file, stage: int, puppets=None, **changes) -> ml_collections.ConfigDict:
  """`tiny` of a config file, smaller still, with `changes`, and the corpus in the folder `puppets`."""
  made = file.get_config(f'tiny,stage={stage}')
  always, first = CHANGES[file]
  made.update_from_flattened_dict(SHARED | always | changes | (first if stage == 1 else {}))
  if puppets:
    made.data.dir = str(puppets)
  return made


emo_config = functools.partial(config, emo)
vexpress_config = functools.partial(config, vexpress)


def random_params(shapes, seed: int = 0):
  """Parameters of these shapes, of the size of fresh ones but none of them zero. Nothing is compiled for them."""
  generator = np.random.default_rng(seed)

  def leaf(path, x):
    size = 0.05 if len(x.shape) < 2 else np.prod(x.shape[:-1]) ** -0.5
    return jnp.asarray(size * generator.standard_normal(x.shape, np.float32) + (path[-1].key == 'scale'))

  return jax.tree_util.tree_map_with_path(leaf, shapes)


def program_from_numpy(*args) -> Program:
  """`training_program`, but NumPy draws the first parameters.

  Compiling how the hundreds of layers of a portrait system are initialised takes some 20 s of processor time.
  """
  program = training_program(*args)

  def create(rng):
    del rng
    params = random_params(program.state.params)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), program.state)
    average = jax.tree.map(
      lambda a, p: None if a is None else np.array(p), zeros.ema, params, is_leaf=lambda a: a is None
    )
    return jax.device_put(zeros.replace(params=params, ema=average), program.layout)

  return dataclasses.replace(program, create=create)


def training_batch(made: ml_collections.ConfigDict, system: systems.System) -> dict[str, np.ndarray]:
  """The first training batch of a config."""
  caches, _ = encoders.open_caches(made, system.encoder, system.features)
  iterator = input_pipeline.training_iterator(made.data, system.read, made.batch_size, 0, caches)
  return input_pipeline.split_names(next(iterator))[0]


def setup(made: ml_collections.ConfigDict) -> types.SimpleNamespace:
  """What a test needs of a config: `config`, `system`, random `params`, a training `batch`, and two test `records`."""
  system = systems.build(made)
  batch = training_batch(made, system)
  params = random_params(jax.eval_shape(system.init, jax.random.key(0), batch))
  records = list(input_pipeline.eval_records(made.data, 'test', 2))
  return types.SimpleNamespace(config=made, system=system, params=params, batch=batch, records=records)


def cut(record: Record, count: int) -> Record:
  """The first `count` frames of a record, and their sound."""
  rows = {name: getattr(record, name)[:count] for name in ('frames', 'box', 'landmarks', 'pose')}
  return dataclasses.replace(record, **rows, audio=record.audio[: round(count / record.fps * AUDIO_RATE)])


def generate(system: systems.System, params, conditions, seeds) -> np.ndarray:
  """The frames of all videos of a batch, int [b, f, h, w, 3]."""
  return systems.join(system.generate(params, conditions, np.asarray(seeds, np.uint32))).frames.astype(int)


def render(made: types.SimpleNamespace, output, sweep=None, batch_size=None, seed=0, **inputs) -> dict[str, int]:
  """What `talkjax.generate` makes of these inputs, checked as it checks them: the number of frames by path."""
  declared = systems.module(made.config.system).OPTIONS
  options.check(made.config.system, declared, inputs)
  request = systems.Request(str(output), inputs, sweep, batch_size)
  return pipeline.generate(made.system, made.params, request, seed)

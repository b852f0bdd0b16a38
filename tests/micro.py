"""Systems around a portrait at a size that a test can afford."""

import functools

import jax
import ml_collections

from configs import emo, vexpress
from talkjax import systems
from talkjax.training import input_pipeline

BOTH = {
  'size': 32,
  'frames': 4,
  'batch_size': 2,
  'model.widths': (32,),
  'model.attention': (True,),
  'sampler.steps': 2,
  'data.corpus': 'puppets/tiny',
  'data.examples_per_record': 1,
}
# Of each system: what all stages have, and what the first has instead, which sees pictures one by one.
OF = {
  emo: ({'model.locator': (8, 8, 8), 'model.audio_hidden': 16}, {'frames': 1}),
  vexpress: (
    {'model.guider': (8, 8, 8), 'windows.frames': 4, 'windows.overlap': 1},
    {'frames': 1, 'windows.frames': 1, 'windows.overlap': 0},
  ),
}


def config(file, stage: int, puppets=None, **changes) -> ml_collections.ConfigDict:
  """`tiny` of a config file, smaller still, with `changes`, on the corpus in the folder `puppets`."""
  made = file.get_config(f'tiny,stage={stage}')
  always, first = OF[file]
  made.update_from_flattened_dict(BOTH | always | changes | (first if stage == 1 else {}))
  if puppets:
    made.data.dir = str(puppets)
  return made


emo_config = functools.partial(config, emo)
vexpress_config = functools.partial(config, vexpress)


def opened(made: ml_collections.ConfigDict):
  """System, parameters that are none of them zero, and a batch."""
  system = systems.build(made)
  iterator = input_pipeline.training_iterator(made.data, system.read, made.batch_size, 0)
  batch, _ = input_pipeline.split_names(next(iterator))
  leaves, tree = jax.tree.flatten(jax.jit(system.init)(jax.random.key(0), batch))
  params = [p + 0.05 * jax.random.normal(jax.random.key(i), p.shape) for i, p in enumerate(leaves)]
  return system, tree.unflatten(params), batch

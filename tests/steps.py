"""Configs at a size that a test can afford, and their training step."""

import jax

from configs import emo, vexpress
from talkjax import systems
from talkjax.training import input_pipeline
from talkjax.training.compile import train_patterns, training_program
from talkjax.training.state import trainable_mask
from talkjax.weights import encoders
from talkjax.weights.speech import KINDS
from tests.micro import ENCODER

# One example at a time and one clip: what is proven is that the size builds, fits its data and learns from it.
ONE = {'batch_size': 1, 'steps': 1, 'checkpoint_every': 1000, 'sample_every': 0}
SMALL = {'examples_per_record': 1, 'corpus': 'puppets/tiny', 'workers': 0}

# A full-size U-Net does not fit here, and a small one compiles in seconds: the same configs, narrower.
NARROW = {
  'size': 32,
  'model.widths': (32,),
  'model.attention': (True,),
  'model.layers': 1,
  'model.context': 32,
  'model.audio_tokens': 2,
  'latents.widths': (32, 32),
}
NARROW_AUDIO = {
  emo: {'model.audio_hidden': 32},
  vexpress: {
    'model.audio_features': 32,
    'model.audio_layers': 1,
    'model.audio_heads': 2,
    'model.audio_head_features': 8,
  },
}


def portrait_config(system, size, stage, puppets):
  config = system.get_config(f'{size},stage={stage}')
  config.update(ONE)
  config.optimizer.warmup = 0
  config.update_from_flattened_dict(NARROW | NARROW_AUDIO[system])
  config.data.update({**SMALL, 'dir': str(puppets)})
  config.audio.weights = ''
  if size == 'paper':  # its pretrained networks are not available
    config.init_from = 'random' if stage > 1 else ''
    config.pretrained.update(dict.fromkeys(config.pretrained, 'random'))
    config.audio.update(weights='random', wav2vec2=ENCODER)
  return config


def check_step(config, frozen=('autoencoder', 'morphable', *KINDS)):
  """Traces the training step on an example of the corpus: a state goes in and one of the same shapes comes out."""
  system = systems.build(config)
  caches, _ = encoders.open_caches(config, system.encoder, system.features)
  iterator = input_pipeline.training_iterator(config.data, system.read, config.batch_size, config.seed, caches)
  program = training_program(config, system, input_pipeline.split_names(next(iterator))[0])
  state, metrics = jax.eval_shape(program.step, program.state, program.batch)
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shapes(state) == shapes(program.state)
  assert metrics['loss'].shape == ()
  # Those have indices of vertices and pictures too.
  floats = {k: x for k, x in state.params.items() if k not in ('morphable', 'corpus')}
  assert all(x.dtype == 'float32' for x in jax.tree.leaves(floats))
  learns = trainable_mask(state.params, train_patterns(config, system))
  assert any(jax.tree.leaves(learns))
  for branch in frozen:
    assert not any(jax.tree.leaves(learns.get(branch, {})))

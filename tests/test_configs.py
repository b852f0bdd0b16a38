"""Every config, size and stage takes one step."""

import jax
import pytest

from configs import common, speech_edit
from talkjax import train
from talkjax.cli import UsageError

# One example at a time and one clip: what is proven is that the size builds, fits its data and learns from it.
ONE = {'batch_size': 1, 'steps': 1, 'checkpoint_every': 1000, 'sample_every': 0}
SMALL = {'examples_per_record': 1, 'corpus': 'puppets/tiny', 'align': True, 'workers': 0}


@pytest.mark.parametrize('size', speech_edit.SIZES)
def test_every_size_of_speech_edit_takes_a_step(size, puppets, tmp_path):
  config = speech_edit.get_config(size)
  config.update(ONE)
  config.data.update(SMALL, dir=str(puppets))
  state = train.train(config, str(tmp_path))
  assert int(state.step) == 1


def test_bfloat16_recomputed_and_accumulated(puppets, tmp_path):
  config = speech_edit.get_config('tiny,dtype=bfloat16,remat=True,optimizer.accumulate=2')
  config.update({**ONE, 'batch_size': 2, 'size': 32})
  config.data.update(SMALL, dir=str(puppets))
  state = train.train(config, str(tmp_path))
  assert all(x.dtype == 'float32' for x in jax.tree.leaves(state.params))  # the arithmetic alone is bfloat16


def test_table_1():
  paper, single = speech_edit.get_config(), speech_edit.get_config('grid_s1')
  shared = {'width': 64, 'num_res_blocks': 2, 'head_channels': 32, 'dropout': 0.2}
  for config in (paper, single):
    assert config.size == 128 and config.optimizer.learning_rate == 5e-5
    assert {k: config.model[k] for k in shared} == shared
  assert (paper.diffusion.schedule, paper.diffusion.steps, paper.model.multipliers) == ('cosine', 1000, (1, 2, 3))
  assert (single.diffusion.schedule, single.diffusion.steps) == ('linear', 2000)
  assert (single.diffusion.linear_start, single.diffusion.linear_end) == (1e-6, 0.01)
  assert single.model.multipliers == (1, 2, 4, 8) and not single.model.attention_downsamples


def test_arguments():
  assert common.parse('tiny,steps=3,data.corpus=grid/s1', ('paper', 'tiny')) == (
    'tiny',
    {'steps': 3, 'data.corpus': 'grid/s1'},
  )
  assert common.parse('steps=3', ('paper', 'tiny')) == ('paper', {'steps': 3})
  assert speech_edit.get_config('tiny,model.width=96').model.width == 96
  with pytest.raises(ValueError, match='not one of paper, tiny'):
    common.parse('tyni', ('paper', 'tiny'))
  with pytest.raises(UsageError, match='nearest: model.width'):
    speech_edit.get_config('tiny,model.widht=96')

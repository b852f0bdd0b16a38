"""The noise schedule and the sampler that a config names."""

import ml_collections
import numpy as np
import pytest

from talkjax.errors import UserError
from talkjax.systems.sampling import check_sampler, make_schedule, make_table


def make_config(**changes):
  config = ml_collections.ConfigDict(
    {
      'diffusion': {'schedule': 'linear', 'steps': 100, 'start': 1e-4, 'end': 0.02, 'zero_snr': False},
      'sampler': {'name': 'ddim', 'steps': 5, 'eta': 0.0, 'spacing': 'leading'},
    }
  )
  config.update_from_flattened_dict(changes)
  return config


@pytest.mark.parametrize('name', ['ddim', 'ddpm', 'dpm++', 'palette'])
def test_a_table_has_a_row_per_step_of_decreasing_noise(name):
  config = make_config(**{'sampler.name': name})
  table = make_table(config)
  assert len(table) == 5 and (np.diff(table.signal_scale) > 0).all()
  # Palette's schedule is a shorter one, the others' are steps of the schedule of training.
  known = np.sqrt(make_schedule(config.diffusion).alpha_bar)
  assert all(np.isclose(known, scale).any() for scale in table.signal_scale) == (name != 'palette')


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'sampler.name': 'euler'}, "sampler 'euler' is not one of ddim, palette"),
    ({'sampler.steps': 0}, 'sampler ddim cannot take 0 steps: expected 1 to 100'),
    ({'sampler.steps': 101}, 'sampler ddim cannot take 101 steps: expected 1 to 100'),
  ],
)
def test_samplers_that_a_system_does_not_support(changes, sentence):
  with pytest.raises(UserError, match=sentence):
    check_sampler(make_config(**changes), ('ddim', 'palette'))


def test_palette_may_take_more_steps_than_training_has():
  config = make_config(**{'sampler.name': 'palette', 'sampler.steps': 101})
  check_sampler(config, ('ddim', 'palette'))
  assert len(make_table(config)) == 101


def test_unknown_schedules_and_spacings():
  with pytest.raises(UserError, match='config.diffusion.schedule: .*cosin'):
    make_schedule(make_config(**{'diffusion.schedule': 'cosin'}).diffusion)
  with pytest.raises(UserError, match='sampler ddim cannot take 5 steps: .*spacing'):
    make_table(make_config(**{'sampler.spacing': 'even'}))

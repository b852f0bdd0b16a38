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
  known = np.sqrt(make_schedule(config.diffusion).alpha_bar)
  assert all(np.isclose(known, scale).any() for scale in table.signal_scale)


@pytest.mark.parametrize('steps', [7, 100, 150])
@pytest.mark.parametrize('schedule', ['linear', 'scaled_linear', 'cosine', 'warmup10', 'const', 'log_snr'])
@pytest.mark.parametrize('zero_snr', [False, True])
def test_palette_covers_the_noise_levels_of_training(schedule, steps, zero_snr):
  ends = {'diffusion.start': 4.0, 'diffusion.end': -8.0} if schedule == 'log_snr' else {}
  config = make_config(
    **{'sampler.name': 'palette', 'sampler.steps': steps, 'diffusion.schedule': schedule, **ends},
    **{'diffusion.zero_snr': zero_snr},
  )
  table, trained = make_table(config), make_schedule(config.diffusion)
  assert len(table) == steps
  np.testing.assert_allclose(table.signal_scale[0], np.sqrt(trained.alpha_bar[-1]), atol=0.01)


def test_palette_with_scaled_ends():
  """As in SR3 and Palette: a quarter of the steps has betas some four times as large."""
  config = make_config(**{'sampler.name': 'palette', 'sampler.steps': 500, 'diffusion.steps': 2000})
  config.diffusion.update(start=1e-6, end=0.01)
  alpha_bar = make_table(config).alpha_bar[::-1]
  betas = 1 - alpha_bar / np.append(1.0, alpha_bar[:-1])
  np.testing.assert_allclose(betas[50:], np.linspace(4e-6, 0.04, 500)[50:], rtol=0.02)


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

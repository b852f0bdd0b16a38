"""Noise schedules against their formulas, and spacings against published lists."""

import math

import jax
import numpy as np
import pytest

from talkjax.diffusion import schedules


def test_linear_is_equal_steps():
  schedule = schedules.linear(5, 0.1, 0.5)
  np.testing.assert_allclose(schedule.betas, [0.1, 0.2, 0.3, 0.4, 0.5])
  np.testing.assert_allclose(schedule.alpha_bar[2], 0.9 * 0.8 * 0.7)


def test_linear_scaled_by_reference_steps_ends_in_like_noise():
  short, long = schedules.linear(250, reference_steps=1000), schedules.linear(1000)
  np.testing.assert_allclose(short.betas[-1], 0.08)
  assert math.log(short.alpha_bar[-1]) == pytest.approx(math.log(long.alpha_bar[-1]), rel=0.05)


def test_scaled_linear_is_equal_steps_of_roots():
  schedule = schedules.scaled_linear(3, 0.01, 0.09)
  np.testing.assert_allclose(schedule.betas, [0.01, 0.04, 0.09])


def test_cosine_follows_its_curve_until_the_cap():
  steps = 50
  schedule = schedules.cosine(steps)
  curve = lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
  want = [curve((i + 1) / steps) / curve(0) for i in range(steps - 1)]
  np.testing.assert_allclose(schedule.alpha_bar[:-1], want, rtol=1e-9)
  assert schedule.betas[-1] == 0.999


def test_the_other_published_schedules():
  np.testing.assert_allclose(schedules.make('jsd', 8).alpha_bar, 1 - np.arange(1, 9) / 8, atol=1e-12)
  assert set(schedules.make('const', 4).betas) == {1e-2}
  warm = schedules.make('warmup10', 40).betas
  np.testing.assert_allclose(warm[:4], np.linspace(1e-6, 1e-2, 4))
  assert set(warm[4:]) == {1e-2}
  np.testing.assert_allclose(schedules.make('warmup50', 4, 0.0, 0.2).betas, [0, 0.2, 0.2, 0.2])
  np.testing.assert_allclose(schedules.make('quad', 3, 0.01, 0.09).betas, [0.01, 0.04, 0.09])


def test_unknown_names_are_named():
  with pytest.raises(ValueError, match='coseno.*linear'):
    schedules.make('coseno', 10)
  with pytest.raises(ValueError, match='sideways'):
    schedules.spaced('sideways', 10, 2)
  with pytest.raises(ValueError, match='11'):
    schedules.spaced('leading', 10, 11)


@pytest.mark.parametrize('name', ['linear', 'scaled_linear', 'cosine'])
def test_zero_terminal_snr_keeps_the_first_level_and_loses_the_last(name):
  schedule = schedules.make(name, 100)
  zero = schedules.zero_terminal_snr(schedule)
  assert zero.alpha_bar[-1] == 0 and zero.betas[-1] == 1
  assert zero.alpha_bar[0] == pytest.approx(schedule.alpha_bar[0])
  np.testing.assert_allclose(np.cumprod(1 - zero.betas), zero.alpha_bar, atol=1e-12)
  # sqrt(alpha_bar) moved by a straight line: equal ratios of differences.
  before, after = np.diff(np.sqrt(schedule.alpha_bar)), np.diff(np.sqrt(zero.alpha_bar))
  np.testing.assert_allclose(after / before, after[0] / before[0], rtol=1e-6)


def test_levels_keep_their_digits_where_there_is_hardly_noise():
  schedule = schedules.linear(2000, 1e-6, 0.01)
  level = schedules.level_at(schedule, np.array([0, 1]))
  want = [math.sqrt(1e-6), math.sqrt(1 - (1 - 1e-6) * (1 - schedule.betas[1]))]
  np.testing.assert_allclose(level.noise_scale, want, rtol=1e-6)


def test_continuous_levels_lie_uniformly_between_neighbours():
  schedule = schedules.from_betas([0.2, 0.5, 0.5])  # alpha_bar 0.8, 0.4, 0.2
  level = jax.jit(lambda key: schedules.continuous_level(key, schedule, 20_000))(jax.random.key(0))
  gamma = np.asarray(level.alpha_bar)
  assert gamma.min() >= 0.2 and gamma.max() <= 0.8
  assert np.mean(gamma > 0.4) == pytest.approx(0.5, abs=0.02)  # each interval as likely
  assert gamma[gamma > 0.4].mean() == pytest.approx(0.6, abs=0.01)
  assert gamma[gamma < 0.4].mean() == pytest.approx(0.3, abs=0.01)
  np.testing.assert_allclose(level.signal_scale**2 + level.noise_scale**2, 1, atol=1e-6)
  np.testing.assert_allclose(level.signal_scale**2, gamma, rtol=1e-5)


def test_uniform_levels_visit_every_timestep():
  schedule = schedules.linear(4)
  level = schedules.uniform_level(jax.random.key(1), schedule, 4000)
  counts = np.bincount(np.asarray(level.timestep).astype(int), minlength=4)
  assert counts.sum() == 4000 and counts.min() > 900


def test_spacings_are_those_of_diffusers():
  assert list(schedules.spaced('leading', 1000, 6, offset=1)) == [831, 665, 499, 333, 167, 1]
  assert list(schedules.spaced('trailing', 1000, 6)) == [999, 832, 666, 499, 332, 166]
  assert list(schedules.spaced('linspace', 1000, 4)) == [999, 666, 333, 0]
  assert list(schedules.spaced('leading', 1000, 6, offset=1, multistep=True)) == [853, 711, 569, 427, 285, 143]
  assert list(schedules.spaced('linspace', 1000, 3, multistep=True)) == [999, 666, 333]


def test_sections_of_guided_diffusion():
  assert list(schedules.sections('', 4)) == [0, 1, 2, 3]
  assert list(schedules.sections('ddim5', 1000)) == [0, 200, 400, 600, 800]
  assert list(schedules.sections('2,3', 10)) == [0, 4, 5, 7, 9]
  assert list(schedules.sections('1,2', 5)) == [0, 3, 4]  # the first part takes the odd one out
  with pytest.raises(ValueError, match='999'):
    schedules.sections('ddim999', 1000)
  with pytest.raises(ValueError, match='part 1'):
    schedules.sections('6,2', 10)


def test_respacing_keeps_levels_and_timesteps():
  schedule = schedules.linear(100)
  short = schedules.respace(schedule, [0, 40, 99])
  np.testing.assert_array_equal(short.timesteps, [0, 40, 99])
  np.testing.assert_allclose(short.alpha_bar, schedule.alpha_bar[[0, 40, 99]])
  np.testing.assert_allclose(np.cumprod(1 - short.betas), short.alpha_bar)


def test_posterior_is_gaussian_conditioning():
  schedule = schedules.from_betas([0.1, 0.3, 0.6])
  tables = schedules.posterior(schedule)
  # q(x_1 | x_0) = N(sqrt(a) x_0, 1 - a) as prior, q(x_2 | x_1) = N(sqrt(1 - b) x_1, b) as likelihood: precisions add.
  a, b = 0.9 * 0.7, 0.6
  precision = 1 / (1 - a) + (1 - b) / b
  assert tables.variance[2] == pytest.approx(1 / precision)
  assert tables.x0_scale[2] == pytest.approx(math.sqrt(a) / (1 - a) / precision)
  assert tables.x_scale[2] == pytest.approx(math.sqrt(1 - b) / b / precision)
  assert tables.variance[0] == 0 and tables.log_variance[0] == pytest.approx(math.log(1e-20))
  assert schedules.posterior(schedule, first='next').log_variance[0] == pytest.approx(math.log(tables.variance[1]))


def test_log_snr_falls_in_equal_steps():
  schedule = schedules.make('log_snr', 9, 4.0, -8.0)
  ratio = schedule.alpha_bar / (1 - schedule.alpha_bar)
  np.testing.assert_allclose(np.log(ratio), np.linspace(4, -8, 9), atol=1e-12)
  np.testing.assert_allclose(np.cumprod(1 - schedule.betas), schedule.alpha_bar, atol=1e-15)

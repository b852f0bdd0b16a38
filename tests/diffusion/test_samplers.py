"""Samplers on data whose best denoiser is known, and the promises of the scan.

Data N(0, s^2): the best guess is E[x0 | x] = s^2 sqrt(a) x / (a s^2 + 1 - a), and along the probability-flow path x is
in proportion to sqrt(a s^2 + 1 - a).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax.diffusion import samplers, schedules, targets

SPREAD = 0.5
LINEAR = schedules.linear(1000)


def gaussian(target):
  """The best denoiser of N(0, SPREAD^2), in whichever target."""

  def denoise(x, level):
    a = level.alpha_bar
    x0 = SPREAD**2 * jnp.sqrt(a) * x / (a * SPREAD**2 + 1 - a)
    return targets.from_x0(target, x0, x, level)

  return denoise


def keyed(shape, seed=0):
  return lambda step: jax.random.normal(jax.random.fold_in(jax.random.key(seed), step), shape)


def drawn(steps, shape, seed=0):
  """Noise drawn beforehand: what `keyed` compiles is slow to compile."""
  numbers = np.random.default_rng(seed).standard_normal((steps, *shape)).astype(np.float32)
  return lambda step: jnp.asarray(numbers)[step]


TABLES = {
  'ddpm': samplers.ddpm(LINEAR, 250, spacing='trailing'),
  'ddpm_large': samplers.ddpm(LINEAR, 250, variance='fixed_large'),
  'palette': samplers.palette(schedules.cosine(250)),
  'ddim': samplers.ddim(LINEAR, 100, spacing='trailing'),
  'ddim_eta': samplers.ddim(LINEAR, 250, eta=1.0),
  'dpm': samplers.dpm_solver_pp_2m(LINEAR, 100),
  'dpm_heun': samplers.dpm_solver_pp_2m(LINEAR, 100, solver='heun'),
}


@pytest.mark.parametrize('target', targets.TARGETS)
@pytest.mark.parametrize('name', TABLES)
def test_reaches_the_variance_of_the_data(name, target):
  shape = (20_000, 1)
  start = jax.random.normal(jax.random.key(7), shape)
  done = jax.jit(lambda x: samplers.sample(gaussian(target), x, TABLES[name], keyed(shape), target=target))(start)
  assert np.std(done) == pytest.approx(SPREAD, rel=0.04)
  assert abs(np.mean(done)) < 0.02


@pytest.mark.parametrize('solver', ['midpoint', 'heun'])
def test_orders_of_convergence(solver):
  schedule = schedules.linear(100_000, reference_steps=1000)
  last = schedule.alpha_bar[0]
  log_snr = np.log(schedule.alpha_bar / (1 - schedule.alpha_bar))

  def error(steps, make, **how):
    # Timesteps even in log-SNR, where the solvers are analysed, down to the schedule's first entry.
    even = np.linspace(log_snr[-1], log_snr[0], steps + 1)[:-1]
    entries = np.searchsorted(-log_snr, -even)
    table = make(schedule, entries, **how)
    a = schedule.alpha_bar[entries[0]]
    exact = math.sqrt((last * SPREAD**2 + 1 - last) / (a * SPREAD**2 + 1 - a))
    done = samplers.sample(gaussian('x0'), jnp.ones((1, 1)), table, target='x0')
    return abs(float(done[0, 0]) / exact - 1)

  dpm = [error(n, samplers.dpm_solver_pp_2m, final='sigma_min', solver=solver) for n in (20, 40)]
  ddim = [error(n, samplers.ddim, final_alpha_bar=last) for n in (20, 40)]
  assert dpm[1] < 0.35 * dpm[0]  # second order: a quarter
  assert 0.4 * ddim[0] < ddim[1] < 0.65 * ddim[0]  # first order: a half
  assert dpm[1] < 0.2 * ddim[1]


def test_ddim_without_eta_is_deterministic():
  table = samplers.ddim(LINEAR, 10)
  start = jax.random.normal(jax.random.key(0), (2, 3))

  def never(step):
    raise AssertionError('noise was drawn')

  once = samplers.sample(gaussian('epsilon'), start, table, never)
  np.testing.assert_array_equal(once, samplers.sample(gaussian('epsilon'), start, table))


def test_noise_must_be_given_where_it_is_used():
  with pytest.raises(ValueError, match='noise'):
    samplers.sample(gaussian('epsilon'), jnp.ones((1, 1)), samplers.ddpm(LINEAR, 3))


def test_one_scan_calls_the_network_once_whatever_the_steps():
  calls = []

  def denoise(x, level):
    calls.append(1)
    return x

  for steps in (3, 100):
    calls.clear()
    table = samplers.ddim(LINEAR, steps)
    program = jax.make_jaxpr(lambda x, t=table: samplers.sample(denoise, x, t))(jnp.ones((2, 3)))
    assert len(calls) == 1
    assert [e.primitive.name for e in program.eqns].count('scan') == 1


def test_the_level_is_what_the_network_was_trained_with():
  table = samplers.ddim(LINEAR, 4, spacing='trailing')
  assert list(table.timestep) == [999, 749, 499, 249]
  np.testing.assert_allclose(table.alpha_bar, LINEAR.alpha_bar[[999, 749, 499, 249]], rtol=1e-6)
  seen = lambda x, level: jnp.full_like(x, level.timestep)
  _, steps = samplers.sample(seen, jnp.ones((1, 1)), table, target='x0', trajectory=True)
  np.testing.assert_array_equal(steps.x0[:, 0, 0], [999, 749, 499, 249])


def test_modalities_are_sampled_as_if_alone():
  table = samplers.ddpm(LINEAR, 5)
  sample = jax.jit(samplers.sample, static_argnums=(0, 3), static_argnames=('clip',))
  shapes = {'video': (2, 3, 4, 4, 3), 'audio': (2, 16)}
  noises = {name: drawn(6, shape) for name, shape in shapes.items()}
  x = {name: noise(5) for name, noise in noises.items()}
  noise = lambda step: {name: noise(step) for name, noise in noises.items()}
  denoise = lambda tree, level: jax.tree.map(lambda a: gaussian('epsilon')(a, level), tree)
  together = sample(denoise, x, table, noise, clip=1.0)
  for name in shapes:
    alone = sample(gaussian('epsilon'), x[name], table, noises[name], clip=1.0)
    np.testing.assert_allclose(together[name], alone, rtol=1e-5, atol=1e-6)


def test_known_pixels_stay_clean_from_start_to_end():
  clean, mask = jnp.full((1, 4, 4, 1), 0.25), jnp.zeros((1, 4, 4, 1)).at[:, 2:].set(1.0)
  paste = lambda x: mask * x + (1 - mask) * clean

  def denoise(x, level):
    # An output that is NaN unless the network is shown clean pixels.
    return jnp.where(jnp.all(x[:, :2] == 0.25), 0.1 * x, jnp.nan)

  shape = clean.shape
  done, steps = samplers.sample(
    denoise,
    drawn(1, shape)(0),
    samplers.palette(schedules.cosine(6)),
    drawn(6, shape),
    constrain=paste,
    trajectory=True,
  )
  assert np.isfinite(done).all()
  np.testing.assert_array_equal(steps.x[:, :, :2], np.broadcast_to(0.25, (6, 1, 2, 4, 1)))
  assert np.std(done[:, 2:]) > 0


def test_clip_bounds_x0_and_epsilon_follows_where_asked():
  big = lambda x, level: 3 * jnp.ones_like(x)
  start = jnp.full((1, 1), 0.5)
  table = samplers.ddim(LINEAR, [500])
  _, steps = samplers.sample(big, start, table, target='x0', clip=1.0, trajectory=True)
  assert steps.x0[0, 0, 0] == 1
  a, b = LINEAR.alpha_bar[500], LINEAR.alpha_bar[200]
  for follows, x0 in ((True, 1.0), (False, 3.0)):
    table = samplers.ddim(LINEAR, [500, 200], epsilon_from_clipped=follows)
    _, steps = samplers.sample(big, start, table, target='x0', clip=1.0, trajectory=True)
    epsilon = (0.5 - math.sqrt(a) * x0) / math.sqrt(1 - a)
    assert steps.x[0, 0, 0] == pytest.approx(math.sqrt(b) + math.sqrt(1 - b) * epsilon, rel=1e-5)
  half = samplers.sample(big, start, samplers.ddim(LINEAR, [500]), target='x0', clip=lambda x0: x0 / 2)
  assert half[0, 0] == pytest.approx(1.5)


@pytest.mark.parametrize(('spread', 'variance'), [(-1.0, 'fixed_small'), (1.0, 'fixed_large')])
def test_learned_variance_spans_the_fixed_ones(spread, variance):
  shape = (2, 4, 3)
  start, noise = drawn(1, shape, seed=1)(0), drawn(10, shape)

  def learned(x, level):
    return jnp.concatenate([0.3 * x, jnp.full_like(x, spread)], -1)

  table = samplers.ddpm(LINEAR, 10, variance='learned_range')
  got = samplers.sample(learned, start, table, noise)
  want = samplers.sample(lambda x, level: 0.3 * x, start, samplers.ddpm(LINEAR, 10, variance=variance), noise)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  # A sampler that has no use for the learned variance leaves it.
  ddim = samplers.ddim(LINEAR, 10)
  alone = samplers.sample(lambda x, level: 0.3 * x, start, ddim)
  np.testing.assert_array_equal(samplers.sample(learned, start, ddim), alone)
  with pytest.raises(ValueError, match='twice the channels'):
    samplers.sample(lambda x, level: x, start, table, noise)


def test_a_row_is_a_single_step():
  schedule = schedules.cosine(100)
  table = samplers.palette(schedule)
  x, z = jnp.full((1, 1), 0.7), jnp.full((1, 1), -0.4)
  t = 50
  row = table.rows([99 - t])
  after, steps = samplers.sample(lambda x, level: 0.2 * x, x, row, lambda step: z, clip=1.0, trajectory=True)
  posterior = schedules.posterior(schedule)
  a = schedule.alpha_bar[t]
  x0 = np.clip((0.7 - math.sqrt(1 - a) * 0.14) / math.sqrt(a), -1, 1)
  mean = posterior.x0_scale[t] * x0 + posterior.x_scale[t] * 0.7
  assert steps.mean[0, 0, 0] == pytest.approx(mean, rel=1e-5)
  assert row.log_variance[0] == pytest.approx(posterior.log_variance[t], rel=1e-6)
  assert after[0, 0] == pytest.approx(mean - 0.4 * math.exp(0.5 * posterior.log_variance[t]), rel=1e-5)


@pytest.mark.parametrize('target', ['x0', 'velocity'])
def test_zero_terminal_snr_starts_from_pure_noise(target):
  schedule = schedules.zero_terminal_snr(schedules.scaled_linear(1000))
  shape = (20_000, 1)
  for table in (
    samplers.ddim(schedule, 250, spacing='trailing'),
    samplers.ddpm(schedule, 250, spacing='trailing'),
    samplers.dpm_solver_pp_2m(schedule, 250),
  ):
    assert table.alpha_bar[0] == 0
    columns = [f.name for f in dataclasses.fields(table) if f.type == 'Any' or f.name.startswith('x')]
    assert all(np.isfinite(getattr(table, name)).all() for name in columns)
    done = samplers.sample(gaussian(target), keyed(shape)(999), table, keyed(shape), target=target)
    assert np.std(done) == pytest.approx(SPREAD, rel=0.05)
  with pytest.raises(ValueError, match='velocity'):
    samplers.sample(gaussian('epsilon'), jnp.ones((1, 1)), table)


def test_a_half_precision_network_leaves_x_in_float32():
  denoise = lambda x, level: (0.3 * x).astype(jnp.bfloat16)
  done, steps = samplers.sample(denoise, jnp.ones((2, 3)), samplers.dpm_solver_pp_2m(LINEAR, 5), trajectory=True)
  assert done.dtype == steps.x.dtype == jnp.float32


def test_tables_are_arguments_not_recompilations():
  traces = []

  @jax.jit
  def run(x, table):
    traces.append(1)
    return samplers.sample(gaussian('epsilon'), x, table)

  for schedule in (LINEAR, schedules.scaled_linear(1000)):
    run(jnp.ones((1, 1)), samplers.ddim(schedule, 7))
  assert len(traces) == 1


def test_a_video_does_not_depend_on_its_batch():
  table = samplers.ddpm(LINEAR, 4)

  def frame(seeds):
    def noise(step):
      keys = jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s), step))(seeds)
      return jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys)

    return samplers.sample(gaussian('epsilon'), noise(4), table, noise)

  np.testing.assert_allclose(frame(jnp.array([5, 6, 7]))[1], frame(jnp.array([6]))[0], rtol=1e-6)


def test_wrong_steps_are_named():
  for make in (samplers.ddpm, samplers.ddim, samplers.dpm_solver_pp_2m):
    with pytest.raises(ValueError, match='1001'):
      make(LINEAR, 1001)
    with pytest.raises(ValueError, match='noisiest first'):
      make(LINEAR, [10, 20])
    with pytest.raises(ValueError, match='999'):
      make(LINEAR, [1000, 20])
  with pytest.raises(ValueError, match='fixed_tiny'):
    samplers.ddpm(LINEAR, 10, variance='fixed_tiny')

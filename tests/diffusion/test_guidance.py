"""Guidance: its formulas, what it costs, and that it samples the conditional distribution where that is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax.diffusion import guidance, samplers, schedules, targets

LINEAR = schedules.linear(1000)
ROW = samplers.ddim(LINEAR, [500]).rows(0)


def constant(value):
  return lambda x, level: jnp.full_like(x, value)


def never(x, level):
  raise AssertionError('this denoiser must not be called')


def test_classifier_free_extrapolates():
  guided = guidance.classifier_free(constant(2.0), constant(-1.0), 3.5)
  np.testing.assert_allclose(guided(jnp.zeros((1, 2)), ROW), -1 + 3.5 * 3)
  each = guidance.classifier_free(constant(2.0), constant(-1.0), jnp.array([0.0, 1.0, 2.0]))
  np.testing.assert_allclose(each(jnp.zeros((3, 1)), ROW), [[-1.0], [2.0], [5.0]])


def test_classifier_free_costs_nothing_at_scale_one():
  x = jnp.zeros((1, 2))
  np.testing.assert_allclose(guidance.classifier_free(constant(2.0), never, 1.0)(x, ROW), 2)
  np.testing.assert_allclose(guidance.classifier_free(never, constant(-1.0), 0)(x, ROW), -1)
  shapes = []

  def network(x, level, condition):
    shapes.append(x.shape)
    return x + condition

  guidance.classifier_free_batched(network, jnp.ones((3, 2)), jnp.zeros((3, 2)), 1)(jnp.zeros((3, 2)), ROW)
  guidance.classifier_free_batched(network, jnp.ones((3, 2)), jnp.zeros((3, 2)), 2.0)(jnp.zeros((3, 2)), ROW)
  assert shapes == [(3, 2), (6, 2)]


def test_batched_is_the_same_as_two_calls():
  keys = jax.random.split(jax.random.key(0), 3)
  x = {'video': jax.random.normal(keys[0], (2, 4, 3)), 'audio': jax.random.normal(keys[1], (2, 5))}
  condition = {'text': jax.random.normal(keys[2], (2, 1))}
  null = jax.tree.map(jnp.zeros_like, condition)

  def network(x, level, c):
    return {'video': x['video'] * c['text'][..., None], 'audio': jnp.sin(x['audio']) + c['text']}

  batched = guidance.classifier_free_batched(network, condition, null, 2.5)(x, ROW)
  calls = guidance.classifier_free(lambda x, l: network(x, l, condition), lambda x, l: network(x, l, null), 2.5)(x, ROW)
  for name in x:
    np.testing.assert_allclose(batched[name], calls[name], rtol=1e-5, atol=1e-6)


def test_learned_variance_is_not_guided():
  conditional = lambda x, level: jnp.concatenate([2 * jnp.ones_like(x), 0.5 * jnp.ones_like(x)], -1)
  unconditional = lambda x, level: jnp.concatenate([jnp.ones_like(x), -0.5 * jnp.ones_like(x)], -1)
  out = guidance.classifier_free(conditional, unconditional, 3.0)(jnp.zeros((1, 2)), ROW)
  np.testing.assert_allclose(out, [[4, 4, 0.5, 0.5]])


# Data N(0, 1) and a measurement y = x0 + N(0, r^2): x0 | y is N(y / (1 + r^2), r^2 / (1 + r^2)), and since
# x0 | x_t is N(sqrt(a) x_t, 1 - a), the classifier's gradient is sqrt(a) (y - sqrt(a) x_t) / (1 - a + r^2).
MEASURED, ERROR = 1.5, 0.8
MEAN, VARIANCE = MEASURED / (1 + ERROR**2), ERROR**2 / (1 + ERROR**2)


def unit_gaussian(target):
  return lambda x, level: targets.from_x0(target, level.signal_scale * x, x, level)


def measurement(x, level):
  a = level.alpha_bar
  return jnp.sqrt(a) * (MEASURED - jnp.sqrt(a) * x) / (1 - a + ERROR**2)


@pytest.mark.parametrize('target', targets.TARGETS)
@pytest.mark.parametrize(
  ('wrap', 'table'),
  [
    (guidance.classifier_score, samplers.ddim(LINEAR, 100, spacing='trailing')),
    (guidance.classifier_score, samplers.dpm_solver_pp_2m(LINEAR, 25)),
    (guidance.classifier_mean, samplers.ddpm(LINEAR, 500)),
  ],
)
def test_classifier_guidance_samples_the_conditional(wrap, table, target):
  shape = (10_000, 1)
  noise = lambda step: jax.random.normal(jax.random.fold_in(jax.random.key(3), step), shape)
  denoise = wrap(unit_gaussian(target), measurement, target=target)
  done = jax.jit(lambda x: samplers.sample(denoise, x, table, noise, target=target))(noise(9999))
  assert np.mean(done) == pytest.approx(MEAN, abs=0.04)
  assert np.var(done) == pytest.approx(VARIANCE, rel=0.08)


def test_replacement_shows_the_network_the_known_part_as_noisy_as_the_rest():
  known, mask = {'a': jnp.full((1, 3), 2.0)}, {'a': jnp.array([[0.0, 1.0, 1.0]])}
  seen = {}

  def denoise(x, level):
    seen.update(x)
    return x

  noise = lambda level: {'a': jnp.full((1, 3), -1.0)}
  guidance.replacement(denoise, known, mask, noise)({'a': jnp.full((1, 3), 7.0)}, ROW)
  expected = 2 * float(ROW.signal_scale) - float(ROW.noise_scale)
  np.testing.assert_allclose(seen['a'], [[expected, 7, 7]], rtol=1e-6)


@pytest.mark.parametrize('target', targets.TARGETS)
def test_reconstruction_moves_the_generated_part_against_the_error(target):
  # x0(x) = x W: the error on the known entry 0 has the gradient 2 (x0 - known)_0 W[:, 0].
  weights = jnp.array([[0.5, 0.1], [0.3, 0.9]])
  x, known, mask = jnp.array([[1.0, -2.0]]), jnp.array([[0.7, 99.0]]), jnp.array([[0.0, 1.0]])
  denoise = lambda x, level: targets.from_x0(target, x @ weights, x, level)
  guided = guidance.reconstruction(denoise, known, mask, 3.0, target=target)
  x0 = np.asarray(x @ weights)
  slope = 2 * (x0[0, 0] - 0.7) * np.asarray(weights)[:, 0]
  want = x0 - [[0, 3.0 * float(ROW.signal_scale) / 2 * slope[1]]]
  got = targets.to_x0(target, guided(x, ROW), x, ROW)
  np.testing.assert_allclose(got, want, rtol=1e-4)


def test_reconstruction_takes_another_loss():
  denoise = unit_gaussian('x0')
  loss = lambda x0, level: 5.0 * jnp.sum(x0)
  guided = guidance.reconstruction(denoise, None, jnp.ones((1, 2)), 1.0, target='x0', loss=loss)
  s = float(ROW.signal_scale)
  np.testing.assert_allclose(guided(jnp.zeros((1, 2)), ROW), np.full((1, 2), -s / 2 * 5 * s), rtol=1e-5)


# Two modalities of one number each, jointly normal with correlation RHO: x0 given both is linear in x, and the video
# given the sound SOUND is normal with mean RHO * SOUND.
RHO, SOUND = 0.9, 1.5


def joint_gaussian(x, level):
  both = jnp.concatenate([x['video'], x['audio']], axis=-1)
  covariance = jnp.array([[1.0, RHO], [RHO, 1.0]])
  s, n = level.signal_scale, level.noise_scale
  x0 = both @ jnp.linalg.solve(s**2 * covariance + n**2 * jnp.eye(2), s * covariance)
  return {'video': x0[:, :1], 'audio': x0[:, 1:]}


@pytest.mark.parametrize('table', [samplers.ddpm(LINEAR, 100), samplers.ddim(LINEAR, 100, spacing='trailing')])
def test_replacement_and_correction_bring_the_video_to_the_given_sound(table):
  shape = (10_000, 1)
  known = {'video': jnp.zeros(shape), 'audio': jnp.full(shape, SOUND)}
  mask = {'video': 1.0, 'audio': 0.0}

  def normal(key):
    keys = jax.random.split(key)
    return {'video': jax.random.normal(keys[0], shape), 'audio': jax.random.normal(keys[1], shape)}

  fresh = lambda step: normal(jax.random.fold_in(jax.random.key(1), step))
  at_level = lambda level: normal(jax.random.fold_in(jax.random.key(2), level.timestep.astype(jnp.int32)))
  corrected = guidance.correction(joint_gaussian, known, mask, 5.0, target='x0')
  means, deviations = [], []
  for denoise in (
    joint_gaussian,
    guidance.replacement(joint_gaussian, known, mask, at_level),
    guidance.replacement(corrected, known, mask, at_level),
  ):
    done = jax.jit(lambda x, d=denoise: samplers.sample(d, x, table, fresh, target='x0'))(fresh(999))['video']
    means.append(float(done.mean()))
    deviations.append(float(done.std()))
  none, replaced, both = (abs(mean - RHO * SOUND) for mean in means)
  assert both < 0.8 * replaced < 0.6 * none, means
  assert deviations[2] < deviations[1] < deviations[0] <= 1.05


@pytest.mark.parametrize('target', targets.TARGETS)
@pytest.mark.parametrize('table', [samplers.ddpm(LINEAR, 10), samplers.ddim(LINEAR, 10)])
def test_correction_moves_the_step_by_the_gradient_of_its_error(table, target):
  row = table.rows(slice(4, 5))
  x = {'video': jnp.array([[0.3, -1.0]]), 'audio': jnp.array([[0.8]])}
  weights = jnp.array([[0.5], [-0.7]])

  def denoise(x, level):
    x0 = {'video': jnp.sin(x['video']), 'audio': x['video'] @ weights + 0.2 * x['audio']}
    return targets.from_x0(target, x0, x, level)

  known, mask, noise = {'video': 0 * x['video'], 'audio': jnp.array([[0.1]])}, {'video': 1.0, 'audio': 0.0}, None
  if 'noise' in table.terms:
    noise = lambda step: jax.tree.map(jnp.ones_like, x)
  step = lambda denoise, x: samplers.sample(denoise, x, row, noise, target=target)

  def error(x):  # of the sound after the step, against the step from the known sound
    right = lambda x, level: targets.from_x0(target, {**known, 'audio': known['audio']}, x, level)
    wanted = jax.lax.stop_gradient(step(right, x)['audio'])
    return jnp.sum(jnp.square(step(denoise, {**x, 'audio': jax.lax.stop_gradient(x['audio'])})['audio'] - wanted))

  gradient = jax.grad(error)(x)['video']
  guided = step(guidance.correction(denoise, known, mask, 3.0, target=target), x)
  np.testing.assert_allclose(guided['video'], step(denoise, x)['video'] - 3.0 * gradient, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(guided['audio'], step(denoise, x)['audio'], rtol=1e-4, atol=1e-5)

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from talkjax.errors import UserError
from talkjax.training import state

ADAM = ml_collections.ConfigDict(
  {
    'learning_rate': 0.1,
    'schedule': 'constant',
    'warmup': 0,
    'b1': 0.9,
    'b2': 0.999,
    'eps': 1e-8,
    'weight_decay': 0.0,
    'clip': 0.0,
    'accumulate': 1,
  }
)
ALL = (('.*', True),)


def init(rng, batch):
  del rng, batch
  return {'a': {'kernel': jnp.array([1.0, -2.0])}, 'b': {'kernel': jnp.array([0.5, 3.0])}}


def loss(params, batch, rng, train):
  del rng, train
  prediction = batch['x'] @ (params['a']['kernel'] * params['b']['kernel'])
  return jnp.mean((prediction - batch['y']) ** 2), {}


@pytest.fixture
def batch():
  generator = np.random.default_rng(0)
  x = generator.normal(size=(8, 2)).astype(np.float32)
  return {'x': jnp.asarray(x), 'y': jnp.asarray(x.sum(1))}


def run(batch, patterns=ALL, steps=3, ema=0.5, accumulate=1, optimizer=ADAM):
  optimizer = state.make_optimizer(optimizer, 100)
  current = state.create(init, optimizer, patterns, jax.random.key(0), batch)
  step = jax.jit(state.make_step(loss, optimizer, patterns, ema=ema, accumulate=accumulate, seed=0))
  history = []
  for _ in range(steps):
    current, metrics = step(current, batch)
    history.append(float(metrics['loss']))
  return current, history


def test_adam_step_is_the_textbook_one(batch):
  w = np.array([1.0, -2.0]) * np.array([0.5, 3.0])
  x, y = np.asarray(batch['x'], np.float64), np.asarray(batch['y'], np.float64)
  gradient_w = 2 * x.T @ (x @ w - y) / len(y)
  gradient_a = gradient_w * np.array([0.5, 3.0])
  # Adam's first step: m / (sqrt(v) + eps) with both bias-corrected, so the gradient's sign times the rate.
  expected = np.array([1.0, -2.0]) - 0.1 * gradient_a / (np.abs(gradient_a) + 1e-8)
  after, history = run(batch, steps=1)
  np.testing.assert_allclose(after.params['a']['kernel'], expected, rtol=1e-5)
  np.testing.assert_allclose(history[0], np.mean((x @ w - y) ** 2), rtol=1e-5)


def test_frozen_leaves_do_not_move_and_carry_no_optimiser_state(batch):
  optimizer = state.make_optimizer(ADAM, 100)
  patterns = (('^a/', False), ('.*', True))
  before = state.create(init, optimizer, patterns, jax.random.key(0), batch)
  after, _ = run(batch, patterns)
  np.testing.assert_array_equal(before.params['a']['kernel'], after.params['a']['kernel'])
  assert not np.array_equal(before.params['b']['kernel'], after.params['b']['kernel'])
  moments = [x for x in jax.tree.leaves(before.opt_state) if x.shape == (2,)]
  assert len(moments) == 2  # Adam's two, of b alone


def test_frozen_leaves_have_no_average_of_their_own(batch):
  after, _ = run(batch, (('^a/', False), ('.*', True)))
  assert [x.shape for x in jax.tree.leaves(after.ema)] == [(2,)]
  averaged = after.averaged
  np.testing.assert_array_equal(averaged['a']['kernel'], after.params['a']['kernel'])
  np.testing.assert_array_equal(averaged['b']['kernel'], after.ema['b']['kernel'])
  assert not np.array_equal(averaged['b']['kernel'], after.params['b']['kernel'])


def test_accumulated_gradients_are_those_of_the_whole_batch(batch):
  whole, history = run(batch)
  parts, other = run(batch, accumulate=4)
  np.testing.assert_allclose(history, other, rtol=1e-5)
  np.testing.assert_allclose(whole.params['a']['kernel'], parts.params['a']['kernel'], rtol=1e-5)


def test_ema_follows_its_warmed_up_decay(batch):
  after_one, _ = run(batch, steps=1, ema=0.99)
  start = np.array([1.0, -2.0])
  new = np.asarray(after_one.params['a']['kernel'])
  np.testing.assert_allclose(after_one.ema['a']['kernel'], 0.1 * start + 0.9 * new, rtol=1e-5)


def test_patterns_that_name_nothing_fail_with_what_there_is():
  params = init(None, None)
  with pytest.raises(UserError, match=r"'unte' names no parameter.*a/kernel"):
    state.trainable_mask(params, (('unte', True),))
  with pytest.raises(UserError, match='freezes every parameter'):
    state.trainable_mask(params, (('.*', False),))


def test_each_part_learns_at_its_own_rate(batch):
  rates = (('a/kernel', 0.25), ('.*', True))
  plain, slow = (run(batch, steps=1, patterns=p)[0].params for p in ((('.*', True),), rates))
  start = init(None, None)
  moved = lambda params: jax.tree.map(lambda new, old: np.asarray(new) - np.asarray(old), params, start)
  np.testing.assert_allclose(moved(slow)['a']['kernel'], 0.25 * moved(plain)['a']['kernel'], rtol=1e-5)
  with pytest.raises(UserError, match="'a/kernel' has -1: expected True, False, or a factor"):
    state.learning_rate_multipliers(start, (('a/kernel', -1),))


def test_learning_rate_warms_up_and_decays():
  settings = ml_collections.ConfigDict({'learning_rate': 1.0, 'warmup': 10, 'schedule': 'cosine'})
  rate = state.learning_rate(settings, 110)
  np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(60), rate(110)], [0, 0.5, 1, 0.5, 0], atol=1e-6)
  settings.schedule = 'sawtooth'
  with pytest.raises(UserError, match='sawtooth'):
    state.learning_rate(settings, 10)

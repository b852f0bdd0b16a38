"""The joint noisy classifier of captions: what it sees, learns and is scored by."""

import jax
import numpy as np
import optax
import pytest

from configs import caption_classifier
from talkjax.metrics.suites import Clip, Context
from talkjax.systems.caption_classifier import model
from tests import renderer
from tests.systems import test_joint_av as joint


@pytest.fixture(scope='module')
def made(puppets):
  return joint.make(renderer.make(puppets), caption_classifier)


def test_it_learns_to_tell_two_clips_apart(made):
  examples = [made.system.read(r, np.random.default_rng(i)) for i, r in enumerate(made.records)]
  batch = {k: np.concatenate([e[k] for e in examples]) for k in examples[0] if k != 'id'}
  batch['caption'] = np.array([0, 0, 1, 1], np.int32)
  frozen = {k: v for k, v in made.params.items() if k != 'network'}
  optimizer = optax.adam(3e-3)

  @jax.jit
  def step(network, state, key):
    loss = lambda network: made.system.loss({**frozen, 'network': network}, batch, key, True)
    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(network)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(network, updates), state, value, metrics

  network = made.params['network']
  state, values = optimizer.init(network), []
  for i in range(60):
    network, state, value, metrics = step(network, state, jax.random.key(i))
    values.append(float(value))
  assert np.mean(values[-10:]) < 0.6 * np.mean(values[:10])
  # Clips without a caption do not count.
  nothing = {**batch, 'caption': np.full(4, 2, np.int32)}
  assert float(made.system.loss(made.params, nothing, jax.random.key(0), True)[0]) == 0


def test_its_gradient_reaches_sound_and_picture(made):
  generator = np.random.default_rng(0)
  x = {'video': generator.standard_normal((2, 8, 12)), 'audio': generator.standard_normal((2, 8, 1, 160))}
  x = jax.tree.map(lambda a: a.astype(np.float32), x)
  timesteps = np.full(2, 500.0, np.float32)
  gradient = jax.grad(lambda x: made.system.classify(made.params, x, timesteps)[0, 1])(x)
  assert all(np.abs(g[0]).max() > 0 and not np.abs(g[1]).max() for g in gradient.values())


def test_accuracy_is_measured_at_every_level(made):
  truths, own = made.system.predict(made.params, made.records)
  _, other = made.system.predict(made.params, made.records, made.records[::-1])
  assert own[0].curves['right'].shape == (model.LEVELS,)
  score = model.ACCURACY.start(Context())
  clip = Clip(made.records[0], made.records[1], truths[0], own[0], other[0])
  values = score(clip)
  assert set(values) == set(model.ACCURACY.scores) and all(0 <= v <= 1 for v in values.values())

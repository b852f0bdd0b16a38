"""Stage 1 of FD2Talk: what it reads, its losses, its sampler, and motion of any length."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import fd2talk as config_file
from talkjax import systems, train
from talkjax.diffusion import windows
from talkjax.diffusion.noise import keyed_normal
from talkjax.errors import UserError
from talkjax.systems import coefficients
from talkjax.systems.fd2talk import motion, motion_generation
from talkjax.systems.sampling import make_schedule
from talkjax.training import checkpoint
from tests import made_up_face
from tests.commands import call
from tests.micro import random_params


def micro(**changes):
  config = config_file.get_config('tiny,stage=1')
  config.update_from_flattened_dict(
    {
      **{'frames': 8, 'windows.overlap': 3, 'windows.batch_size': 4, 'sampler.steps': 3},
      **{'sampler.eta': 1.0, 'temperature.expression': 1.0},
      **{'model.width': 16, 'model.layers': 1, 'model.heads': 2, 'audio.kind': 'mel', 'audio.bands': 4},
      **{'expert.features': 8, 'expert.width': 16, 'expert.layers': 1},
      **{'data.examples_per_record': 4, 'batch_size': 4, 'data.corpus': 'puppets/tiny'},
      **{f'morphable.{k}': v for k, v in made_up_face.SIZES.items()},
      **changes,
    }
  )
  return config


def parameters(system, batch):
  params = random_params(jax.eval_shape(system.init, jax.random.key(0), batch))
  return params | {'morphable': made_up_face.branch()}


@pytest.fixture(scope='module')
def made():
  """(config, system, batch, params, sampler)."""
  config = micro()
  system = systems.build(config)
  batch = system.read(made_up_face.record(), np.random.default_rng(0))
  batch = {k: v for k, v in batch.items() if k != 'id'}
  return config, system, batch, parameters(system, batch), motion_generation.make_sampler(config)


def voices(*lengths):
  r = np.random.default_rng(3)
  return [r.normal(size=(n, 8)).astype(np.float32) for n in lengths]


def test_clips_have_the_coefficients_and_the_sound_of_the_same_frames(made):
  config, system, batch, *_ = made
  record = made_up_face.record()
  rows, sound = coefficients.rows_of(record, config), motion.make_audio(config).of_record(record)
  assert batch['coefficients'].shape == (4, 8, 13) and batch['audio'].shape == (4, 8, 8)
  starts = set()
  for clip, audio in zip(batch['coefficients'], batch['audio']):
    (start,) = [i for i in range(33) if np.array_equal(rows[i : i + 8], clip)]
    np.testing.assert_array_equal(audio, sound[start : start + 8])
    starts.add(start)
  assert len(starts) > 1
  with pytest.raises(UserError, match='clip a has 6 frames, fewer than the 8 that an example needs'):
    system.read(made_up_face.record(6), np.random.default_rng(0))


def test_the_total_is_that_of_eq_12(made):
  config, system, batch, params, _ = made
  value, terms = system.loss(params, batch, jax.random.key(1), True)
  np.testing.assert_allclose(value, terms['expression'] + terms['pose'] + config.loss.sync * terms['sync'], rtol=1e-5)
  weighted = systems.build(micro(**{'loss.expression': 2.0, 'loss.pose': 0.5, 'loss.sync': 3.0}))
  value, terms = weighted.loss(params, batch, jax.random.key(1), True)
  np.testing.assert_allclose(value, 2 * terms['expression'] + 0.5 * terms['pose'] + 3 * terms['sync'], rtol=1e-5)
  without = systems.build(micro(**{'loss.sync': 0.0}))
  assert 'lip_expert' not in without.frozen and without.load == ()
  assert 'sync' not in without.loss(params, batch, jax.random.key(1), True)[1]


def test_the_synchronisation_loss_is_that_of_eq_10_and_11(made):
  config, _, batch, params, _ = made
  model, expert = coefficients.model_of(params, config), motion.make_expert(config)
  alpha, beta = jnp.ones((4, 1, 3)), jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 4)), jnp.float32)
  found = motion.synchrony(params, model, expert, alpha, beta, batch['audio'])
  assert found.shape == (4, 4)
  physical = np.asarray(beta) * model.row_std[3:7] + model.row_mean[3:7]
  mouth = coefficients.mouth_motion(model, np.ones((4, 1, 3)), physical)
  for b in range(4):
    for i in range(4):
      sound = batch['audio'][b : b + 1, i : i + 5].astype(np.float32)
      v, a = expert.apply({'params': params['lip_expert']}, mouth[b : b + 1, i : i + 5], sound)
      v, a = np.asarray(v[0]), np.asarray(a[0])
      expected = v @ a / max(np.linalg.norm(v) * np.linalg.norm(a), 1e-8)
      np.testing.assert_allclose(found[b, i], max(expected, 1e-3), rtol=1e-3, atol=1e-5)


def test_what_each_loss_trains(made):
  """L_sync trains the expression transformer alone; the expert is only differentiated through."""
  _, system, batch, params, _ = made

  def gradient(term):
    learn = {part: params[part] for part in motion.PARTS}
    loss = lambda p: system.loss(params | p, batch, jax.random.key(1), True)[1][term]
    return {part: float(sum(jnp.abs(x).sum() for x in jax.tree.leaves(g))) for part, g in jax.grad(loss)(learn).items()}

  for term, part in (('expression', motion.EXPRESSION), ('pose', motion.POSE), ('sync', motion.EXPRESSION)):
    found = gradient(term)
    assert found[part] > 0 and sum(found.values()) == found[part]
  assert set(system.frozen) == {'morphable', 'lip_expert'}


def test_a_step_is_eq_5_with_its_root_over_both_terms(made):
  config, _, _, _, sampler = made
  schedule = make_schedule(config.diffusion)
  steps = sampler.table.timestep.astype(int)
  alpha_bar = schedule.alpha_bar[steps]
  r = np.random.default_rng(5)
  x, clean = r.normal(size=(2, 6, 10)).astype(np.float32)
  seeds, frames = np.full(6, 3, np.uint32), np.arange(6, dtype=np.uint32)
  for i, previous in enumerate([*alpha_bar[1:], 1.0]):
    now = alpha_bar[i]
    sigma = np.sqrt((1 - previous) / (1 - now) * (1 - now / previous))  # of the posterior: eta is 1
    assert config.sampler.eta == 1
    noise = np.asarray(keyed_normal(seeds, frames, i, (10,)))
    direction = np.sqrt(np.maximum(1 - previous - sigma**2, 0)) / np.sqrt(1 - now) * (x - np.sqrt(now) * clean)
    expected = np.sqrt(previous) * clean + direction + sigma * noise
    found = sampler.step(clean, x, seeds, frames, sampler.table.rows(np.array([i])), i)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_motion_of_any_length_from_programs_of_the_same_shape(made):
  config, _, _, params, _ = made
  sampler = motion_generation.make_sampler(config)
  for length in (30, 31, 45, 3):
    (rows,) = motion_generation.generate_motion(params, voices(length), [0], sampler=sampler)
    assert rows.shape == (length, 10) and rows.dtype == np.float32 and np.isfinite(rows).all()
  # 4 windows at once, and 1 for the voice that is shorter than a window. Steps of 32, 48 and 8 frames.
  assert sampler.predict._cache_size() == 2 and sampler.step._cache_size() == 3


def test_a_video_depends_on_its_seed_alone(made):
  _, _, _, params, sampler = made
  a, b = voices(20, 11)
  generate = lambda features, seeds, **how: motion_generation.generate_motion(
    params, features, seeds, sampler=sampler, **how
  )
  together = generate([a, b], [5, 6])
  np.testing.assert_allclose(generate([a], [5])[0], together[0], atol=1e-5)
  np.testing.assert_allclose(generate([b], [6])[0], together[1], atol=1e-5)
  np.testing.assert_array_equal(generate([a], [5])[0], generate([a], [5])[0])
  assert np.abs(generate([a], [6])[0] - together[0]).max() > 1e-2
  # A pose that is not predicted leaves the expression as it is.
  np.testing.assert_allclose(generate([a], [5], pose=False)[0], together[0][:, :4], atol=1e-5)


def test_temperature_scales_the_noise_of_a_part(made):
  sampler = motion_generation.make_sampler(micro(**{'temperature.expression': 0.0}))
  features = voices(11) * 2
  a, b = motion_generation.generate_motion(made[3], features, [5, 6], sampler=sampler)
  np.testing.assert_allclose(a[:, :4], b[:, :4], atol=1e-5)
  assert np.abs(a[:, 4:] - b[:, 4:]).max() > 1e-2
  warm = motion_generation.make_sampler(micro(**{'temperature.pose': 2.0}))
  noise = [
    np.asarray(s.noise(np.zeros((3, 10), np.float32), np.zeros(3, np.uint32), np.arange(3), 0)) for s in (sampler, warm)
  ]
  np.testing.assert_allclose(noise[1][:, 4:], 2 * noise[0][:, 4:], rtol=1e-6)


def test_expression_counts_as_much_as_it_moves_the_face(made):
  config, _, batch, params, _ = made
  model = made_up_face.model()
  energy = np.square(model.expression * model.row_std[3:7]).sum((0, 1))
  np.testing.assert_allclose(coefficients.energies(model), energy / energy.mean(), rtol=1e-5)
  system = systems.build(micro(**{'loss.sync': 0.0, 'loss.pose': 0.0}))
  still = params | {motion.EXPRESSION: jax.tree.map(jnp.zeros_like, params[motion.EXPRESSION])}
  rows = model.normalise(batch['coefficients'].astype(np.float32))[..., 3:7]
  # A network that predicts 0 has the weighted square of the coefficients as its loss.
  value, _ = system.loss(still, batch, jax.random.key(0), True)
  np.testing.assert_allclose(value, (np.square(rows).mean((0, 1)) * energy).sum() / energy.sum(), rtol=1e-3)


def test_windows_are_averaged_at_every_step(made):
  """Two windows with one step: the mean of what each predicts from the same noise."""
  config = micro(**{'sampler.steps': 1})
  params, sampler = made[3], motion_generation.make_sampler(config)
  (audio,) = voices(13)
  (found,) = motion_generation.generate_motion(params, [audio], [9], sampler=sampler)
  frames = np.arange(13, dtype=np.uint32)
  x = np.asarray(keyed_normal(np.full(13, 9, np.uint32), frames, 1, (10,)))
  plan = windows.plan([13], 8, 3)
  level = jax.tree.map(jnp.asarray, sampler.table.rows(0))
  clean = [
    np.concatenate(
      [
        motion.predict(params, part, jnp.asarray(x[None, index, columns]), level.timestep, audio[None, index], config)
        for part, columns in ((motion.EXPRESSION, slice(0, 4)), (motion.POSE, slice(4, 10)))
      ],
      axis=-1,
    )[0]
    for index in plan.frames
  ]
  np.testing.assert_allclose(found, windows.merge(np.stack(clean), plan.frames, 13), atol=1e-4)


def test_motion_becomes_physical(made):
  model = made_up_face.model()
  rows = np.ones((5, 10), np.float32)
  np.testing.assert_allclose(motion_generation.physical(model, rows)[0], np.r_[np.ones(4), 0.3 * np.ones(6)], atol=1e-6)
  assert motion_generation.physical(model, rows[:, :4]).shape == (5, 4)


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'windows.overlap': 8}, 'config.windows.overlap=8 must be at least 0 and less than config.frames=8'),
    ({'frames': 4}, 'config.frames=4 is fewer than the 5 frames of the lip expert'),
    ({'stage': 7}, 'config.stage=7 is not one of 1, 2, 3'),
    ({'sampler.name': 'dpm++'}, 'sampler .* is not one of ddim, ddpm'),
  ],
)
def test_configs_that_contradict_themselves(changes, sentence):
  with pytest.raises(UserError, match=sentence):
    systems.build(micro(**changes))


def test_a_missing_lip_expert_is_an_error():
  config = micro()
  sentence = '^config.lip_expert is not set, .* `python -m talkjax.train --config=configs/lip_expert.py --workdir=DIR`'
  with pytest.raises(UserError, match=sentence):
    train.check_sources(config, systems.build(config))
  for changes in ({'loss.sync': 0.0}, {'lip_expert': 'random'}):
    config = micro(**changes)
    train.check_sources(config, systems.build(config))


def test_trains_with_its_lip_expert_and_is_scored(puppets, tmp_path):
  shutil.copytree(puppets / 'puppets', tmp_path / 'data/puppets')
  made_up_face.write_cache(tmp_path / 'data')
  data = f'data.corpus=puppets/tiny,data.dir={tmp_path}/data,audio.kind=mel,audio.bands=4,log_every=1,steps=2'
  expert = f'configs/lip_expert.py:tiny,{data},audio.columns=2,model.features=8,model.width=16,model.layers=1'
  call('talkjax.train', f'--config={expert}', f'--workdir={tmp_path}/expert')
  small = 'model.width=16,model.layers=1,expert.features=8,expert.width=16,expert.layers=1,batch_size=8,sampler.steps=2'
  config = f'--config=configs/fd2talk.py:tiny,stage=1,{data},{small}'
  call('talkjax.train', config, f'--config.lip_expert={tmp_path}/expert', f'--workdir={tmp_path}/run')
  call('talkjax.evaluate', f'--workdir={tmp_path}/run', '--split=test', '--limit=2', f'--output={tmp_path}/scores.json')
  scores = json.loads((tmp_path / 'scores.json').read_text())
  assert {'pearson_opening', 'pearson_opening_other_speech', 'diversity', 'diversity_truth'} < scores.keys()
  # A lip expert that was trained on coefficients of another morphable model is of no use.
  about, params, _ = checkpoint.load_params(tmp_path / 'expert')
  params['morphable']['mean'] = params['morphable']['mean'] + 1
  checkpoint.save_params(tmp_path / 'other', about, params, 0)
  done = call('talkjax.train', config, f'--config.lip_expert={tmp_path}/other', f'--workdir={tmp_path}/b', check=False)
  assert done.returncode == 1 and 'was trained on features of another morphable than those of this run' in done.stderr
  assert not (tmp_path / 'b').exists()

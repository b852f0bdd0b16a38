import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import speech_edit as configs
from talkjax import systems
from talkjax.diffusion import schedules
from talkjax.errors import UserError
from talkjax.media import mel, picture
from talkjax.systems.audio import AudioFeatures, Sound
from talkjax.systems.speech_edit import conditions, data, generation, model
from talkjax.training import input_pipeline
from tests.micro import generate, random_params


@pytest.fixture(scope='module')
def config(puppets):
  c = configs.get_config('tiny')
  c.size = 32
  c.model.update(width=32, multipliers=(1,), patch_size=4)
  c.sampler.steps = 2
  c.audio.kind = 'mel'  # needs no feature cache
  c.data.update(corpus='puppets/tiny', dir=str(puppets))
  return c


@pytest.fixture(scope='module')
def clips(config):
  return list(input_pipeline.eval_records(config.data, 'test', 2))


@pytest.fixture(scope='module')
def system(config):
  return systems.build(config)


@pytest.fixture(scope='module')
def batch(system, clips):
  example = system.read(clips[0], np.random.default_rng(0))
  return {k: jnp.asarray(v) for k, v in example.items() if k != 'id'}


@pytest.fixture(scope='module')
def params(system, batch):
  # Not the zero-initialised ones: those ignore most of their input.
  return random_params(jax.eval_shape(system.init, jax.random.key(0), batch))


def test_an_example_has_the_frames_drawn_for_it(config, clips):
  plain = config.copy_and_resolve_references()
  plain.augment.update(warp=0.0, noise=0.0)
  example = systems.build(plain).read(clips[0], np.random.default_rng(3))
  (truth,) = conditions.from_records(clips[:1], config=plain).truth
  truth = np.stack(truth.frames)
  numbers = np.random.default_rng(3).integers(0, len(clips[0].frames), plain.data.examples_per_record)
  np.testing.assert_array_equal(example['target'], truth[numbers])
  np.testing.assert_array_equal(example['previous'], picture.to_float(truth[np.maximum(numbers - 1, 0)]))
  assert example['target'].dtype == example['identity'].dtype == np.uint8
  np.testing.assert_array_equal(example['identity'], np.stack([truth[0]] * len(numbers)))
  assert set(np.unique(example['mask'])) <= {0.0, 1.0} and 0.1 < example['mask'].mean() < 0.7


def test_the_features_of_a_frame_are_120_ms_around_it_at_any_frame_rate():
  waveform = np.random.default_rng(0).standard_normal(10 * 640).astype(np.float32)
  columns = mel.log_mel(waveform, 10).T
  settings = ml_collections.ConfigDict({'offset': 0.0, 'scale': 1.0})
  at_25 = data.spectrogram(Sound(waveform, 10, 25.0), settings).reshape(10, 4, 256)
  np.testing.assert_array_equal(at_25[3], columns[4:8])  # rows [2f - 2, 2f + 2)
  at_50 = data.spectrogram(Sound(waveform, 20, 50.0), settings).reshape(20, 4, 256)
  np.testing.assert_array_equal(at_50[6], at_25[3])
  np.testing.assert_array_equal(at_25[0], np.concatenate([np.full((2, 256), mel.SILENCE_DB), columns[:2]]))


def test_augmentation_stays_near_the_image_and_repeats(clips):
  image = clips[0].frame(0)
  settings = ml_collections.ConfigDict({'warp': 0.02, 'noise': 0.1})
  one, two = (data.augment(image, np.random.default_rng(5), settings) for _ in range(2))
  np.testing.assert_array_equal(one, two)
  assert 0 < np.abs(one - picture.to_float(image)).mean() < 0.2 and np.abs(one).max() <= 1
  none = ml_collections.ConfigDict({'warp': 0.0, 'noise': 0.0})
  np.testing.assert_array_equal(data.augment(image, np.random.default_rng(5), none), picture.to_float(image))


def test_the_loss_is_eq_5_inside_the_mask_only(batch):
  schedule = schedules.make('cosine', 1000)

  def predict(params, y_t, level, condition, **how):
    # Off by 0.5 inside the mask and by far more outside.
    gamma = level.alpha_bar[:, None, None, None]
    noise = (y_t - jnp.sqrt(gamma) * condition['target']) / jnp.sqrt(1 - gamma)
    return noise + 0.5 + 100 * (1 - condition['mask'])

  value, _ = model.loss({}, batch, jax.random.key(0), True, predict=predict, schedule=schedule, target='epsilon')
  np.testing.assert_allclose(value, 0.25, rtol=1e-3)


def test_noise_is_added_inside_the_mask_only(batch):
  inputs = []

  def predict(params, y_t, level, condition, **how):
    inputs.append(y_t)
    return y_t

  model.loss({}, batch, jax.random.key(0), True, predict=predict, schedule=schedules.make('cosine', 50), target='x0')
  target = picture.to_float(batch['target'])
  outside = np.asarray(1 - batch['mask']) * np.abs(np.asarray(inputs[0] - target))
  assert outside.max() == 0
  assert np.abs(np.asarray(batch['mask'] * (inputs[0] - target))).mean() > 0.01


def test_the_loss_depends_on_every_condition(system, params, batch):
  batch = {k: x.astype(jnp.float32) for k, x in batch.items()}
  gradient = jax.jit(jax.grad(lambda b: system.loss(params, b, jax.random.key(0), True)[0]))(batch)
  for name in ('previous', 'identity', 'audio'):
    assert float(jnp.abs(gradient[name]).sum()) > 0, name


def video(system, params, clips, seeds, **how):
  return generate(system, params, system.from_records(clips, num_frames=4, **how).conditions, seeds)


@pytest.mark.parametrize(
  ('fps', 'expected'),
  [(25.0, [0, 0, 1, 2, 3]), (50.0, [0, 0, 0, 1, 2]), (30.0, [0, 0, 1, 2, 3]), (10.0, [0, 0, 1, 2, 3])],
)
def test_the_previous_frame_is_as_far_away_as_in_training(fps, expected):
  """40 ms, as near as the frame rate allows; the first frame has its own, as it was filmed."""
  seen = []

  def step(params, frame, previous, identity, seeds, number):
    seen.append(int(previous[0, 0, 0, 0]))
    return jnp.full((1, 2, 2, 3), number)

  frames = [{'clean': np.zeros((1, 2, 2, 3)), 'mask': np.ones((1, 2, 2, 1))}] * 5
  sound = Sound(np.zeros(16_000, np.float32), 5, fps)
  audio = AudioFeatures(ml_collections.ConfigDict({'kind': 'none'}), None)
  given = conditions.Conditions(np.zeros((1, 2, 2, 3)), frames, [sound])
  chunks = list(generation.generate({}, given, np.zeros(1, np.uint32), step=step, audio=audio))
  assert seen == expected and len(chunks) == 5 and chunks[0].fps == fps


def test_pixels_outside_the_mask_are_those_of_the_video(system, params, clips):
  given = system.from_records(clips[:1], num_frames=4).conditions
  for frame, clean in zip(generate(system, params, given, [0])[0], given.frames):
    outside = clean['mask'][0] == 0
    original = picture.to_uint8(clean['clean'])[0]
    np.testing.assert_array_equal(np.where(outside, frame, 0), np.where(outside, original, 0))


def test_a_frame_does_not_depend_on_later_speech(system, params, clips):
  given = system.from_records(clips[:1], num_frames=6).conditions
  waveform = np.random.default_rng(0).standard_normal(6 * 640).astype(np.float32)
  waveform[:640] *= 10  # the spectrogram is relative to the loudest moment
  later = np.where(np.arange(len(waveform)) < 4 * 640, waveform, 0)
  sounds = ([dataclasses.replace(given.sound[0], waveform=w)] for w in (waveform, later))
  one, two = (generate(system, params, dataclasses.replace(given, sound=sound), [0])[0] for sound in sounds)
  np.testing.assert_array_equal(one[:3], two[:3])
  assert not np.array_equal(one[4], two[4]) and not np.array_equal(one[5], two[5])


def test_a_video_does_not_depend_on_its_batch(system, params, clips):
  together = video(system, params, clips, [3, 4])
  for i, seed in enumerate((3, 4)):
    alone = video(system, params, clips[i : i + 1], [seed])
    assert np.abs(together[i] - alone[0]).max() <= 1  # rounding of a differently shaped product


def test_other_speech_changes_the_video(system, params, clips):
  own = video(system, params, clips[:1], [0])
  assert not np.array_equal(own, video(system, params, clips[:1], [0], speech=clips[1:]))


@pytest.mark.parametrize(
  ('change', 'sentence'),
  [
    ({'sampler.name': 'euler'}, "sampler 'euler' is not one of palette, ddpm, ddim"),
    ({'sampler.steps': 5000}, 'sampler ddim cannot take 5000 steps'),
    ({'diffusion.schedule': 'cosin'}, 'config.diffusion.schedule: .*cosin'),
    ({'model.skip': 'both'}, "expected 'previous' or 'identity' with target 'x0'"),
  ],
)
def test_configs_that_cannot_be_built(config, change, sentence):
  changed = config.copy_and_resolve_references()
  changed.update_from_flattened_dict(change)
  with pytest.raises(UserError, match=sentence):
    systems.build(changed)


def test_unknown_system():
  with pytest.raises(UserError, match='is not one of .*speech_edit'):
    systems.build(ml_collections.ConfigDict({'system': 'speech_edti'}))

"""Our own speech encoder as a system: what it reads, learns and predicts."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from configs import speech_encoder as config_file
from talkjax import systems
from talkjax.errors import UserError
from talkjax.media import mel
from talkjax.systems import scoring
from talkjax.systems.speech_encoder import data
from talkjax.training import input_pipeline
from tests.commands import call
from tests.micro import random_params, training_batch


def micro(puppets, size='tiny', **changes):
  config = config_file.get_config(size)
  config.update_from_flattened_dict(
    {'frames': 12, 'model.width': 16, 'batch_size': 4, 'data.corpus': 'puppets/tiny', **changes}
  )
  config.data.dir = str(puppets)
  return config


PLAIN = {'augment.speed': 0.0, 'augment.gain': 0.0, 'augment.noise': 0.0}


@pytest.fixture(scope='module')
def record(puppets):
  return next(input_pipeline.eval_records(micro(puppets).data, 'train', 1))


def test_an_example_is_the_sound_around_its_frames(puppets, record):
  config = micro(puppets, **PLAIN)
  example = data.read(record, np.random.default_rng(0), config=config, context=20)
  assert example['spectrogram'].shape == (4, 2 * 12 + 40, 80) and example['targets'].shape == (4, 12, 7)
  whole = mel.speech_spectrogram(record.audio.astype(np.float32) / 32768)
  curves = data.record_curves(record, config)
  for spectrogram, targets in zip(example['spectrogram'], example['targets']):
    # Where the segment begins is known from its targets, up to a fraction of a frame.
    errors = [np.abs(data.curves_at(curves, (np.arange(12) + 0.5) / 25 + t, 25) - targets).max()
              for t in np.arange(0, len(curves) / 25 - 0.48, 0.001)]  # fmt: skip
    start = np.argmin(errors) * 0.001
    assert np.min(errors) < 0.02
    inside = spectrogram[20:44]
    near = whole[round(start * 50) :][:24]
    assert np.corrcoef(inside.ravel(), near.ravel())[0, 1] > 0.9


def test_speed_moves_sound_and_curves_together(puppets, record):
  """A segment of a faster clip has the targets of the whole clip sped up."""
  config = micro(puppets, **PLAIN)
  config.augment.speed = 0.5
  curves = data.record_curves(record, config)
  seen = []
  for seed in range(6):
    example = data.read(record, np.random.default_rng(seed), config=config, context=20)
    for targets in example['targets']:
      fits = [
        (np.abs(data.curves_at(curves, start + (np.arange(12) + 0.5) / 25 * speed, 25) - targets).max(), speed)
        for speed in np.arange(0.66, 1.51, 0.02)
        for start in np.arange(0, len(curves) / 25, 0.02)
      ]
      error, speed = min(fits)
      seen.append(speed)
      assert error < 0.15
  assert min(seen) < 0.9 and max(seen) > 1.1


def test_gain_and_noise_are_those_asked_for():
  generator = np.random.default_rng(0)
  sound = generator.standard_normal(16_000).astype(np.float32)
  settings = config_file.get_config('tiny').augment
  settings.update(gain=0.0, noise=1.0, snr=(10.0, 10.0))
  noisy = data.augment_sound(sound, generator, settings)
  ratio = 10 * np.log10(np.mean(sound**2) / np.mean((noisy - sound) ** 2))
  assert abs(ratio - 10) < 0.1 and noisy.dtype == np.float32
  settings.update(gain=6.0, noise=0.0)
  gains = [20 * np.log10(np.abs(data.augment_sound(sound, generator, settings)).max() / np.abs(sound).max())
           for _ in range(50)]  # fmt: skip
  assert -6.01 < min(gains) < -4 and 4 < max(gains) < 6.01


def test_landmarks_are_normalised_per_clip_and_need_no_coefficients(puppets, record):
  config = micro(puppets, 'landmarks')
  bare = dataclasses.replace(record, coefficients=np.zeros((0, 0), np.float32))
  curves = data.record_curves(bare, config)
  np.testing.assert_allclose(curves.mean(0), 0, atol=1e-4)
  np.testing.assert_allclose(curves.std(0), 1, atol=1e-3)
  with pytest.raises(UserError, match='has 0 expression coefficients, fewer than the 6 .* use the size `landmarks`'):
    data.record_curves(bare, micro(puppets))


def test_frames_after_the_end_do_not_count(puppets, record):
  config = micro(puppets, frames=200)
  system = systems.build(config)
  example = data.read(record, np.random.default_rng(0), config=config, context=20)
  assert 0 < example['valid'].sum() < example['valid'].size
  batch = {k: v for k, v in example.items() if k != 'id'}
  params = random_params(jax.eval_shape(system.init, jax.random.key(0), batch))
  loss = system.loss(params, batch, jax.random.key(0), True)[0]
  changed = {**batch, 'targets': batch['targets'] + 9 * (1 - batch['valid'][..., None])}
  assert loss == system.loss(params, changed, jax.random.key(0), True)[0]


def test_a_silent_record(puppets, record):
  silent = dataclasses.replace(record, audio=np.zeros(0, np.int16))
  with pytest.raises(UserError, match='has no sound, which the speech encoder learns from'):
    data.read(silent, np.random.default_rng(0), config=micro(puppets), context=20)


def test_a_batch_predicts_what_evaluation_predicts(puppets):
  """The network sees in training what it sees of a whole clip."""
  config = micro(puppets, **PLAIN, **{'data.examples_per_record': 1})
  system = systems.build(config)
  params = random_params(jax.eval_shape(system.init, jax.random.key(0), training_batch(config, system)))
  records = list(input_pipeline.eval_records(config.data, 'test', 1))
  config.frames = len(records[0].frames)
  example = data.read(records[0], np.random.default_rng(0), config=config, context=20)  # the whole clip
  truth, predicted = system.predict(params, records)
  names = data.curve_names(config)
  error = sum(np.square(predicted[0].curves[n] - truth[0].curves[n]).mean() for n in names) / len(names)
  batch = {k: v for k, v in example.items() if k != 'id'}
  np.testing.assert_allclose(system.loss(params, batch, jax.random.key(0), False)[0], error, rtol=1e-3)


def test_trains_and_is_scored(puppets, tmp_path):
  config = (
    f'--config=configs/speech_encoder.py:tiny,frames=12,model.width=32,data.corpus=puppets/tiny,data.dir={puppets}'
  )
  call('talkjax.train', config, f'--workdir={tmp_path}/run', '--config.steps=150', '--config.checkpoint_every=150')
  call(
    'talkjax.evaluate', f'--workdir={tmp_path}/run', '--split=train', '--limit=8', f'--output={tmp_path}/scores.json'
  )
  scores = json.loads((tmp_path / 'scores.json').read_text())
  assert scores['pearson_opening'] > 0.7 and scores['pearson_opening_other_speech'] < 0.5
  assert {'pearson_jaw', 'pearson_tongue'} < scores.keys()
  result = call('talkjax.evaluate', f'--workdir={tmp_path}/run', f'--strip={tmp_path}/strip.png', check=False)
  assert result.returncode == 2 and 'makes no video: leave out --strip' in result.stderr


def test_other_speech_is_predicted_from_its_own_sound(puppets):
  config = micro(puppets)
  system = systems.build(config)
  records = list(input_pipeline.eval_records(config.data, 'test', 2))
  params = random_params(jax.eval_shape(system.init, jax.random.key(0), training_batch(config, system)))
  _, own = scoring.generate_clips(system, params, records, None)
  _, other = scoring.generate_clips(system, params, records, None, records[::-1])
  count = min(len(r.frames) for r in records)
  np.testing.assert_allclose(other[0].curves['jaw'][: count - 12], own[1].curves['jaw'][: count - 12], atol=1e-5)

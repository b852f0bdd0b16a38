"""Frozen speech encoders: states of sound of any length, by time, and the weights that come with the package."""

import hashlib
import pickle

import jax
import ml_collections
import numpy as np
import pytest

from configs import common
from talkjax.errors import UserError
from talkjax.systems.audio import AudioFeatures, Sound, frame_states
from talkjax.training import checkpoint
from talkjax.weights import packaged, speech
from tests.micro import ENCODER, random_params

RATE = 16_000


@pytest.fixture(scope='module')
def own():
  """Our own encoder with the weights of the package: (encoder, parameters)."""
  encoder = speech.make(common.audio('speech_encoder'))
  return encoder, nested(speech.load(encoder))


def nested(params):
  from flax.traverse_util import unflatten_dict

  return unflatten_dict(params, sep='/')


def states_of(encoder, params, waveform, **how):
  return np.concatenate(list(encoder.encode(params, waveform, **how)))


def noise(seconds: float, seed: int = 0) -> np.ndarray:
  """Noise whose loudness varies over time."""
  generator = np.random.default_rng(seed)
  x = generator.standard_normal(round(seconds * RATE)).astype(np.float32)
  return 0.1 * x * np.abs(np.sin(np.arange(len(x)) / RATE * 9)).astype(np.float32)


def test_pieces_give_the_states_of_the_whole(own):
  encoder, params = own
  sound = noise(23.37)
  whole = states_of(encoder, params, sound)
  assert whole.shape == (-(-len(sound) // 320), 1, 128)
  for seconds in (5, 7, 16):
    np.testing.assert_allclose(states_of(encoder, params, sound, seconds=seconds), whole, atol=1e-5)


def test_no_sound_and_silence(own):
  encoder, params = own
  assert list(encoder.encode(params, np.zeros(0, np.float32))) == []
  assert not states_of(encoder, params, np.zeros(RATE, np.float32)).any()
  features = AudioFeatures(common.audio('speech_encoder'), None)
  for waveform in (np.zeros(0, np.float32), np.zeros(500, np.float32)):
    silent = features.of_sound({'speech_encoder': params}, Sound(waveform, 30, 25.0))
    assert silent.shape == (30, features.channels) == (30, 128) and not silent.any()
  # After the end of the sound there is silence.
  short = features.of_sound({'speech_encoder': params}, Sound(noise(0.5), 60, 25.0))
  assert np.abs(short[:10]).mean() > 0.05 and not short[24:].any()


def test_an_encoder_that_has_run_can_be_sent_to_reading_processes(own):
  encoder, params = own
  before = states_of(encoder, params, noise(1.0))
  again = pickle.loads(pickle.dumps(encoder))
  np.testing.assert_array_equal(states_of(again, params, noise(1.0)), before)


def test_features_come_by_time_at_any_frame_rate(own):
  encoder, params = own
  sound = noise(6.0)
  states = states_of(encoder, params, sound)[:, 0]
  at = lambda fps: frame_states(states, round(6 * fps), fps)
  # 50 frames a second are the states; a frame of 25 is between two of them.
  np.testing.assert_allclose(at(50.0), states, atol=1e-6)
  np.testing.assert_allclose(at(25.0), (states[0::2] + states[1::2]) / 2, atol=1e-5)
  for fps in (24.0, 30000 / 1001):
    times = (np.arange(round(6 * fps)) + 0.5) / fps
    position = np.clip(times * 50 - 0.5, 0, len(states) - 1)
    expected = np.stack([np.interp(position, np.arange(len(states)), s) for s in states.T], 1)
    np.testing.assert_allclose(at(fps), expected, atol=1e-5)
  two = frame_states(states, 150, 25.0, per_frame=2)
  np.testing.assert_allclose(two.reshape(300, -1), states, atol=1e-6)


@pytest.mark.parametrize(('n', 'frames'), [(7, 5), (10, 5), (31, 5), (1, 2)])
def test_stretched_states_last_as_long_as_the_frames(n, frames):
  """As in V-Express's code: two states per frame, interpolated between the centres of their intervals."""
  states = np.random.default_rng(0).normal(size=(n, 1, 3)).astype(np.float32)
  centres = (np.arange(2 * frames) + 0.5) / (2 * frames)  # as fractions of the duration
  expected = np.stack([np.interp(centres, (np.arange(n) + 0.5) / n, s) for s in states[:, 0].T], -1)
  features = AudioFeatures(common.audio('wav2vec2', wav2vec2=ENCODER), None, per_frame=2, stretched=True)
  resampled = features.of_states(states, Sound(np.zeros(0), frames, 25.0))
  assert resampled.shape == (frames, 6)
  np.testing.assert_allclose(resampled.reshape(2 * frames, 3), expected, atol=1e-5)


def test_the_level_of_the_recording_matters_little(own):
  encoder, params = own
  sound = noise(3.0)
  loud, quiet = (states_of(encoder, params, g * sound)[:, 0] for g in (1.0, 0.5))
  assert np.corrcoef(loud.ravel(), quiet.ravel())[0, 1] > 0.9


@pytest.mark.parametrize('layers', ['all', 'last'])
def test_wav2vec2_is_a_drop_in(layers):
  settings = common.audio('wav2vec2', wav2vec2=ENCODER)
  encoder = speech.make(settings, layers)
  params = random_params(jax.eval_shape(encoder.init, jax.random.key(0)))
  states = states_of(encoder, params, noise(2.0))
  assert states.shape == (99, 2 if layers == 'all' else 1, 16)
  features = AudioFeatures(settings, None, per_frame=2, layers=layers)
  made = features.of_sound({'wav2vec2': params}, Sound(noise(2.0), 50, 25.0))
  assert made.shape == (50, features.channels) and features.channels == 2 * 16 * (2 if layers == 'all' else 1)
  np.testing.assert_allclose(made.reshape(100, -1)[:99], states.reshape(99, -1), atol=1e-5)


def test_pieces_of_wav2vec2_give_nearly_the_states_of_the_whole():
  """As many states, and nearly the same ones: what is outside a chunk is far away."""
  encoder = speech.make(common.audio('wav2vec2', wav2vec2={**ENCODER, 'layers': 1, 'position_kernel': 16}))
  params = random_params(jax.eval_shape(encoder.init, jax.random.key(0)))
  sound = noise(11.005)
  whole, pieces = (states_of(encoder, params, sound, seconds=seconds)[:, 0] for seconds in (64, 6))
  assert whole.shape == pieces.shape == (550, 16)
  shifted = np.abs(pieces[1:] - whole[:-1]).mean()
  assert np.abs(pieces - whole).mean() < 0.2 * shifted
  assert len(states_of(encoder, params, sound[:100])) == 1  # too short for a state: padded


def test_the_weights_of_the_package_are_those_described():
  about = packaged.about(speech.PACKAGED)
  data = packaged.file(speech.PACKAGED).read_bytes()
  assert hashlib.sha256(data).hexdigest() == about['sha256'] and len(data) <= 2 * 2**20
  assert about['corpus'] == 'puppets' and about['trained_on'] == 'train' and about['evaluated_on'] == 'test'
  assert about['scores']['pearson_opening'] >= 0.96


def test_where_weights_come_from(tmp_path, own):
  encoder, params = own
  other = jax.tree.map(lambda x: 2 * x, params)
  config = ml_collections.ConfigDict({'system': 'speech_encoder'})
  checkpoint.save_params(tmp_path / 'encoder', config, {'speech_encoder': other, 'head': {'bias': np.zeros(2)}}, 0)
  checkpoint.save_params(tmp_path / 'stage', config, {'unet': {'bias': np.zeros(2)}}, 0)
  same = lambda loaded, tree: jax.tree.all(jax.tree.map(np.array_equal, nested(loaded), tree))
  assert same(speech.load(encoder, str(tmp_path / 'encoder')), other)
  assert same(speech.load(encoder, '', str(tmp_path / 'encoder')), other)  # of the stage before
  assert same(speech.load(encoder, '', str(tmp_path / 'stage')), params)  # which has none: those of the package
  with pytest.raises(UserError, match='stage has no speech_encoder: expected a workdir made by .*configs/speech_enc'):
    speech.load(encoder, str(tmp_path / 'stage'))
  with pytest.raises(UserError, match='kind=wav2vec2 needs weights: set --config.audio.weights to a workdir'):
    speech.load(speech.make(common.audio('wav2vec2', wav2vec2=ENCODER)))
  narrow = speech.make(common.audio('speech_encoder', speech_encoder={'width': 64}))
  with pytest.raises(UserError, match=r'speech_encoder_tiny.safetensors has .* of shape .*128'):
    speech.load(narrow)

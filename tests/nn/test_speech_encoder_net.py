"""Our own speech encoder: silence is zero, and a feature depends on its context alone."""

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.nn.speech_encoder import SpeechEncoder
from tests.micro import random_params


def encode(spectrogram):
  net = SpeechEncoder(16)
  shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 41, 8)))['params']
  return jax.jit(net.apply)({'params': random_params(shapes)}, spectrogram)


def test_silence_is_zero():
  assert encode(jnp.zeros((1, 50, 8))).shape == (1, 10, 16)
  assert not np.any(encode(jnp.zeros((1, 50, 8))))


def test_a_piece_gives_what_the_whole_gives():
  x = jnp.asarray(np.random.default_rng(0).random((1, 90, 8), np.float32))
  whole = encode(x)
  np.testing.assert_allclose(encode(x[:, 20:75]), whole[:, 20:35], atol=1e-6)
  assert np.abs(whole).mean() > 0.1


def test_a_feature_depends_on_its_context_and_on_all_of_it():
  net = SpeechEncoder(16)
  assert net.context == 20  # 0.4 s at 50 columns a second
  shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 41, 8)))['params']
  params = random_params(shapes)
  x = jnp.asarray(np.random.default_rng(0).random((1, 81, 8), np.float32))
  gradient = jax.jit(jax.grad(lambda x: net.apply({'params': params}, x)[0, 20].sum()))(x)
  (columns,) = np.nonzero(np.abs(gradient[0]).sum(-1))
  assert columns.min() == 40 - net.context and columns.max() == 40 + net.context

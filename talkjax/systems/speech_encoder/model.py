"""The network of the speech encoder, its loss, and its predictions for corpus records."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from talkjax.corpora.records import Record
from talkjax.metrics.suites import Generated, Truth
from talkjax.nn.speech_encoder import SpeechEncoder
from talkjax.systems.speech_encoder import data
from talkjax.weights import speech as speech_encoders


def make_network(config) -> SpeechEncoder:
  """The network of a config."""
  return SpeechEncoder(config.model.width, tuple(config.model.dilations), jnp.dtype(config.dtype))


def init(rng: jax.Array, batch: dict[str, jax.Array], *, net: SpeechEncoder, curves: int) -> Any:
  """Fresh parameters: the encoder, and the linear head that it is trained with."""
  keys = jax.random.split(rng)
  params = net.init(keys[0], batch['spectrogram'][:1])['params']
  head = nn.Dense(curves).init(keys[1], jnp.zeros((1, net.width)))['params']
  return {'speech_encoder': params, 'head': head}


def apply_head(params, features: jax.Array) -> jax.Array:
  """Features [..., width] -> curves [..., n]."""
  head = params['head']
  return features @ head['kernel'] + head['bias']


def loss(params, batch, rng: jax.Array, train: bool, *, net: SpeechEncoder):
  """The mean squared error of the curves at the middle of each frame.

  Args:
    params: from `init`.
    batch: from `data.read`.
    rng: not used.
    train: not used.
    net: the network.

  Returns:
    (loss, metrics).
  """
  columns = net.apply({'params': params['speech_encoder']}, batch['spectrogram'])
  frames = columns.reshape(columns.shape[0], -1, 2, columns.shape[-1]).mean(2)
  error = jnp.square(apply_head(params, frames.astype(jnp.float32)) - batch['targets']).mean(-1)
  return (error * batch['valid']).sum() / jnp.maximum(batch['valid'].sum(), 1), {}


def predict(
  params,
  records: Sequence[Record],
  speech: Sequence[Record] | None = None,
  *,
  encoder: speech_encoders.Encoder,
  config,
) -> tuple[list[Truth], list[Generated]]:
  """The true curves of records, and those predicted from their sound, or from that of as many others in `speech`."""
  truths, predictions = [], []
  names = data.curve_names(config)
  for record, voice in zip(records, speech or records, strict=True):
    states = np.concatenate(list(encoder.encode(params['speech_encoder'], voice.audio.astype(np.float32) / 32768)))
    times = (np.arange(len(record.frames)) + 0.5) / record.fps
    predicted = np.asarray(apply_head(params, speech_encoders.states_at(states[:, 0], times)))
    truths.append(Truth((), record.landmarks, curves=dict(zip(names, data.record_curves(record, config).T))))
    predictions.append(Generated((), record.fps, curves=dict(zip(names, predicted.T))))
  return truths, predictions

"""The network of the lip expert, its loss, and its judgement of corpus records."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.corpora.records import Record
from talkjax.metrics.suites import Generated, Truth
from talkjax.nn.lip_expert import FRAMES, LipExpert, synchrony, windows
from talkjax.systems import coefficients
from talkjax.systems.audio import AudioFeatures, Sound
from talkjax.systems.lip_expert import data
from talkjax.weights.speech import Encoder

BRANCH = 'lip_expert'
EPSILON = 1e-4  # keeps the logarithms of the loss finite


def make_network(config) -> LipExpert:
  """The network of a config."""
  return LipExpert(**config.model, dtype=jnp.dtype(config.dtype))


def init(rng: jax.Array, batch: Mapping[str, jax.Array], *, net: LipExpert, encoder: Encoder | None, config) -> Any:
  """Fresh parameters; the frozen branches are filled by training."""
  mouth = jnp.zeros((1, batch['coefficients'].shape[1], 3 * config.morphable.mouth))
  params = {BRANCH: net.init(rng, mouth, batch['audio'][:1])['params'], coefficients.BRANCH: coefficients.blank(config)}
  return params | ({encoder.kind: encoder.init(rng)} if encoder else {})


def mouths(params, rows: jax.Array, config) -> jax.Array:
  """What the expert sees of rows of coefficients: [..., k] -> [..., d]."""
  model = coefficients.model_of(params, config)
  alpha, beta, *_ = model.split(rows.astype(jnp.float32))
  return coefficients.mouth_motion(model, alpha, beta)


def loss(params, batch: Mapping[str, jax.Array], rng: jax.Array, train: bool, *, net: LipExpert, config):
  """The binary cross-entropy of the cosine, as of Wav2Lip's expert.

  Args:
    params: from `init`.
    batch: from `data.read`.
    rng: of the dropout.
    train: activations are dropped.
    net: the network.
    config: of the system.

  Returns:
    (loss, metrics).
  """
  mouth, audio = mouths(params, batch['coefficients'], config), batch['audio'].astype(jnp.float32)
  pair = net.apply({'params': params[BRANCH]}, mouth, audio, train, rngs={'dropout': rng})
  p = jnp.clip(synchrony(*pair), EPSILON, 1 - EPSILON)
  right = jnp.where(batch['in_sync'] > 0, p, 1 - p)
  return -jnp.log(right).mean(), {'accuracy': (right > 0.5).mean()}


def predict(
  params,
  records: Sequence[Record],
  speech: Sequence[Record] | None = None,
  *,
  embed: Callable,
  audio: AudioFeatures,
  config,
) -> tuple[list[Truth], list[Generated]]:
  """P_sync of every five frames of records, with the sound of the same frames and with that of others.

  The curves `in_sync` and `out_of_sync` [f - 4] are of the records' sound, or of that of as many others in `speech`.
  The other frames are random ones of the clip, the same in every evaluation.
  """
  truths, predictions = [], []
  for record, voice in zip(records, speech or records, strict=True):
    rows = coefficients.rows_of(record, config)
    features = audio.of_sound(params, Sound.of_record(voice, len(rows), record.fps))
    pair = [np.asarray(x) for x in embed(params, rows, features)]
    generator = np.random.default_rng(0)
    count = len(rows) - FRAMES + 1
    others = np.array([data.out_of_sync(start, count, generator) for start in range(count)])
    cosines = (np.asarray(synchrony(pair[0][:count], pair[1][index])) for index in (np.arange(count), others))
    curves = dict(zip(('in_sync', 'out_of_sync'), cosines))
    truths.append(Truth((), record.landmarks))
    predictions.append(Generated((), record.fps, curves=curves))
  return truths, predictions


def make_embed(net: LipExpert, config):
  """A function that embeds all five frames of a clip: (params, rows [f, k], audio [f, d]) -> two [>= f - 4, features].

  Clips are filled up, so that few lengths are compiled.
  """

  @jax.jit
  def embed(params, rows, audio):
    pair = (windows(x.astype(jnp.float32)[None])[0] for x in (mouths(params, rows, config), audio))
    return net.apply({'params': params[BRANCH]}, *pair)

  def padded(params, rows, audio):
    more = [(0, -len(rows) % 64), (0, 0)]
    return embed(params, np.pad(rows, more), np.pad(audio, more))

  return padded

"""The networks of wav2lip and their loss."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from talkjax.media.picture import to_float
from talkjax.nn.syncnet import Wav2LipExpert
from talkjax.nn.unet import UNet
from talkjax.nn.wav2lip import COLUMNS, FaceDiscriminator, Wav2Lip
from talkjax.weights.speech import Encoder

EPSILON = 1e-6  # a probability of the expert is at least so far from 0 and 1


@dataclasses.dataclass(frozen=True)
class Parts:
  """The networks by branch of the parameters; those that the loss does not need are None."""

  generator: nn.Module
  discriminator: FaceDiscriminator | None = None
  expert: Wav2LipExpert | None = None


def make_parts(config) -> Parts:
  """The networks of a config."""
  settings, dtype = config.model.to_dict(), jnp.dtype(config.dtype)
  if settings.pop('kind') == 'wav2lip':
    generator = Wav2Lip()
  else:
    multipliers = tuple(settings.pop('multipliers'))
    generator = UNet(
      **settings, multipliers=multipliers, attention_downsamples=(), dtype=dtype, remat=config.remat
    )  # fmt: skip
  return Parts(
    generator,
    FaceDiscriminator(tuple(config.discriminator.widths)) if config.loss.adversarial else None,
    Wav2LipExpert() if config.loss.sync else None,
  )


def init(rng: jax.Array, batch: Mapping[str, jax.Array], *, parts: Parts, encoder: Encoder | None) -> Any:
  """Fresh parameters by branch."""
  keys = jax.random.split(rng, 4)
  one = {name: batch[name][:1, 0] for name in ('given', 'reference', 'mask', 'audio')}
  params = {'generator': parts.generator.init(keys[0], *_inputs(parts, **one))['params']}
  half = jnp.zeros((1, one['given'].shape[1] // 2, one['given'].shape[2], 3))
  if parts.discriminator:
    params['discriminator'] = parts.discriminator.init(keys[1], half)['params']
  if parts.expert:
    faces = jnp.repeat(half, batch['given'].shape[1], -1)
    params['expert'] = parts.expert.init(keys[2], faces, _mel(one['audio']))['params']
  if encoder:
    params[encoder.kind] = encoder.init(keys[3])
  return params


def draw(params, parts: Parts, given, reference, mask, audio, **how) -> jax.Array:
  """What the generator draws.

  Args:
    params: from `init`.
    parts: the networks.
    given: [b, h, w, 3] in [-1, 1], the frames; of what `mask` [b, h, w, 1] hides, nothing is seen.
    reference: [b, h, w, 3] in [-1, 1].
    audio: [b, d].
    **how: `train` and `rngs` of a U-Net.

  Returns:
    [b, h, w, 3] in about [-1, 1].
  """
  inputs = _inputs(parts, given, reference, mask, audio)
  if isinstance(parts.generator, Wav2Lip):
    return _flip(parts.generator.apply({'params': params['generator']}, *inputs)) * 2 - 1
  # The network draws what differs from the reference, so that it need not learn to copy.
  return reference + parts.generator.apply({'params': params['generator']}, *inputs, **how)


def _inputs(parts, given, reference, mask, audio) -> tuple:
  if isinstance(parts.generator, Wav2Lip):  # BGR in [0, 1], hidden pixels black
    seen = (1 - mask) * (given + 1) / 2
    return _mel(audio), jnp.concatenate([_flip(seen), _flip((reference + 1) / 2)], -1)
  return jnp.concatenate([(1 - mask) * given, reference], -1), None, audio


def _mel(audio):
  """[b, d] -> [b, 80, COLUMNS, 1]."""
  return audio.reshape(len(audio), -1, COLUMNS, 1)


def _flip(colours):
  """RGB <-> BGR."""
  return colours[..., ::-1]


def loss(params, batch, rng: jax.Array, train: bool, *, parts: Parts, weights: Mapping[str, float]):
  """(1 - s_w - s_g) L1 + s_w sync + s_g adversarial, and the discriminator's own loss (eqs. 1-6).

  Args:
    params: from `init`.
    batch: from `data.read`.
    rng: of the dropout.
    train: dropout on.
    parts: the networks.
    weights: `config.loss`, s_w `sync` and s_g `adversarial`.

  Returns:
    (loss, the unweighted terms).
  """
  merge = lambda x: x.reshape(-1, *x.shape[2:])  # windows and their frames
  names = ('given', 'reference', 'mask', 'audio')
  how = {'train': train, 'rngs': {'dropout': rng}}
  made = draw(params, parts, **{name: merge(batch[name]) for name in names}, **how)
  true, weight = to_float(merge(batch['target'])), merge(batch['weight'])
  # In units of [0, 1], as published.
  terms = {'l1': jnp.sum(weight * jnp.abs(made - true)) / (2 * 3 * jnp.maximum(jnp.sum(weight), 1))}
  value = (1 - weights['sync'] - weights['adversarial']) * terms['l1']
  if parts.expert:
    terms['sync'] = _sync(params, parts, made, batch)
    value += weights['sync'] * terms['sync']
  if parts.discriminator:
    players = _adversarial(params, parts, true, made)
    value += weights['adversarial'] * players['adversarial'] + players['discriminator']
    terms |= players
  return value, terms


def _lower_half(faces):
  """[n, h, w, 3] in [-1, 1] -> [n, h / 2, w, 3] in [0, 1]."""
  return (faces[:, faces.shape[1] // 2 :] + 1) / 2


def _sync(params, parts, made, batch):
  """The cross-entropy of the expert's cosine, P_sync, of five frames and the speech from the first on (eq. 3)."""
  windows, count = batch['audio'].shape[:2]
  half = _flip(_lower_half(made))
  faces = jnp.moveaxis(half.reshape(windows, count, *half.shape[1:]), 1, 3)  # frame by frame along the channels
  faces = faces.reshape(*faces.shape[:3], -1)
  cosine = parts.expert.apply({'params': params['expert']}, faces, _mel(batch['audio'][:, 0]))
  return -jnp.mean(jnp.log(jnp.clip(cosine, EPSILON, 1)))


def _adversarial(params, parts, true, made) -> dict[str, jax.Array]:
  """Both players' terms (eqs. 4 and 5); each has a gradient with respect to its own parameters only."""
  judge = lambda faces, own: parts.discriminator.apply({'params': own}, _lower_half(faces))
  own = params['discriminator']
  entropy = lambda logits, label: jnp.mean(optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, label)))
  stopped = jax.lax.stop_gradient
  return {
    'adversarial': entropy(judge(made, stopped(own)), 1),
    'discriminator': 0.5 * (entropy(judge(true, own), 1) + entropy(judge(stopped(made), own), 0)),
  }

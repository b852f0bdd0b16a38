"""The network of speech_edit and its loss (eq. 5)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from talkjax.diffusion import losses, schedules, targets
from talkjax.media.picture import to_float
from talkjax.nn.unet import UNet
from talkjax.weights.speech import Encoder


def make_network(config) -> UNet:
  """The network of a config."""
  m = config.model
  return UNet(
    width=m.width,
    multipliers=tuple(m.multipliers),
    attention_downsamples=tuple(m.attention_downsamples),
    num_res_blocks=m.num_res_blocks,
    head_channels=m.head_channels,
    dropout=m.dropout,
    patch_size=m.patch_size,
    noise_embedding=m.noise_embedding,
    dtype=jnp.dtype(config.dtype),
    remat=config.remat,
  )


def init(rng: jax.Array, batch: dict[str, jax.Array], *, net: UNet, encoder: Encoder | None) -> Any:
  """Fresh parameters."""
  x = jnp.concatenate([batch[k][:1].astype(jnp.float32) for k in ('target', 'previous', 'identity')], -1)
  params = {'unet': net.init(rng, x, jnp.ones(1), batch['audio'][:1])['params']}
  if encoder:
    params[encoder.kind] = encoder.init(jax.random.fold_in(rng, 1))
  return params


def predict(params, y_t, level, condition, *, net: UNet, skip: str = '', **how) -> jax.Array:
  """The prediction for noisy images.

  Args:
    params: from `init`.
    y_t: [b, h, w, 3], noisy inside the mask, clean outside.
    level: with `alpha_bar`, a scalar or [b].
    condition: `previous` and `identity` [b, h, w, 3], `audio` [b, d].
    net: the network.
    skip: '' for the published network. 'previous' or 'identity': the network predicts the residual from that frame to
      the clean one (its target is x0), so that it need not learn to copy; small networks learn in minutes with it.
    **how: `train` and `rngs` of the network.
  """
  x = jnp.concatenate([y_t, condition['previous'], condition['identity']], -1)  # [b, h, w, 9]
  gamma = jnp.broadcast_to(level.alpha_bar, y_t.shape[:1])
  output = net.apply({'params': params['unet']}, x, gamma, condition['audio'], **how)
  return output + condition[skip] if skip else output


def loss(params, batch, rng: jax.Array, train: bool, *, predict: Callable, schedule: schedules.Schedule, target: str):
  """Eq. 5 on the masked region: the squared error of the predicted noise (or x0, or velocity) there.

  Args:
    params: from `init`.
    batch: from `read`.
    rng: of the noise, its level and the dropout.
    train: dropout on.
    predict: see `predict`.
    schedule: of the noise; its level is continuous, gamma uniform in (gamma_t, gamma_{t-1}), as in Palette.
    target: what the network predicts.

  Returns:
    (loss, metrics).
  """
  level_rng, noise_rng, dropout_rng = jax.random.split(rng, 3)
  batch = {**batch, 'target': to_float(batch['target']), 'identity': to_float(batch['identity'])}
  y_0, region = batch['target'], batch['mask']
  level = schedules.continuous_level(level_rng, schedule, y_0.shape[0])
  noise = jax.random.normal(noise_rng, y_0.shape)
  # y_t = sqrt(gamma) y_0 + sqrt(1 - gamma) epsilon inside the mask (eq. 4), clean outside.
  y_t = paste(targets.add_noise(y_0, noise, level), y_0, region)
  prediction = predict(params, y_t, level, batch, train=train, rngs={'dropout': dropout_rng})
  return losses.loss(prediction, targets.make(target, y_0, noise, level), weight=region), {}


def paste(inside: jax.Array, outside: jax.Array, region: jax.Array) -> jax.Array:
  """`inside` where `region` is 1, `outside` elsewhere."""
  return region * inside + (1 - region) * outside

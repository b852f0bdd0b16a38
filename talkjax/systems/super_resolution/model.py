"""The network of super-resolution and its loss."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from talkjax.diffusion import losses, samplers, schedules, targets
from talkjax.media.picture import to_float
from talkjax.nn.guided_unet import concatenate_low_resolution
from talkjax.nn.unet import UNet

BRANCH = 'unet'


def make_network(config) -> UNet:
  """The network of a config."""
  fields = {name: tuple(v) if isinstance(v, (list, tuple)) else v for name, v in config.model.items()}
  learned, heads = fields.pop('learned_variance'), fields.pop('heads')
  del fields['skip']
  return UNet(
    **fields, out_channels=6 if learned else 3, heads=heads or None, dtype=jnp.dtype(config.dtype), remat=config.remat
  )


def init(rng: jax.Array, batch: Mapping[str, jax.Array], *, net: UNet) -> Any:
  """Fresh parameters."""
  x = to_float(batch['image'][:1])
  return {BRANCH: net.init(rng, jnp.concatenate([x, x], -1), jnp.ones(1))['params']}


def predict(params, x: jax.Array, level, low: jax.Array, *, net: UNet, skip: bool = False, **how) -> jax.Array:
  """The prediction for noisy frames: [b, h, w, 3], or [b, h, w, 6] with the variance.

  Args:
    params: from `init`.
    x: [b, h, w, 3] noisy.
    level: a noise level, scalars or [b].
    low: [b, h', w', 3] small frames in [-1, 1].
    net: the network.
    skip: the network predicts the residual from the small frame, upsampled bicubically, to the clean one (its target is
      x0), so that it need not learn to copy; small networks learn in minutes with it.
    **how: `train` and `rngs` of the network.
  """
  given = level.timestep if net.noise_embedding == 'timestep' else level.alpha_bar
  output = net.apply(
    {'params': params[BRANCH]}, concatenate_low_resolution(x, low), jnp.broadcast_to(given, x.shape[:1]), **how
  )
  return output + jax.image.resize(low, x.shape, 'cubic', antialias=False) if skip else output


def loss(
  params,
  batch: Mapping[str, jax.Array],
  rng: jax.Array,
  train: bool,
  *,
  predict: Callable,
  schedule: schedules.Schedule,
  config,
):
  """The squared error of the prediction; of a learned variance also its term of the variational bound.

  Their sum is L_hybrid of improved DDPM (arXiv 2102.09672, eq. 16): in the mean over timesteps the bound has the weight
  1 / T.

  Args:
    params: from `init`.
    batch: from `data.read`.
    rng: of the noise, its level and the dropout.
    train: dropout on.
    predict: see `predict`.
    schedule: of the noise.
    config: of the system.

  Returns:
    (loss, metrics).
  """
  level_rng, noise_rng, dropout_rng = jax.random.split(rng, 3)
  image, low = to_float(batch['image']), to_float(batch['low'])
  level = schedules.uniform_level(level_rng, schedule, len(image))
  noise = jax.random.normal(noise_rng, image.shape)
  x = targets.add_noise(image, noise, level)
  output = predict(params, x, level, low, train=train, rngs={'dropout': dropout_rng})
  prediction, variance = samplers.split_variance(output, x)
  target = config.diffusion.target
  error = losses.loss(prediction, targets.make(target, image, noise, level))
  if variance is None:
    return error, {}
  # The prediction learns from the error alone, the variance from the bound.
  clean = targets.to_x0(target, jax.lax.stop_gradient(prediction), x, level)
  bound = losses.variational_bound(image, x, clean, variance, level.timestep.astype(jnp.int32), schedule).mean()
  return error + bound, {'error': error, 'bound': bound}

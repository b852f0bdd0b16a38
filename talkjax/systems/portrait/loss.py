"""The denoising loss of portrait systems."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from talkjax.diffusion import losses, schedules, targets
from talkjax.systems.portrait.networks import Networks, PortraitConditioning, encode, predict, to_residual

# (params, batch, portrait latents [b, h, w, c], frames, two random keys, train) -> conditioning
Condition = Callable[..., PortraitConditioning]


def loss(
  params,
  batch: Mapping[str, jax.Array],
  rng: jax.Array,
  train: bool,
  *,
  nets: Networks,
  condition: Condition,
  schedule: schedules.Schedule,
  config,
) -> tuple[jax.Array, dict]:
  """The error of the backbone's prediction over clips of latents (EMO eq. 1, V-Express section 2.1).

  Args:
    params: from `networks.init`.
    batch: from the system's `read`: `target` and `reference` images or their cached moments, conditions, and where
      mouths are weighted `weight`.
    rng: of the latents, the noise and its level, the conditions that are dropped and the mouths that are hidden.
    train: conditions are dropped and augmented.
    nets: the networks.
    condition: the system's conditioning, see `Condition`.
    schedule: of the noise.
    config: the system's.

  Returns:
    (loss, metrics).
  """
  latent_rng, level_rng, noise_rng, *condition_rngs, hide_rng = jax.random.split(rng, 6)
  latents = encode(params, batch, 'target', nets, latent_rng)
  portrait = encode(params, batch, 'reference', nets)
  conditioning = condition(params, batch, portrait, latents.shape[1], condition_rngs, train)
  latents = to_residual(latents, conditioning, nets)

  def hide(x, noise, level):
    return hide_mouths(x, noise, level, batch['weight'] > 1, config.aids.hidden_mouth, hide_rng)

  value = denoising_loss(
    lambda x, level: predict(params, x, level, conditioning, nets=nets),
    latents,
    (level_rng, noise_rng),
    schedule,
    config.diffusion,
    weight=batch.get('weight'),
    corrupt=hide if train and config.aids.hidden_mouth else None,
  )
  return value, {}


def denoising_loss(
  predict: Callable[[jax.Array, schedules.Level], jax.Array],
  latents: jax.Array,
  rngs: tuple[jax.Array, jax.Array],
  schedule: schedules.Schedule,
  settings,
  *,
  weight: jax.Array | None = None,
  corrupt: Callable | None = None,
) -> jax.Array:
  """The error of what a network predicts from noisy latents, squared or pseudo-Huber.

  Args:
    predict: (noisy latents, level) -> the prediction of `settings.target`.
    latents: [b, ..., h, w, c], clean.
    rngs: of the level and of the noise.
    schedule: of the noise.
    settings: `config.diffusion`: target, noise_offset, min_snr, zero_snr and huber.
    weight: of the error, broadcast against the latents.
    corrupt: (noisy latents, noise, level) -> what the network is given in place of the noisy latents.
  """
  level_rng, noise_rng = rngs
  b = latents.shape[0]
  level = schedules.uniform_level(level_rng, schedule, b)
  noise = jax.random.normal(noise_rng, latents.shape)
  if settings.noise_offset:
    shape = (b, *[1] * (latents.ndim - 2), latents.shape[-1])
    noise += settings.noise_offset * jax.random.normal(jax.random.fold_in(noise_rng, 1), shape)
  x = targets.add_noise(latents, noise, level)
  output = predict(corrupt(x, noise, level) if corrupt else x, level)
  example_weight = None
  if settings.min_snr:
    # With a zero-terminal-SNR schedule one is added, so that the level without signal is learned too.
    ratio, offset = losses.snr(level), float(settings.zero_snr)
    example_weight = losses.min_snr_weight(ratio, settings.target, settings.min_snr, offset)
  target = targets.make(settings.target, latents, noise, level)
  return losses.loss(output, target, weight=weight, example_weight=example_weight, huber=settings.huber)


def hide_mouths(x: jax.Array, noise: jax.Array, level, mouth: jax.Array, share: float, rng: jax.Array) -> jax.Array:
  """Replaces the mouths of noisy latents x [b, ..., h, w, c] by noise in that share of the noisier examples.

  Where a mouth is visible in the noise, or can be guessed from the frames before, nothing is learned from the
  conditions, and it is visible at most noise levels.
  """
  hidden = jax.random.bernoulli(rng, share, x.shape[:1]) & (level.noise_scale > 0.7)
  return jnp.where(hidden.reshape(-1, *[1] * (x.ndim - 1)) & mouth, noise, x)

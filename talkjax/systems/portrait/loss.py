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
  """The squared error of the backbone's prediction over clips of latents (EMO eq. 1, V-Express section 2.1).

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
  settings = config.diffusion
  latents = encode(params, batch, 'target', nets, latent_rng)
  portrait = encode(params, batch, 'reference', nets)
  b, f = latents.shape[:2]
  conditioning = condition(params, batch, portrait, f, condition_rngs, train)
  latents = to_residual(latents, portrait, nets)

  level = schedules.uniform_level(level_rng, schedule, b)
  noise = jax.random.normal(noise_rng, latents.shape)
  if settings.noise_offset:
    offset = jax.random.normal(jax.random.fold_in(noise_rng, 1), (b, 1, 1, 1, latents.shape[-1]))
    noise += settings.noise_offset * offset
  x = targets.add_noise(latents, noise, level)
  if train and config.augment.hidden_mouth:
    x = hide_mouths(x, noise, level, batch['weight'] > 1, config.augment.hidden_mouth, hide_rng)

  output = predict(params, x, level, conditioning, nets=nets)
  example_weight = None
  if settings.min_snr:
    # With a zero-terminal-SNR schedule one is added, so that the level without signal is learned too.
    ratio, offset = losses.snr(level), float(settings.zero_snr)
    example_weight = losses.min_snr_weight(ratio, settings.target, settings.min_snr, offset)
  target = targets.make(settings.target, latents, noise, level)
  return losses.loss(output, target, weight=batch.get('weight'), example_weight=example_weight), {}


def hide_mouths(x: jax.Array, noise: jax.Array, level, mouth: jax.Array, share: float, rng: jax.Array) -> jax.Array:
  """Replaces the mouths of noisy latents x [b, f, h, w, c] by noise in that share of the noisier examples.

  Where a mouth is visible in the noise, or can be guessed from the frames before, nothing is learned from the audio,
  and it is visible at most noise levels.
  """
  hidden = jax.random.bernoulli(rng, share, x.shape[:1]) & (level.noise_scale > 0.7)
  return jnp.where(hidden.reshape(-1, 1, 1, 1, 1) & mouth, noise, x)

"""Losses between a network's output and its target, and their weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.diffusion import schedules, targets


def snr(level: Any) -> jax.Array:
  """Signal-to-noise ratio of a level, alpha_bar / (1 - alpha_bar)."""
  return jnp.square(jnp.asarray(level.signal_scale) / level.noise_scale)


def min_snr_weight(ratio: jax.Array, target: str, gamma: float = 5.0, velocity_offset: float = 0.0) -> jax.Array:
  """Min-SNR-gamma weights (arXiv 2303.09556, section 3.4), finite at SNR 0 and infinity.

  Args:
    ratio: signal-to-noise ratios, any shape.
    target: what the loss compares. epsilon: min(snr, gamma) / snr; x0: min(snr, gamma); velocity:
      min(snr + velocity_offset, gamma) / (snr + 1).
    gamma: the cap.
    velocity_offset: 0 as in the paper and diffusers. With 1 the weight at SNR 0 is 1 instead of 0; a zero-terminal-SNR
      schedule needs this to learn its last timestep.
  """
  ratio = jnp.asarray(ratio)
  if targets.check(target) == targets.EPSILON:
    return jnp.minimum(1.0, gamma / ratio)
  if target == targets.X0:
    return jnp.minimum(ratio, gamma)
  return jnp.minimum(ratio + velocity_offset, gamma) / (ratio + 1.0)


def mean_error(
  prediction: jax.Array, target: jax.Array, weight: Any = None, normalize: bool = True, huber: float = 0.0
) -> jax.Array:
  """Mean error per example, [b] float32: the squared one, or the pseudo-Huber one.

  Args:
    prediction, target: [b, ...], any float type.
    weight: weights over positions (a mask, a mouth map), broadcast against prediction: [b, h, w, 1] for [b, h, w, c].
    normalize: True divides by the sum of the weights: a masked loss is then the mean over the mask, whatever its size.
      False divides by the number of elements (the published masked loss, and maps whose absolute weights matter). An
      example whose weights are all 0 has loss 0.
    huber: c of the pseudo-Huber error of each value, sqrt(error^2 + c^2) - c, which grows as the error where that is
      larger than c. Its minimum is nearer to the median of what is possible than to the mean, which is blurred.
      0: the squared error.
  """
  error = jnp.square(prediction.astype(jnp.float32) - target.astype(jnp.float32))
  if huber:
    error = jnp.sqrt(error + huber**2) - huber
  axes = tuple(range(1, error.ndim))
  if weight is None:
    return jnp.mean(error, axes)
  weight = jnp.broadcast_to(jnp.asarray(weight, jnp.float32), error.shape)
  total = jnp.sum(error * weight, axes)
  if not normalize:
    return total / (error.size // error.shape[0])
  mass = jnp.sum(weight, axes)
  return jnp.where(mass > 0, total / jnp.where(mass > 0, mass, 1.0), 0.0)


def variational_bound(
  x0: jax.Array,
  x: jax.Array,
  predicted_x0: jax.Array,
  variance_output: jax.Array,
  index: jax.Array,
  schedule: schedules.Schedule,
) -> jax.Array:
  """A term of the variational bound with learned variance, in bits per number: [b] (improved DDPM, arXiv 2102.09672).

  At index 0 the negative log likelihood of x0, whose values are 256 steps of [-1, 1]; else the divergence of the
  model's reverse step from the posterior q(x_{t-1} | x_t, x_0). The logarithm of its variance is between those of the
  posterior's and of beta, as far as the network says (eq. 15).

  Args:
    x0: [b, ...] clean examples in [-1, 1].
    x: [b, ...] noisy at `index`.
    predicted_x0: [b, ...] of the network; the published loss stops its gradient.
    variance_output: [b, ...] of the network: -1 is the posterior's variance, 1 is beta.
    index: [b] int, entries of the schedule.
    schedule: of the noise.
  """
  posterior = schedules.posterior(schedule, 'next')
  take = lambda table: targets.per_example(jnp.asarray(table.astype(np.float32))[index], x0)
  mean = lambda clean: take(posterior.x0_scale) * clean + take(posterior.x_scale) * x
  small, large = take(posterior.log_variance), take(np.log(schedule.betas))
  log_variance = small + (variance_output + 1) / 2 * (large - small)
  difference = mean(x0) - mean(predicted_x0)
  divergence = 0.5 * (
    log_variance - small - 1 + jnp.exp(small - log_variance) + jnp.square(difference) * jnp.exp(-log_variance)
  )
  # The probability of the step of x0; those at both ends are open.
  deviation, half, open_end = jnp.exp(0.5 * log_variance), 1 / 255, 1e3
  upper = jnp.where(x0 > 0.999, open_end, x0 + half - mean(predicted_x0)) / deviation
  lower = jnp.where(x0 < -0.999, -open_end, x0 - half - mean(predicted_x0)) / deviation
  # Of both tails the nearer one, where the difference of two numbers close to 1 has no correct digits.
  flip = lower > 0
  lower, upper = jnp.where(flip, -upper, lower), jnp.where(flip, -lower, upper)
  probability = jax.scipy.stats.norm.cdf(upper) - jax.scipy.stats.norm.cdf(lower)
  likelihood = -jnp.log(jnp.maximum(probability, 1e-12))
  nats = jnp.where(targets.per_example(index, x0) == 0, likelihood, divergence)
  return jnp.mean(nats, tuple(range(1, nats.ndim))) / np.log(2)


def loss(
  prediction: Any,
  target: Any,
  *,
  weight: Any = None,
  example_weight: jax.Array | None = None,
  normalize: bool = True,
  huber: float = 0.0,
) -> jax.Array:
  """The loss, a float32 scalar: `mean_error` per leaf, summed over leaves (modalities) and averaged over examples.

  Args:
    prediction, target: trees of [b, ...].
    weight: None, one weight map for all leaves, or a tree like prediction.
    example_weight: [b], such as min-SNR weights; the loss is the plain mean of weight * error.
    normalize, huber: see `mean_error`.
  """
  leaves, structure = jax.tree.flatten(prediction)
  same = weight is not None and jax.tree.structure(weight) == structure
  weights = structure.flatten_up_to(weight) if same else [weight] * len(leaves)
  targets_of = structure.flatten_up_to(target)
  errors = [mean_error(p, t, w, normalize, huber) for p, t, w in zip(leaves, targets_of, weights)]
  error = sum(errors)
  return jnp.mean(error if example_weight is None else error * example_weight)

"""Guidance: functions that wrap a denoiser and return a denoiser, so samplers need no code for guidance.

A denoiser is (x, level) -> output, both trees of [b, ...]. The output has twice the channels of x if the network
learned its variance.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from talkjax.diffusion import targets
from talkjax.diffusion.samplers import Denoise, Table, log_variance, split_variance


def classifier_free(conditional: Denoise, unconditional: Denoise, scale: Any) -> Denoise:
  """Classifier-free guidance from two denoisers: unconditional + scale * (conditional - unconditional).

  arXiv 2207.12598 eq. 6 with scale = w + 1. With a Python number 1 or 0 only one denoiser is called. A learned variance
  is taken from the conditional denoiser, unguided.

  Args:
    scale: a number, or [b] for one scale per example.
  """
  if isinstance(scale, int | float) and scale in (0, 1):
    return conditional if scale == 1 else unconditional
  return lambda x, level: _extrapolate(conditional(x, level), unconditional(x, level), x, scale)


def classifier_free_batched(
  denoise: Callable[[Any, Any, Any], Any], condition: Any, null_condition: Any, scale: Any
) -> Denoise:
  """Classifier-free guidance from one network, run once per step on a batch of 2b.

  Args:
    denoise: (x, level, condition) -> output.
    condition, null_condition: trees of [b, ...] with the same structure and shapes.
    scale: as in `classifier_free`; with a Python number 1 or 0 the network runs on a batch of b.
  """
  if isinstance(scale, int | float) and scale in (0, 1):
    only = condition if scale == 1 else null_condition
    return lambda x, level: denoise(x, level, only)

  def concatenate(a, b):
    return jax.tree.map(lambda p, q: jnp.concatenate([p, q]), a, b)

  conditions = concatenate(condition, null_condition)  # outside the scan: it does not depend on the step

  def guided(x, level):
    output = denoise(concatenate(x, x), level, conditions)
    halves = [jax.tree.map(lambda o, half=half: jnp.split(o, 2)[half], output) for half in (0, 1)]
    return _extrapolate(*halves, x, scale)

  return guided


def _extrapolate(conditional, unconditional, x, scale):
  def leaf(a, c, u):
    s = targets.per_example(scale, c)
    channels = a.shape[-1]
    mixed = u[..., :channels] + s * (c[..., :channels] - u[..., :channels])
    return jnp.concatenate([mixed, c[..., channels:]], -1) if c.shape[-1] > channels else mixed

  return jax.tree.map(leaf, x, conditional, unconditional)


Gradient = Callable[[Any, Any], Any]  # (x, level) -> scale * grad_x log p(condition | x), a tree like x


def classifier_mean(denoise: Denoise, gradient: Gradient, *, target: str, clip: float | None = None) -> Denoise:
  """Classifier guidance for ancestral samplers: shifts the step's mean by its variance times the gradient.

  arXiv 2105.05233 algorithm 1. Call `sample` with the same target and without `clip`: x0 is clipped here, before the
  shift.
  """

  def guided(x, level: Table):
    output, variance_output = split_variance(denoise(x, level), x)
    x0 = _clipped_x0(target, output, x, level, clip)
    if 'learned' in level.terms:
      variance = jax.tree.map(lambda v: jnp.exp(log_variance(v, level)), variance_output)
    else:
      variance = jax.tree.map(lambda a: level.variance, x)
    # The mean is level.x0 * x0 + ..., so a shift of the mean is a shift of x0 divided by level.x0.
    x0 = jax.tree.map(lambda a, v, g: a + v / level.x0 * g, x0, variance, gradient(x, level))
    return _rejoin(targets.from_x0(target, x0, x, level), variance_output)

  return guided


def classifier_score(denoise: Denoise, gradient: Gradient, *, target: str, clip: float | None = None) -> Denoise:
  """Classifier guidance for DDIM and other deterministic samplers: epsilon - sqrt(1 - alpha_bar) * gradient.

  arXiv 2105.05233 algorithm 2. Call `sample` without `clip`, as for `classifier_mean`; x0 is recomputed from epsilon
  and not clipped again.
  """

  def guided(x, level):
    output, variance_output = split_variance(denoise(x, level), x)
    x0 = _clipped_x0(target, output, x, level, clip)
    # x = s x0 + n epsilon does not change, so epsilon - n * gradient is x0 + n^2 / s * gradient.
    factor = jnp.square(level.noise_scale) / level.signal_scale
    x0 = jax.tree.map(lambda a, g: a + factor * g, x0, gradient(x, level))
    return _rejoin(targets.from_x0(target, x0, x, level), variance_output)

  return guided


def replacement(denoise: Denoise, known: Any, mask: Any, noise: Callable[[Any], Any]) -> Denoise:
  """Conditioning by replacement: overwrites the known part of x with equally noisy known values before each call.

  arXiv 2204.03458 section 3.1 (first method).

  Args:
    known: clean values, a tree like x.
    mask: 1 where x is generated, 0 where known; a tree like x, or one array that broadcasts against every leaf.
    noise: level -> standard normal values like x. The caller decides whether they are the same at every level.
  """

  def guided(x, level):
    noisy = targets.add_noise(known, noise(level), level)
    return denoise(_choose(mask, x, noisy), level)

  return guided


def reconstruction(
  denoise: Denoise, known: Any, mask: Any, weight: float, *, target: str, loss: Callable[[Any, Any], Any] | None = None
) -> Denoise:
  """Reconstruction guidance: moves the generated part of x0 along the negative gradient of the error on the known part.

  arXiv 2204.03458 eq. 7: x0 - weight * sqrt(alpha_bar) / 2 * grad_x |known - x0(x)|^2 where mask is 1.

  Args:
    known, mask: as in `replacement`.
    weight: the paper's w_r.
    loss: (x0, level) -> scalar, used instead of the squared error, such as an expert network's score of x0.
  """

  return _against_error(denoise, known, mask, lambda level: weight * level.signal_scale / 2, target, loss)


def correction(denoise: Denoise, known: Any, mask: Any, scale: float, *, target: str) -> Denoise:
  """Moves the generated part of a step's result x' along the negative gradient of the error of the known part of x'.

  x' - scale * grad_x |known' - x'|^2, the error where mask is 0 (eq. 11 of the joint audio-video paper, there with
  respect to x' itself, which the known part does not depend on; MM-Diffusion, arXiv 2212.09478, section 3.4, too takes
  the gradient with respect to x). known' is the step's result from the known values in place of the predicted x0, with
  the same noise, so the error is that of x0 times the weight of x0 in the step. A step of dpm_solver_pp_2m is taken for
  one of first order.

  It goes inside of `replacement` (eq. 10), so that the network and this error see the known part as noisy as the rest:
  replacement(correction(denoise, known, mask, scale, target=target), known, mask, noise).

  Args:
    known, mask: as in `replacement`.
    scale: the paper's C.
  """

  def step(level):
    # epsilon = (x - s x0) / n: a change of x0 changes the step's epsilon too.
    return scale * (level.x0 - level.epsilon * level.signal_scale / level.noise_scale)

  return _against_error(denoise, known, mask, step, target)


def _against_error(denoise, known, mask, step, target, loss=None):
  """Moves the generated part of x0 by -step(level) times the gradient with respect to x of the known part's error."""

  def guided(x, level):
    def error(y):
      output = denoise(y, level)
      x0 = targets.to_x0(target, split_variance(output, y)[0], y, level)
      if loss is not None:
        return loss(x0, level), (output, x0)
      difference = jax.tree.map(lambda a, k: a - k, x0, known)
      difference = _choose(mask, jax.tree.map(jnp.zeros_like, difference), difference)
      return sum(jnp.sum(jnp.square(d)) for d in jax.tree.leaves(difference)), (output, x0)

    gradient, (output, x0) = jax.grad(error, has_aux=True)(x)
    guided_x0 = _choose(mask, jax.tree.map(lambda a, g: a - step(level) * g, x0, gradient), x0)
    return _rejoin(targets.from_x0(target, guided_x0, x, level), split_variance(output, x)[1])

  return guided


def _clipped_x0(target, output, x, level, clip):
  x0 = targets.to_x0(target, output, x, level)
  return x0 if clip is None else jax.tree.map(lambda a: jnp.clip(a, -clip, clip), x0)


def _rejoin(prediction, variance_output):
  """Concatenates the learned variance to the prediction's channels."""
  if not jax.tree.leaves(variance_output):
    return prediction
  return jax.tree.map(lambda p, v: jnp.concatenate([p, v], -1), prediction, variance_output)


def _choose(mask, generated, known):
  """mask * generated + (1 - mask) * known; the mask is a tree like them or one array for all leaves."""
  if jax.tree.structure(mask) != jax.tree.structure(generated):
    mask = jax.tree.map(lambda _: mask, generated)
  return jax.tree.map(lambda m, g, k: m * g + (1 - m) * k, mask, generated, known)

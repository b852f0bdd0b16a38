"""Guidance: wrappers that take a denoiser and return one, so that no sampler knows of them.

A denoiser is (x, level) -> output, trees of [b, ...]; the output has twice x's channels where it learned its variance.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from talkjax.diffusion import targets
from talkjax.diffusion.samplers import Denoise, Table, log_variance, split_variance


def classifier_free(conditional: Denoise, unconditional: Denoise, scale: Any) -> Denoise:
  """Classifier-free guidance from two denoisers: unconditional + scale * (conditional - unconditional).

  arXiv 2207.12598 eq. 6 with scale = w + 1. A Python number 1 or 0 calls one denoiser only. Variance that a network
  learned is taken from the conditional one, unguided.

  Args:
    scale: a number, or [b] for each example its own.
  """
  if isinstance(scale, int | float) and scale in (0, 1):
    return conditional if scale == 1 else unconditional
  return lambda x, level: _extrapolate(conditional(x, level), unconditional(x, level), x, scale)


def classifier_free_batched(
  denoise: Callable[[Any, Any, Any], Any], condition: Any, null_condition: Any, scale: Any
) -> Denoise:
  """The same from one network run once on a batch of 2b.

  Args:
    denoise: (x, level, condition) -> output.
    condition, null_condition: trees of [b, ...], alike.
    scale: as in `classifier_free`; at a Python number 1 or 0 the network runs on b alone.
  """
  if isinstance(scale, int | float) and scale in (0, 1):
    only = condition if scale == 1 else null_condition
    return lambda x, level: denoise(x, level, only)

  def both(a, b):
    return jax.tree.map(lambda p, q: jnp.concatenate([p, q]), a, b)

  doubled = both(condition, null_condition)  # outside the scan: it does not depend on the step

  def guided(x, level):
    output = denoise(both(x, x), level, doubled)
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
  """Classifier guidance of ancestral samplers: the step's mean moves by its variance times the gradient.

  arXiv 2105.05233 algorithm 1. To be sampled with the same target and without the sampler's own `clip`: x0 is clipped
  here, before it is moved.
  """

  def guided(x, level: Table):
    output, spread = split_variance(denoise(x, level), x)
    x0 = _clipped_x0(target, output, x, level, clip)
    if 'learned' in level.terms:
      variance = jax.tree.map(lambda v: jnp.exp(log_variance(v, level)), spread)
    else:
      variance = jax.tree.map(lambda a: level.variance, x)
    # The mean is level.x0 * x0 + ..., so that is where the move is put.
    x0 = jax.tree.map(lambda a, v, g: a + v / level.x0 * g, x0, variance, gradient(x, level))
    return _rejoin(targets.from_x0(target, x0, x, level), spread)

  return guided


def classifier_score(denoise: Denoise, gradient: Gradient, *, target: str, clip: float | None = None) -> Denoise:
  """Classifier guidance of DDIM and other deterministic samplers: epsilon - sqrt(1 - alpha_bar) * gradient.

  arXiv 2105.05233 algorithm 2. Sampled without the sampler's own `clip`, as `classifier_mean`; x0 follows epsilon,
  unclipped.
  """

  def guided(x, level):
    output, spread = split_variance(denoise(x, level), x)
    x0 = _clipped_x0(target, output, x, level, clip)
    # x = s x0 + n epsilon stays as it is, so epsilon - n * gradient means x0 + n^2 / s * gradient.
    move = jnp.square(level.noise_scale) / level.signal_scale
    x0 = jax.tree.map(lambda a, g: a + move * g, x0, gradient(x, level))
    return _rejoin(targets.from_x0(target, x0, x, level), spread)

  return guided


def replacement(denoise: Denoise, known: Any, mask: Any, noise: Callable[[Any], Any]) -> Denoise:
  """Conditioning by replacement: what is known is put into x, as noisy as x is, before each call of the network.

  arXiv 2204.03458 section 3.1 (first method). x0 is the known values there, so that a step keeps to them.

  Args:
    known: clean values, a tree like x.
    mask: 1 where x is generated, 0 where known; a tree like x or broadcast against its leaves.
    noise: level -> standard normal numbers like x; the same numbers at each level, or others, as the caller keys them.
  """

  def guided(x, level):
    noisy = targets.add_noise(known, noise(level), level)
    return denoise(_choose(mask, x, noisy), level)

  return guided


def reconstruction(
  denoise: Denoise, known: Any, mask: Any, weight: float, *, target: str, loss: Callable[[Any, Any], Any] | None = None
) -> Denoise:
  """Reconstruction guidance: the generated part of x0 moves against the gradient of the error on the known part.

  arXiv 2204.03458 eq. 7: x0 - weight * sqrt(alpha_bar) / 2 * grad_x |known - x0(x)|^2 where mask is 1.

  Args:
    known, mask: as in `replacement`.
    weight: the paper's w_r.
    loss: (x0, level) -> scalar in place of the squared error, such as an expert's score of x0.
  """

  def guided(x, level):
    def error(y):
      output = denoise(y, level)
      x0 = targets.to_x0(target, split_variance(output, y)[0], y, level)
      if loss is not None:
        return loss(x0, level), (output, x0)
      off = jax.tree.map(lambda a, k: a - k, x0, known)
      off = _choose(mask, jax.tree.map(jnp.zeros_like, off), off)
      return sum(jnp.sum(jnp.square(o)) for o in jax.tree.leaves(off)), (output, x0)

    slope, (output, x0) = jax.grad(error, has_aux=True)(x)
    step = weight * level.signal_scale / 2
    moved = _choose(mask, jax.tree.map(lambda a, g: a - step * g, x0, slope), x0)
    return _rejoin(targets.from_x0(target, moved, x, level), split_variance(output, x)[1])

  return guided


def _clipped_x0(target, output, x, level, clip):
  x0 = targets.to_x0(target, output, x, level)
  return x0 if clip is None else jax.tree.map(lambda a: jnp.clip(a, -clip, clip), x0)


def _rejoin(prediction, spread):
  """Puts learned variance back behind the prediction's channels."""
  if not jax.tree.leaves(spread):
    return prediction
  return jax.tree.map(lambda p, v: jnp.concatenate([p, v], -1), prediction, spread)


def _choose(mask, generated, known):
  """mask * generated + (1 - mask) * known, the mask a tree like them or one for all leaves."""
  if jax.tree.structure(mask) != jax.tree.structure(generated):
    mask = jax.tree.map(lambda _: mask, generated)
  return jax.tree.map(lambda m, g, k: m * g + (1 - m) * k, mask, generated, known)

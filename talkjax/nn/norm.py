"""Group normalisation, FiLM and SiLU fused into one pass over the pixels; batch normalisation by stored statistics."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


class GroupNorm(nn.Module):
  """GroupNorm, a chain of `film` modulations, and SiLU if `silu`.

  h <- GN(h); h <- h * (1 + scale) + shift for each film in turn; h <- h * sigmoid(h).

  All but the SiLU is affine in h for one example and channel, so gain, statistics and films are combined on [b, c].
  """

  groups: int = 32
  epsilon: float = 1e-5
  silu: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, films: tuple[jax.Array, ...] = ()) -> jax.Array:
    """Normalises and modulates x.

    Args:
      x: [b, ..., c]; c is a multiple of `groups`.
      films: each [b, 2c], scale and shift concatenated.

    Returns:
      [b, ..., c] of x's dtype, computed in float32.
    """
    b, c = x.shape[0], x.shape[-1]
    gain = self.param('scale', nn.initializers.ones, (c,), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (c,), jnp.float32)
    gain, bias = (jnp.broadcast_to(a, (b, c)) for a in (gain, bias))
    for film in films:
      scale, shift = jnp.split(film.astype(jnp.float32), 2, axis=-1)
      gain, bias = gain * (1 + scale), bias * (1 + scale) + shift
    return _normalise(x.reshape(b, -1, c), gain, bias, self.groups, self.epsilon, self.silu).reshape(x.shape)


# The derivative is written by hand because the automatic one saves three arrays of the size of x for the backward pass
# instead of one. Divisions deliberately come last: XLA recomputes operations that it considers cheap inside every loop
# that uses them (coefficients for every pixel, pixels for every consumer), but a division only once. On a CPU this is
# six times faster.


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _normalise(x, gain, bias, groups, epsilon, silu):
  """x [b, n, c], gain and bias [b, c] float32 -> [b, n, c]."""
  return _forward(x, gain, bias, groups, epsilon, silu)[0]


def _forward(x, gain, bias, groups, epsilon, silu):
  x32 = x.astype(jnp.float32)
  mean = _pool(jnp.mean(x32, axis=1), groups)
  variance = _pool(jnp.mean(jnp.square(x32), axis=1), groups) - jnp.square(mean)
  std = jnp.sqrt(jnp.maximum(variance, 0) + epsilon)
  y = _affine(x32, gain, bias, mean, std)
  y = y / (1 + jnp.exp(-y)) if silu else y
  return y.astype(x.dtype), (x, gain, bias, mean, std)


def _affine(x, gain, bias, mean, std):
  return x * (gain / std)[:, None] + ((bias * std - mean * gain) / std)[:, None]


def _backward(groups, epsilon, silu, saved, g):
  x, gain, bias, mean, std = saved
  x32, g = x.astype(jnp.float32), g.astype(jnp.float32)
  if silu:
    y = _affine(x32, gain, bias, mean, std)
    s = 0.5 + 0.5 * jnp.tanh(0.5 * y)  # the sigmoid; not written as above, or XLA would save the forward result
    g = g * (s * (1 + y * (1 - s)))
  dbias = jnp.sum(g, axis=1)
  dgain = (jnp.sum(g * x32, axis=1) - mean * dbias) / std
  # With x^ = (x - mean) / std:  dx = (gain g - mean of gain g - x^ * mean of gain g x^) / std, means over a group.
  n = x.shape[1]
  mean_g, mean_gx = _pool(gain * dbias / n, groups), _pool(gain * dgain / n, groups)
  dx = (g * gain[:, None] - x32 * (mean_gx / std)[:, None] + ((mean * mean_gx - std * mean_g) / std)[:, None]) / std[
    :, None
  ]
  return dx.astype(x.dtype), dgain, dbias


def _pool(x, groups):
  """Replaces each channel by the mean of its group: [b, c] -> [b, c]."""
  b, c = x.shape
  return jnp.repeat(x.reshape(b, groups, -1).mean(-1), c // groups, axis=1)


_normalise.defvjp(_forward, _backward)


class BatchNorm(nn.Module):
  """Batch normalisation by stored statistics, as published networks have it in inference; it folds into a gain."""

  epsilon: float = 1e-5
  gain_init: Callable = nn.initializers.ones

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., c] -> [..., c]."""
    c = x.shape[-1:]
    gain, bias = self.param('scale', self.gain_init, c), self.param('bias', nn.initializers.zeros, c)
    mean = self.param('running_mean', nn.initializers.zeros, c)
    variance = self.param('running_var', nn.initializers.ones, c)
    gain = gain / jnp.sqrt(variance + self.epsilon)
    return x * gain + (bias - mean * gain)

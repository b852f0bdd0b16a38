"""Group normalisation, FiLM and SiLU in one pass over the pixels."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp


class GroupNorm(nn.Module):
  """GroupNorm, a chain of `film` modulations, and SiLU if `silu`.

  h <- GN(h); h <- h * (1 + scale) + shift for each film in turn; h <- h * sigmoid(h).

  All but the last is affine in h for one picture and channel, so gains, statistics and films are multiplied out on
  [b, c] before a pixel is touched.
  """

  groups: int = 32
  epsilon: float = 1e-5
  silu: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, films: tuple[jax.Array, ...] = ()) -> jax.Array:
    """Normalises x.

    Args:
      x: [b, ..., c]; c is a multiple of `groups`.
      films: each [b, 2c]: scale, then shift.

    Returns:
      [b, ..., c] of x's type; the arithmetic is float32.
    """
    b, c = x.shape[0], x.shape[-1]
    gain = self.param('scale', nn.initializers.ones, (c,), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (c,), jnp.float32)
    gain, bias = (jnp.broadcast_to(a, (b, c)) for a in (gain, bias))
    for film in films:
      scale, shift = jnp.split(film.astype(jnp.float32), 2, axis=-1)
      gain, bias = gain * (1 + scale), bias * (1 + scale) + shift
    return _normalise(x.reshape(b, -1, c), gain, bias, self.groups, self.epsilon, self.silu).reshape(x.shape)


# The derivative is written out because the automatic one keeps three arrays of x's size for its backward pass where one
# will do. Divisions come last on purpose: what XLA holds for cheap it works out again inside each loop that uses it,
# coefficients for every pixel and pixels for every reader; a division it does once. On a CPU that is six times faster.


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
    s = 0.5 + 0.5 * jnp.tanh(0.5 * y)  # the sigmoid; written another way than above, or XLA keeps that for here
    g = g * (s * (1 + y * (1 - s)))
  dbias = jnp.sum(g, axis=1)
  dgain = (jnp.sum(g * x32, axis=1) - mean * dbias) / std
  # With x^ = (x - mean) / std:  dx = (gain g - mean of gain g - x^ * mean of gain g x^) / std, means over a group.
  n = x.shape[1]
  of_g, of_gx = _pool(gain * dbias / n, groups), _pool(gain * dgain / n, groups)
  dx = (g * gain[:, None] - x32 * (of_gx / std)[:, None] + ((mean * of_gx - std * of_g) / std)[:, None]) / std[:, None]
  return dx.astype(x.dtype), dgain, dbias


def _pool(x, groups):
  """The mean of each group of channels, in each of its channels: [b, c] -> [b, c]."""
  b, c = x.shape
  return jnp.repeat(x.reshape(b, groups, -1).mean(-1), c // groups, axis=1)


_normalise.defvjp(_forward, _backward)

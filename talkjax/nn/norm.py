"""Group normalisation with FiLM folded into its affine map."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def moments(x: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
  """Mean and variance of each group of channels, in float32.

  Args:
    x: [b, ..., c], any float type; c is a multiple of `groups`.
    groups: how many.

  Returns:
    mean, variance: [b, c] float32, each group's value repeated over its channels.
  """
  b, c = x.shape[0], x.shape[-1]
  x = x.reshape(b, -1, c).astype(jnp.float32)
  mean, square = jnp.mean(x, axis=1), jnp.mean(x * x, axis=1)  # one reading of x; channels stay in the lanes
  mean, square = (jnp.repeat(a.reshape(b, groups, -1).mean(-1), c // groups, axis=1) for a in (mean, square))
  return mean, jnp.maximum(square - mean * mean, 0)


class GroupNorm(nn.Module):
  """GroupNorm, then a chain of `film` modulations, as one multiply and one add per pixel.

  h <- GN(h); h <- h * (1 + scale) + shift for each film in turn. All of it is affine in h for one picture and channel,
  so gains, statistics and films are multiplied out on [b, c] before a pixel is touched.
  """

  groups: int = 32
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array, films: tuple[jax.Array, ...] = ()) -> jax.Array:
    """Normalises x.

    Args:
      x: [b, ..., c].
      films: each [b, 2c]: scale, then shift.

    Returns:
      [b, ..., c] of x's type; the arithmetic is float32.
    """
    b, c = x.shape[0], x.shape[-1]
    gain = self.param('scale', nn.initializers.ones, (c,), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (c,), jnp.float32)
    mean, variance = moments(x, self.groups)
    scale = jax.lax.rsqrt(variance + self.epsilon) * gain  # [b, c]
    shift = bias - mean * scale
    for film in films:
      film_scale, film_shift = jnp.split(film.astype(jnp.float32), 2, axis=-1)
      scale, shift = scale * (1 + film_scale), shift * (1 + film_scale) + film_shift
    ones = (1,) * (x.ndim - 2)
    return (x * scale.reshape(b, *ones, c) + shift.reshape(b, *ones, c)).astype(x.dtype)

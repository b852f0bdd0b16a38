"""Noise keyed by (seed, frame, step), so that a video does not depend on its batch, its windows or the devices."""

import jax
import jax.numpy as jnp


def keyed_normal(seeds: jax.Array, frames: jax.Array, step: jax.Array | int, shape: tuple[int, ...]) -> jax.Array:
  """Standard normal numbers for frames of videos at one sampling step.

  Args:
    seeds, frames: integers of shapes that broadcast to [...]: the seed of each video, the number of each frame in it.
    step: number of the sampling step.
    shape: of one frame.

  Returns:
    [..., *shape] float32.
  """
  seeds, frames = jnp.broadcast_arrays(jnp.asarray(seeds), jnp.asarray(frames))

  def one(seed, frame):
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), frame), step)
    return jax.random.normal(key, shape)

  return jax.vmap(one)(seeds.ravel(), frames.ravel()).reshape(*seeds.shape, *shape)

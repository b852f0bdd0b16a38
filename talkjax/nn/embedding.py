"""Embeddings of scalars."""

import jax
import jax.numpy as jnp


def sinusoid(x: jax.Array, features: int) -> jax.Array:
  """Cosines, then sines of x at frequencies 10000^(-i / half), i < half = features / 2: [b] -> [b, features]."""
  half = features // 2
  angles = x.astype(jnp.float32)[:, None] * jnp.exp(-jnp.log(10_000.0) * jnp.arange(half) / half)
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)

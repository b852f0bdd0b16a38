"""Prediction targets: conversions between epsilon, x0 and velocity.

With s = sqrt(alpha_bar) and n = sqrt(1 - alpha_bar) of the level, a noisy example is x = s x0 + n epsilon, and

    target     network's output    x0                     epsilon
    epsilon    epsilon             (x - n epsilon) / s    itself
    x0         x0                  itself                 (x - s x0) / n
    velocity   s epsilon - n x0    s x - n velocity       n x + s velocity

(velocity: arXiv 2202.00512, appendix D). At zero terminal SNR (s = 0) x0 and velocity determine x0; epsilon does not.
Examples are trees of arrays [b, ...]. A level is any object with `signal_scale` (s) and `noise_scale` (n), scalars or
[b]: a schedules.Level or a row of a sampler's table.
"""

from typing import Any

import jax
import jax.numpy as jnp

EPSILON, X0, VELOCITY = 'epsilon', 'x0', 'velocity'
TARGETS = (EPSILON, X0, VELOCITY)


def check(target: str) -> str:
  """Returns the target's name; raises ValueError if it is unknown."""
  if target not in TARGETS:
    raise ValueError(f'unknown prediction target {target!r}: expected one of {", ".join(TARGETS)}')
  return target


def add_noise(x0: Any, epsilon: Any, level: Any) -> Any:
  """The noisy examples x = s x0 + n epsilon."""
  return _map(lambda a, e, s, n: s * a + n * e, level, x0, epsilon)


def make(target: str, x0: Any, epsilon: Any, level: Any) -> Any:
  """The network's training target for these clean examples and this noise."""
  if check(target) == EPSILON:
    return epsilon
  if target == X0:
    return x0
  return _map(lambda a, e, s, n: s * e - n * a, level, x0, epsilon)


def to_x0(target: str, output: Any, x: Any, level: Any) -> Any:
  """The clean examples predicted by the network's output at noisy examples x; float32, or x's dtype if wider."""
  if check(target) == X0:
    return _map(lambda o, y, s, n: o.astype(y.dtype), level, output, x)
  if target == EPSILON:
    return _map(lambda o, y, s, n: (y - n * o) / s, level, output, x)
  return _map(lambda o, y, s, n: s * y - n * o, level, output, x)


def to_epsilon(target: str, output: Any, x: Any, level: Any) -> Any:
  """The noise predicted by the network's output at noisy examples x."""
  if check(target) == EPSILON:
    return _map(lambda o, y, s, n: o.astype(y.dtype), level, output, x)
  if target == X0:
    return _map(lambda o, y, s, n: (y - s * o) / n, level, output, x)
  return _map(lambda o, y, s, n: n * y + s * o, level, output, x)


def from_x0(target: str, x0: Any, x: Any, level: Any) -> Any:
  """The network output that predicts these clean examples: the inverse of `to_x0`, for guidance that modifies x0."""
  if check(target) == X0:
    return x0
  return make(target, x0, to_epsilon(X0, x0, x, level), level)


def _map(function, level, *trees):
  def leaf(*arrays):
    arrays = [jnp.asarray(a) for a in arrays]
    return function(*arrays, per_example(level.signal_scale, arrays[0]), per_example(level.noise_scale, arrays[0]))

  return jax.tree.map(leaf, *trees)


def per_example(scale: Any, x: jax.Array) -> jax.Array:
  """Reshapes a scalar or [b] scale so that it broadcasts against x [b, ...]."""
  scale = jnp.asarray(scale)
  return scale.reshape(scale.shape + (1,) * (x.ndim - scale.ndim)) if scale.ndim else scale

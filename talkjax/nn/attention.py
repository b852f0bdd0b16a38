"""Scaled dot-product attention: one function, the fastest way for the shape and the device."""

import jax
import jax.numpy as jnp

# The whole [n, m] table of weights is made at once up to this many entries per picture and head; above it, on a CPU,
# the queries are walked in blocks so that a block's weights stay in the cache.
_WHOLE = 1024 * 1024
_BLOCK = 512


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, method: str | None = None) -> jax.Array:
  """softmax(q k^T / sqrt(d)) v, with the softmax in float32.

  Args:
    q: [b, n, heads, d].
    k, v: [b, m, heads, d].
    method: 'xla', 'blocks' or 'cudnn' to insist; chosen by shape and device otherwise.

  Returns:
    [b, n, heads, d] of q's type.

  Raises:
    ValueError: an unknown method.
  """
  method = method or _choose(q, k)
  if method == 'cudnn':
    return jax.nn.dot_product_attention(q, k, v, implementation='cudnn')
  if method == 'xla':
    return _attend(q, k, v)
  if method == 'blocks':
    return _attend_in_blocks(q, k, v)
  raise ValueError(f'attention method {method!r}: expected xla, blocks or cudnn')


def _choose(q, k):
  n, d = q.shape[1], q.shape[3]
  platform = jax.default_backend()
  if platform == 'gpu' and q.dtype in (jnp.bfloat16, jnp.float16) and d % 8 == 0 and d <= 128 and n >= 64:
    return 'cudnn'
  if platform == 'cpu' and n * k.shape[1] > _WHOLE and n % _BLOCK == 0:
    return 'blocks'
  return 'xla'


def _attend(q, k, v):
  logits = jnp.einsum('bnhd,bmhd->bhnm', q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
  weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
  return jnp.einsum('bhnm,bmhd->bnhd', weights, v)


def _attend_in_blocks(q, k, v):
  b, n, heads, d = q.shape
  blocks = q.reshape(b, n // _BLOCK, _BLOCK, heads, d).swapaxes(0, 1)  # [blocks, b, block, heads, d]
  out = jax.lax.map(jax.checkpoint(lambda block: _attend(block, k, v)), blocks)
  return out.swapaxes(0, 1).reshape(b, n, heads, d)

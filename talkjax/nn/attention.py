"""Scaled dot-product attention: one function that selects the fastest implementation for the shape and the device."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

# Blockwise attention on a CPU computes one head and one block of queries at a time. It is used if queries times keys
# are at least _BLOCKWISE_SIZE, and block and keys each at least _BLOCKWISE_LENGTH. A block has at most _BLOCK_QUERIES
# queries and _BLOCK_WEIGHTS attention weights. Up to _SAVED_WEIGHTS the gradient is that of plain attention, whose
# weights are saved.
_BLOCKWISE_SIZE = 128 * 128
_BLOCKWISE_LENGTH = 64
_SAVED_WEIGHTS = 1024 * 1024
_BLOCK_WEIGHTS = 1024 * 1024
_BLOCK_QUERIES = 512
# Splash attention on a TPU needs lengths and head channels that are multiples of its lanes (channels are padded), and
# only pays off from _SPLASH_LENGTH on. Its blocks have at most _BLOCK_QUERIES queries and as many keys.
_LANES = 128
_SPLASH_LENGTH = 1024


def attention(
  q: jax.Array, k: jax.Array, v: jax.Array, *, mask: jax.Array | None = None, method: str | None = None
) -> jax.Array:
  """softmax(q k^T / sqrt(d)) v, with the softmax in float32.

  Args:
    q: [b, n, heads, d].
    k, v: [b, m, heads, d].
    mask: [n, m] bool, True where a query attends to a key, which each query does to one or more; with 'xla' only.
    method: 'xla', 'blocks', 'cudnn' or 'splash' (for TPUs; interpreted and slow elsewhere); None selects by shape and
      device.

  Returns:
    [b, n, heads, d] of q's dtype.

  Raises:
    ValueError: unknown method, or one that has no mask.
  """
  if mask is not None:
    if method not in (None, 'xla'):
      raise ValueError(f'attention method {method!r} has no mask: expected xla')
    return _attend(q, k, v, mask)
  method = method or _choose(q, k, jax.default_backend(), jax.device_count())
  if method == 'cudnn':
    return jax.nn.dot_product_attention(q, k, v, implementation='cudnn')
  if method == 'splash':
    return _splash(q, k, v, interpret=jax.default_backend() != 'tpu')
  if method == 'xla':
    return _attend(q, k, v)
  if method == 'blocks':
    return _attend_blockwise(q, k, v)
  raise ValueError(f'attention method {method!r}: expected xla, blocks, cudnn or splash')


def _choose(q, k, platform, devices=1):
  n, m, d = q.shape[1], k.shape[1], q.shape[3]
  if platform == 'gpu' and q.dtype in (jnp.bfloat16, jnp.float16) and d % 8 == 0 and d <= 128 and n >= 64:
    return 'cudnn'
  if platform == 'tpu' and min(n, m) >= _SPLASH_LENGTH and n % _LANES == m % _LANES == 0:
    # The kernel runs on one device. With several, q's type must give its sharding.
    mesh = jax.typeof(q).sharding.mesh
    known = devices == 1 or not (mesh.empty or AxisType.Explicit in mesh.axis_types)
    return 'splash' if known else 'xla'
  if platform == 'cpu' and min(_block(n, m), m) >= _BLOCKWISE_LENGTH and n * m >= _BLOCKWISE_SIZE:
    return 'blocks'
  return 'xla'


def _attend(q, k, v, mask=None):
  logits = jnp.einsum('bnhd,bmhd->bhnm', q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
  if mask is not None:
    logits = jnp.where(mask, logits, -jnp.inf)
  weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
  return jnp.einsum('bhnm,bmhd->bnhd', weights, v)


# On a CPU a batched product over all heads is slower than one matrix product per head, and reading attention weights
# that do not fit the cache is slower than recomputing them. Only a small weight matrix is saved for the gradient.


def _blockwise(q, k, v):
  b, n, heads, d = q.shape
  block = _block(n, k.shape[1])

  def attend(q, k, v):
    logits = jnp.matmul(q * d**-0.5, k.T, preferred_element_type=jnp.float32)
    return jax.nn.softmax(logits, axis=-1).astype(v.dtype) @ v

  def attend_head(qkv):
    q, k, v = qkv
    return jax.lax.map(jax.checkpoint(lambda rows: attend(rows, k, v)), q.reshape(n // block, block, d))

  per_head = [a.swapaxes(1, 2).reshape(b * heads, -1, d) for a in (q, k, v)]
  return jax.lax.map(attend_head, per_head).reshape(b, heads, n, d).swapaxes(1, 2)


def _blockwise_forward(q, k, v):
  return jax.vjp(_attend if q.shape[1] * k.shape[1] <= _SAVED_WEIGHTS else _blockwise, q, k, v)


_attend_blockwise = jax.custom_vjp(_blockwise)
_attend_blockwise.defvjp(_blockwise_forward, lambda vjp, g: vjp(g))


def _block(n, m):
  """The number of queries per block: a divisor of n."""
  return max(i for i in range(1, min(n, _BLOCK_QUERIES, max(1, _BLOCK_WEIGHTS // m)) + 1) if n % i == 0)


def _splash(q, k, v, interpret):
  """Splash attention, with the batch sharded over the mesh of q, if it has one."""
  mesh = jax.typeof(q).sharding.mesh
  attend = functools.partial(_splash_single_device, interpret=interpret)
  if mesh.empty or AxisType.Auto not in mesh.axis_types:
    return attend(q, k, v)
  axes, size = (), 1
  for name, length in mesh.shape.items():
    if q.shape[0] % (size * length) == 0:
      axes, size = (*axes, name), size * length
  spec = PartitionSpec(axes)
  return jax.shard_map(attend, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)(q, k, v)


def _splash_single_device(q, k, v, interpret):
  from jax.experimental.pallas.ops.tpu import splash_attention as splash  # slow to import

  (_, n, heads, d), m = q.shape, k.shape[1]
  rows, columns = math.gcd(n, _BLOCK_QUERIES), math.gcd(m, _BLOCK_QUERIES)
  kernel = splash.make_splash_mha(
    splash.MultiHeadMask([splash.FullMask((n, m))] * heads),
    block_sizes=splash.BlockSizes(
      block_q=rows, block_kv=columns, block_q_dkv=rows, block_kv_dkv=columns, block_q_dq=rows, block_kv_dq=columns
    ),
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )
  padding = [(0, 0), (0, 0), (0, 0), (0, -d % _LANES)]
  q, k, v = (jnp.pad(a.swapaxes(1, 2), padding) for a in (q * d**-0.5, k, v))
  return jax.vmap(kernel)(q, k, v)[..., :d].swapaxes(1, 2)

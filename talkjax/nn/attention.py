"""Scaled dot-product attention: one function, the fastest way for the shape and the device."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

# On a CPU, from so many queries times keys on (_SHORT of each at least), a head is attended to at a time, in blocks of
# queries: at most _ROWS, and no more than have _CACHED weights. Up to _KEPT the gradient is that of the whole table,
# whose weights are then kept.
_BLOCKED = 128 * 128
_SHORT = 64
_KEPT = 1024 * 1024
_CACHED = 1024 * 1024
_ROWS = 512
# What a TPU's splash attention wants: lengths and channels of a head that are multiples of its lanes (to which channels
# are padded), and sequences long enough for blocks to pay.
_LANES = 128
_LONG = 1024


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, method: str | None = None) -> jax.Array:
  """softmax(q k^T / sqrt(d)) v, with the softmax in float32.

  Args:
    q: [b, n, heads, d].
    k, v: [b, m, heads, d].
    method: 'xla', 'blocks', 'cudnn' or 'splash' (a TPU's; interpreted, slowly, elsewhere) to insist; chosen by shape
      and device otherwise.

  Returns:
    [b, n, heads, d] of q's type.

  Raises:
    ValueError: an unknown method.
  """
  method = method or _choose(q, k, jax.default_backend(), jax.device_count())
  if method == 'cudnn':
    return jax.nn.dot_product_attention(q, k, v, implementation='cudnn')
  if method == 'splash':
    return _splash(q, k, v, interpret=jax.default_backend() != 'tpu')
  if method == 'xla':
    return _attend(q, k, v)
  if method == 'blocks':
    return _attend_in_blocks(q, k, v)
  raise ValueError(f'attention method {method!r}: expected xla, blocks, cudnn or splash')


def _choose(q, k, platform, devices=1):
  n, m, d = q.shape[1], k.shape[1], q.shape[3]
  if platform == 'gpu' and q.dtype in (jnp.bfloat16, jnp.float16) and d % 8 == 0 and d <= 128 and n >= 64:
    return 'cudnn'
  if platform == 'tpu' and min(n, m) >= _LONG and n % _LANES == m % _LANES == 0:
    # The kernel is for one device: where there are more, q's type must say how they are laid out.
    mesh = jax.typeof(q).sharding.mesh
    known = devices == 1 or not (mesh.empty or AxisType.Explicit in mesh.axis_types)
    return 'splash' if known else 'xla'
  if platform == 'cpu' and min(_block(n, m), m) >= _SHORT and n * m >= _BLOCKED:
    return 'blocks'
  return 'xla'


def _attend(q, k, v):
  logits = jnp.einsum('bnhd,bmhd->bhnm', q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
  weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
  return jnp.einsum('bhnm,bmhd->bnhd', weights, v)


# On a CPU the products of all heads at once are slower than plain ones of matrices, and a table of weights that leaves
# the cache slower than one made twice; but for the gradient a small table is kept whole.


def _walk(q, k, v):
  b, n, heads, d = q.shape
  block = _block(n, k.shape[1])

  def attend(q, k, v):
    logits = jnp.matmul(q * d**-0.5, k.T, preferred_element_type=jnp.float32)
    return jax.nn.softmax(logits, axis=-1).astype(v.dtype) @ v

  def attend_head(qkv):
    q, k, v = qkv
    return jax.lax.map(jax.checkpoint(lambda rows: attend(rows, k, v)), q.reshape(n // block, block, d))

  of_heads = [a.swapaxes(1, 2).reshape(b * heads, -1, d) for a in (q, k, v)]
  return jax.lax.map(attend_head, of_heads).reshape(b, heads, n, d).swapaxes(1, 2)


def _walk_forward(q, k, v):
  return jax.vjp(_attend if q.shape[1] * k.shape[1] <= _KEPT else _walk, q, k, v)


_attend_in_blocks = jax.custom_vjp(_walk)
_attend_in_blocks.defvjp(_walk_forward, lambda pull_back, g: pull_back(g))


def _block(n, m):
  """How many of n queries to take at a time: a divisor of n."""
  return max(i for i in range(1, min(n, _ROWS, max(1, _CACHED // m)) + 1) if n % i == 0)


def _splash(q, k, v, interpret):
  """Splash attention, with the batch split over the mesh that q lies on, if any."""
  mesh = jax.typeof(q).sharding.mesh
  attend = functools.partial(_splash_on_one, interpret=interpret)
  if mesh.empty or AxisType.Auto not in mesh.axis_types:
    return attend(q, k, v)
  axes, size = (), 1
  for name, length in mesh.shape.items():
    if q.shape[0] % (size * length) == 0:
      axes, size = (*axes, name), size * length
  spec = PartitionSpec(axes)
  return jax.shard_map(attend, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)(q, k, v)


def _splash_on_one(q, k, v, interpret):
  from jax.experimental.pallas.ops.tpu import splash_attention as splash  # takes time to import

  (_, n, heads, d), m = q.shape, k.shape[1]
  rows, columns = math.gcd(n, _ROWS), math.gcd(m, _ROWS)
  kernel = splash.make_splash_mha(
    splash.MultiHeadMask([splash.FullMask((n, m))] * heads),
    block_sizes=splash.BlockSizes(
      block_q=rows, block_kv=columns, block_q_dkv=rows, block_kv_dkv=columns, block_q_dq=rows, block_kv_dq=columns
    ),
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )
  wide = [(0, 0), (0, 0), (0, 0), (0, -d % _LANES)]
  q, k, v = (jnp.pad(a.swapaxes(1, 2), wide) for a in (q * d**-0.5, k, v))
  return jax.vmap(kernel)(q, k, v)[..., :d].swapaxes(1, 2)

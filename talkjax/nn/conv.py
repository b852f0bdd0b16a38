"""3x3 convolutions, convolutions along one axis and resizing by 2, channels-last (NHWC)."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

_NHWC = ('NHWC', 'HWIO', 'NHWC')


def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Same-size 3x3 convolution: x [b, h, w, i], kernel [3, 3, i, o] -> [b, h, w, o]."""
  if jax.default_backend() == 'cpu':
    return _conv(x, kernel, (1, 1))
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=_NHWC)


def upsample_conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """conv3x3(upsample(x), kernel): x [b, h, w, i], kernel [3, 3, i, o] -> [b, 2h, 2w, o]."""
  if jax.default_backend() != 'cpu':
    return conv3x3(upsample(x), kernel)
  # A 3x3 window of the upsampled image covers only 2x2 different input pixels, so each of the four output positions has
  # a 2x2 kernel of summed weights: rows (k0, k1 + k2) read the pixels (-1, 0), rows (k0 + k1, k2) the pixels (0, 1);
  # columns likewise.
  b, h, w, _ = x.shape
  k0, k1, k2 = kernel
  rows = []
  for top, (ka, kb) in ((1, (k0, k1 + k2)), (0, (k0 + k1, k2))):
    row = []
    for left, pair in ((1, lambda k: (k[0], k[1] + k[2])), (0, lambda k: (k[0] + k[1], k[2]))):
      row.append(_conv(x, jnp.stack([jnp.stack(pair(ka)), jnp.stack(pair(kb))]), (top, left)))
    rows.append(jnp.stack(row, axis=3))  # [b, h, w, 2, o]
  return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, kernel.shape[-1])


# On a CPU, XLA's gradient of a kernel runs at half the speed of the convolution, and inside a loop (such as gradient
# accumulation) at a hundredth, because in loops only convolutions in the NHWC layout use its fast code. Both gradients
# are therefore written as convolutions in that layout. (Forward-mode derivatives are not supported.)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x, kernel, low):
  """Same-size convolution; `low` is the zero padding (rows above, columns left), the rest is below and right."""
  return _padded(x, kernel, low)


def _padded(x, kernel, low):
  pads = [(n, size - 1 - n) for n, size in zip(low, kernel.shape)]
  (_, h, w, _), (kh, kw, _, o) = x.shape, kernel.shape
  if h * w < kh * kw:  # XLA would swap input and kernel, which takes fifty times as long
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    patches = jnp.concatenate([x[:, r : r + h, s : s + w] for r in range(kh) for s in range(kw)], axis=-1)
    return patches @ kernel.reshape(-1, o)
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=_NHWC)


def _conv_forward(x, kernel, low):
  return _padded(x, kernel, low), (x, kernel)


def _conv_backward(low, saved, g):
  x, kernel = saved
  high = tuple(size - 1 - n for n, size in zip(low, kernel.shape))
  dx = _padded(g, kernel[::-1, ::-1].swapaxes(2, 3), high)
  return dx, _kernel_gradient(x, g, kernel.shape[:2], low)


def _kernel_gradient(x, g, size, low):
  """[r, s, i, o]: the sum over pixels p of x[p + (r, s) - low] * g[p].

  Column shifts are shifted copies; row shifts are a convolution along h whose channels are the pixels (b, w) of a row.
  """
  (kh, kw), (top, left) = size, low
  b, h, w, i = x.shape
  o = g.shape[-1]
  if i < o:  # copy the array with fewer channels: x[p + d] g[p] = x[p] g[p - d]
    swapped = _kernel_gradient(g, x, size, (kh - 1 - top, kw - 1 - left))
    return swapped[::-1, ::-1].swapaxes(2, 3)
  g = jnp.pad(g, ((0, 0), (0, 0), (kw - 1 - left, left), (0, 0))).transpose(3, 1, 0, 2)  # [o, h, b, w + kw - 1]
  g = jnp.stack([g[..., kw - 1 - s : kw - 1 - s + w] for s in range(kw)]).reshape(kw * o, h, b * w)
  x = x.transpose(1, 0, 2, 3).reshape(h, b * w, i)
  out = jax.lax.conv_general_dilated(g, x, (1,), [(kh - 1 - top, top)], dimension_numbers=('NWC', 'WIO', 'NWC'))
  return out.reshape(kw, o, kh, i)[:, :, ::-1].transpose(2, 0, 3, 1)


_conv.defvjp(_conv_forward, _conv_backward)


def conv_along(x: jax.Array, kernel: jax.Array, dilation: int = 1) -> jax.Array:
  """Same-size convolution along axis 1: x [b, n, ..., i], kernel [k, i, o] (k odd) -> [b, n, ..., o]."""
  n, taps = x.shape[1], kernel.shape[0]
  padding = dilation * (taps // 2)
  if jax.default_backend() != 'cpu':
    y = x.reshape(*x.shape[:2], -1, x.shape[-1])
    pads = [(padding, padding), (0, 0)]
    y = jax.lax.conv_general_dilated(y, kernel[:, None], (1, 1), pads, None, (dilation, 1), _NHWC)
    return y.reshape(*x.shape[:-1], -1)
  # On a CPU matrix products are faster than a convolution with one axis, above all in the gradient: one product of the
  # concatenated taps for sequences, and for videos, whose taps would fill the memory, a sum of products.
  x = jnp.pad(x, [(0, 0), (padding, padding), *[(0, 0)] * (x.ndim - 2)])
  if x.ndim == 3:
    columns = jnp.concatenate([x[:, i * dilation : i * dilation + n] for i in range(taps)], axis=-1)
    return columns @ kernel.reshape(-1, kernel.shape[-1])
  return sum(x[:, i * dilation : i * dilation + n] @ kernel[i] for i in range(taps))


def downsample(x: jax.Array) -> jax.Array:
  """Average pooling over 2x2 pixels: [b, h, w, c] -> [b, h/2, w/2, c]."""
  b, h, w, c = x.shape
  return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4)).astype(x.dtype)


def upsample(x: jax.Array) -> jax.Array:
  """Nearest-neighbour upsampling by 2: [b, h, w, c] -> [b, 2h, 2w, c]."""
  b, h, w, c = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
  return x.reshape(b, 2 * h, 2 * w, c)


def space_to_depth(x: jax.Array, size: int) -> jax.Array:
  """Folds patches into channels: [b, h, w, c] -> [b, h/size, w/size, size*size*c]."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h // size, w // size, size * size * c)


def depth_to_space(x: jax.Array, size: int) -> jax.Array:
  """The inverse of `space_to_depth`: [b, h, w, size*size*c] -> [b, h*size, w*size, c]."""
  b, h, w, c = x.shape
  x = x.reshape(b, h, w, size, size, c // size**2).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h * size, w * size, c // size**2)


class Conv3x3(nn.Module):
  """3x3 convolution with bias, after upsampling by 2 if `upsample`; parameters are float32, computed in `dtype`."""

  features: int
  dtype: Any = jnp.float32
  upsample: bool = False
  kernel_init: Callable = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, i] -> [b, h, w, features], or [b, 2h, 2w, features]."""
    kernel = self.param('kernel', self.kernel_init, (3, 3, x.shape[-1], self.features), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
    convolve = upsample_conv3x3 if self.upsample else conv3x3
    return convolve(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)

"""Convolutions and their gradients against sums over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax.nn import conv


def definition(x, kernel):
  """Same-size convolution, pixel by pixel of the kernel, in float64."""
  b, h, w, _ = x.shape
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  return sum(padded[:, r : r + h, s : s + w] @ kernel[r, s] for r in range(3) for s in range(3))


def gradients(x, kernel, g):
  """Of sum(definition * g), by the same sums turned around."""
  b, h, w, _ = x.shape
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  dx = np.zeros_like(padded)
  dkernel = np.zeros_like(kernel)
  for r in range(3):
    for s in range(3):
      dx[:, r : r + h, s : s + w] += g @ kernel[r, s].T
      dkernel[r, s] = np.einsum('bhwi,bhwo->io', padded[:, r : r + h, s : s + w], g)
  return dx[:, 1:-1, 1:-1], dkernel


SHAPES = [(6, 4, 5, 3), (6, 4, 3, 5), (6, 4, 4, 4), (2, 4, 3, 5), (2, 2, 5, 3), (1, 1, 4, 4)]  # some below the kernel's


@pytest.fixture(params=SHAPES, ids=lambda p: '{}x{}_{}to{}'.format(*p))
def case(request):
  r = np.random.default_rng(0)
  h, w, i, o = request.param
  return r.standard_normal((2, h, w, i)), r.standard_normal((3, 3, i, o)), r.standard_normal((2, h, w, o))


def near(a, b):
  np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_convolution_and_gradients(case):
  x, kernel, g = case
  x32, kernel32, g32 = (jnp.asarray(a, jnp.float32) for a in case)
  out, vjp = jax.vjp(conv.conv3x3, x32, kernel32)
  near(out, definition(x, kernel))
  for got, expected in zip(vjp(g32), gradients(x, kernel, g), strict=True):
    near(got, expected)


def test_convolution_of_the_grown_picture(case):
  x, kernel, _ = case
  upsampled = x.repeat(2, axis=1).repeat(2, axis=2)
  g = np.random.default_rng(1).standard_normal((*upsampled.shape[:3], kernel.shape[-1]))
  out, vjp = jax.vjp(conv.upsample_conv3x3, *(jnp.asarray(a, jnp.float32) for a in (x, kernel)))
  near(out, definition(upsampled, kernel))
  dx, dkernel = gradients(upsampled, kernel, g)
  b, h, w, i = x.shape
  got_x, got_kernel = vjp(jnp.asarray(g, jnp.float32))
  near(got_x, dx.reshape(b, h, 2, w, 2, i).sum((2, 4)))
  near(got_kernel, dkernel)


def test_ways_agree_whatever_the_device(case, monkeypatch):
  arrays = [jnp.asarray(a, jnp.float32) for a in case[:2]]
  made = []
  for backend in ('cpu', 'gpu'):
    monkeypatch.setattr(jax, 'default_backend', lambda backend=backend: backend)
    for convolve in (conv.conv3x3, conv.upsample_conv3x3):
      loss = lambda x, k, f=convolve: jnp.sin(f(x, k)).sum()  # noqa: E731
      made.append((convolve(*arrays), *jax.grad(loss, argnums=(0, 1))(*arrays)))
  for mine, plain in zip(made[:2], made[2:]):
    for a, b in zip(mine, plain):
      near(a, b)


def test_convolutions_along_an_axis_agree_whatever_the_device(monkeypatch):
  r = np.random.default_rng(0)
  kernel = jnp.asarray(r.normal(size=(3, 2, 4)), jnp.float32)
  for shape in ((2, 9, 2), (2, 9, 1, 3, 2)):
    x, made = jnp.asarray(r.normal(size=shape), jnp.float32), []
    for backend in ('cpu', 'gpu'):
      monkeypatch.setattr(jax, 'default_backend', lambda backend=backend: backend)
      loss = lambda x, k: jnp.sin(conv.conv_along(x, k, 2)).sum()
      made.append((conv.conv_along(x, kernel, 2), *jax.grad(loss, argnums=(0, 1))(x, kernel)))
    for a, b in zip(*made, strict=True):
      near(a, b)

"""Wav2Lip's generator: its published names and shapes, its transposed convolutions."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax.nn.wav2lip import TransposedConv, Wav2Lip
from talkjax.systems.wav2lip import published
from tests.micro import random_params


def test_names_and_shapes_are_the_published_ones(goldens):
  """The conversion is strict, so every entry has found its parameter. Files have the names under `module.`."""
  shapes = json.loads((goldens / 'wav2lip_generator.json').read_text())['state']
  params = published.generator_params(
    {f'module.{k}': np.broadcast_to(np.float32(0), s) for k, s in shapes.items()}, 'x'
  )
  assert params['output_block_1']['kernel'].shape == (1, 1, 32, 3)


@pytest.mark.parametrize('double', [True, False])
def test_transposed_convolution_against_its_definition(double):
  """Every input position adds kernel * value to a window of the output, 2 apart (a border of 1 is cut off) or 1."""
  x = np.random.default_rng(0).normal(size=(1, 2, 3, 2)).astype(np.float32)
  net = TransposedConv(3, double)
  params = random_params(jax.eval_shape(net.init, jax.random.key(0), x))
  kernel, bias = (np.float64(params['params'][k]) for k in ('kernel', 'bias'))
  stride, padding = (2, 1) if double else (1, 0)
  out = np.zeros((2 * stride + 3, 3 * stride + 3, 3))
  for row in range(2):
    for column in range(3):
      window = out[row * stride : row * stride + 3, column * stride : column * stride + 3]
      window += np.einsum('hwoi,i->hwo', kernel, x[0, row, column])
  height, width = (4, 6) if double else (4, 5)
  expected = out[padding : padding + height, padding : padding + width] + bias
  np.testing.assert_allclose(net.apply(params, x)[0], expected, rtol=1e-4, atol=1e-5)


def test_only_faces_of_its_size():
  with pytest.raises(ValueError, match='a face of 64x96 pixels: expected 96x96'):
    jax.eval_shape(Wav2Lip().init, jax.random.key(0), jnp.zeros((1, 80, 16, 1)), jnp.zeros((1, 64, 96, 6)))

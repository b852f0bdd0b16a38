"""The large layout of wav2vec 2.0 (LayerNorm after every convolution, pre-norm layers) against plain NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.nn.wav2vec2 import Wav2Vec2
from talkjax.weights import pretrained
from talkjax.weights.fit import fit

WIDTH, LAYERS, HEADS, HIDDEN, CONV, POSITIONS, GROUPS = 16, 2, 4, 24, 8, 6, 4
KERNELS, STRIDES = (10, 3, 2), (5, 2, 2)
NET = Wav2Vec2(
  WIDTH, LAYERS, HEADS, HIDDEN, (CONV,) * 3, KERNELS, STRIDES, True, 'layer', POSITIONS, GROUPS, stable=True
)
gelu = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))


def published() -> dict[str, np.ndarray]:
  """Random parameters under the names and in the layouts of the published checkpoints (Wav2Vec2ForPreTraining)."""
  shapes = {'feature_projection.layer_norm': (CONV,), 'feature_projection.projection': (WIDTH, CONV)}
  for i, kernel in enumerate(KERNELS):
    shapes[f'feature_extractor.conv_layers.{i}.conv'] = (CONV, CONV if i else 1, kernel)
    shapes[f'feature_extractor.conv_layers.{i}.layer_norm'] = (CONV,)
  shapes['encoder.layer_norm'] = (WIDTH,)
  for i in range(LAYERS):
    layer = f'encoder.layers.{i}'
    shapes |= {f'{layer}.attention.{name}_proj': (WIDTH, WIDTH) for name in ('q', 'k', 'v', 'out')}
    shapes |= {f'{layer}.{name}': (WIDTH,) for name in ('layer_norm', 'final_layer_norm')}
    shapes[f'{layer}.feed_forward.intermediate_dense'] = (HIDDEN, WIDTH)
    shapes[f'{layer}.feed_forward.output_dense'] = (WIDTH, HIDDEN)
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  state = {}
  for name, shape in shapes.items():
    state |= {f'{name}.weight': draw(*shape) / math.sqrt(np.prod(shape[1:])), f'{name}.bias': 0.1 * draw(shape[0])}
  position = 'encoder.pos_conv_embed.conv'
  state |= {f'{position}.weight_g': 1 + abs(draw(1, 1, POSITIONS)), f'{position}.bias': 0.1 * draw(WIDTH)}
  state[f'{position}.weight_v'] = draw(WIDTH, WIDTH // GROUPS, POSITIONS)
  state = {f'wav2vec2.{name}': value for name, value in state.items()}
  return state | {'project_hid.weight': draw(4, WIDTH), 'quantizer.codevectors': draw(1, 4, 2)}


def reference(state, waveform) -> list[np.ndarray]:
  """The hidden states [t, WIDTH] of a waveform [s]."""
  p = {name.removeprefix('wav2vec2.'): value.astype(np.float64) for name, value in state.items()}

  def norm(x, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * p[f'{name}.weight'] + p[f'{name}.bias']

  def dense(x, name):
    return x @ p[f'{name}.weight'].T + p[f'{name}.bias']

  def convolve(x, kernel, stride=1):  # x [t, in], kernel [out, in, k]
    starts = range(0, len(x) - kernel.shape[2] + 1, stride)
    return np.stack([np.einsum('ki,oik->o', x[s : s + kernel.shape[2]], kernel) for s in starts])

  x = waveform[:, None].astype(np.float64)
  for i, stride in enumerate(STRIDES):
    name = f'feature_extractor.conv_layers.{i}'
    x = gelu(norm(convolve(x, p[f'{name}.conv.weight'], stride) + p[f'{name}.conv.bias'], f'{name}.layer_norm'))
  x = dense(norm(x, 'feature_projection.layer_norm'), 'feature_projection.projection')
  g, v = p['encoder.pos_conv_embed.conv.weight_g'], p['encoder.pos_conv_embed.conv.weight_v']
  kernel = g * v / np.sqrt((v**2).sum((0, 1), keepdims=True))
  padded = np.pad(x, ((POSITIONS // 2, POSITIONS // 2 - 1), (0, 0)))
  each = zip(np.split(padded, GROUPS, axis=1), np.split(kernel, GROUPS))
  positions = np.concatenate([convolve(part, own) for part, own in each], axis=1)
  x = x + gelu(positions + p['encoder.pos_conv_embed.conv.bias'])
  states = []
  for i in range(LAYERS):
    states.append(x)
    name = f'encoder.layers.{i}'
    y = norm(x, f'{name}.layer_norm')
    q, k, v = (dense(y, f'{name}.attention.{n}_proj').reshape(len(y), HEADS, -1) for n in 'qkv')
    scores = np.einsum('qhd,khd->hqk', q, k) / math.sqrt(WIDTH / HEADS)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = np.einsum('hqk,khd->qhd', weights / weights.sum(-1, keepdims=True), v).reshape(len(y), WIDTH)
    x = x + dense(y, f'{name}.attention.out_proj')
    y = gelu(dense(norm(x, f'{name}.final_layer_norm'), f'{name}.feed_forward.intermediate_dense'))
    x = x + dense(y, f'{name}.feed_forward.output_dense')
  return [*states, norm(x, 'encoder.layer_norm')]


def test_the_large_layout():
  state = published()
  waveform = np.random.default_rng(1).standard_normal(300).astype(np.float32)
  wanted = jax.eval_shape(NET.init, jax.random.key(0), jnp.zeros((1, 300)))['params']
  params = fit(pretrained.wav2vec2_state(state), wanted, 'published')
  states = jax.jit(NET.apply)({'params': params}, waveform[None])
  expected = reference(state, waveform)
  assert len(states) == len(expected) == LAYERS + 1
  for ours, theirs in zip(states, expected):
    np.testing.assert_allclose(ours[0], theirs, atol=2e-4)

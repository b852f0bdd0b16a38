"""The latent U-Net: published sizes, zero-initialised additions, conditioning, precomputed keys and values."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax.nn.autoencoder import Autoencoder
from talkjax.nn.latent_unet import Conditioning, LatentUNet, ResnetBlock, Temporal, precompute_kv
from talkjax.nn.transformer import ImageTokens, SpatialBlock, positions
from talkjax.nn.wav2vec2 import Wav2Vec2
from talkjax.training.sharding import path_name
from talkjax.weights import pretrained
from tests.micro import random_params

SMALL = dict(out_channels=4, widths=(32, 64), attention=(True, False), layers=1, heads=4, groups=8)
KEY = jax.random.key(0)


def count(shapes) -> int:
  return sum(x.size for x in jax.tree.leaves(shapes))


def init(net, x, time, conditioning, frames=1):
  return net.init(KEY, x, time, conditioning, frames)['params']


@functools.partial(jax.jit, static_argnums=(0, 5))
def call(net, params, x, time, conditioning, frames=1):
  """(prediction, features)"""
  return net.apply({'params': params}, x, time, conditioning, frames)


def noise(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture(scope='module')
def backbone():
  """A backbone with every kind of conditioning: (network, parameters of which none is zero, x, conditioning)."""
  sizes = SMALL | dict(widths=(32,), attention=(True,))
  net = LatentUNet(**sizes, contexts=('reference', 'audio'), temporal=Temporal(speed=True, heads=4))
  x, portraits = noise(1, 6, 8, 8, 4), noise(2, 2, 8, 8, 4)
  reference = LatentUNet(**sizes, head=False)
  text = Conditioning({'text': jnp.zeros((1, 1, 16))})
  params = random_params(jax.eval_shape(lambda: init(reference, portraits, jnp.zeros(2), text)))
  features = call(reference, params, portraits, jnp.zeros(2), text)[1]
  conditioning = Conditioning(
    {'reference': {k: v for k, v in features.items() if 'attentions' in k}, 'audio': noise(3, 6, 5, 16)},
    motion_features={k: noise(i, 2, 2, *v.shape[1:]) for i, (k, v) in enumerate(features.items()) if 'layers' in k},
    speed=noise(4, 2, 3, 12),
    modulation=noise(6, 6, 10),
  )
  params = random_params(jax.eval_shape(lambda: init(net, x, jnp.zeros(2), conditioning, 3)))
  return net, params, x, conditioning


def test_published_sizes():
  """Parameters of the published checkpoints."""
  for middle, parameters in ((False, 417_137_600), (True, 453_209_280)):  # AnimateDiff v1 and v2
    shapes = pretrained.unet_shapes(LatentUNet(temporal=Temporal(middle)))
    motion = count({k: v for k, v in shapes.items() if 'motion_modules' in k})
    assert motion == parameters and count(shapes) - motion == 859_520_964
  assert count(jax.eval_shape(Autoencoder().init, KEY, jnp.zeros((1, 8, 8, 3)))) == 83_653_863
  # The published file also holds the 768 numbers of masked_spec_embed and the 128 gains of a weight normalisation.
  assert count(jax.eval_shape(Wav2Vec2().init, KEY, jnp.zeros((1, 800)))) == 94_371_712 - 768 - 128


@pytest.mark.slow
def test_zero_initialised_additions_leave_the_output_bit_identical():
  """The parameters of a plain U-Net, in one with fresh reference, audio and temporal layers."""
  x, time = noise(1, 4, 8, 8, 4), jnp.array([3.0, 700.0])
  plain = LatentUNet(**SMALL, contexts=())
  trained = random_params(jax.eval_shape(lambda: init(plain, x, jnp.repeat(time, 2), Conditioning())))
  extended = LatentUNet(**SMALL, contexts=('reference', 'audio'), zero_contexts=True, temporal=Temporal(heads=4))
  widths = {'down_blocks_0': (64, 32), 'mid_block': (16, 64), 'up_blocks_1': (64, 32)}  # pixels and channels
  reference = {p: noise(5, 2, *widths[p.partition('_attentions_')[0]]) for p in trained if '_attentions_' in p}
  conditioning = Conditioning({'reference': reference, 'audio': noise(3, 4, 5, 16)})
  flat = lambda tree: {path_name(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}
  copied = flat(trained)
  initialise = lambda: init(extended, x, time, conditioning, 2)
  fresh = jax.jit(lambda: {k: v for k, v in flat(initialise()).items() if k not in copied})()
  merged = lambda p, _: (copied | fresh)[path_name(p)]
  params = jax.tree_util.tree_map_with_path(merged, jax.eval_shape(initialise))
  # Operation by operation, as a compiler may round differently in each of two programs.
  expected, _ = plain.apply({'params': trained}, x, jnp.repeat(time, 2), Conditioning())
  prediction, _ = extended.apply({'params': params}, x, time, conditioning, 2)
  np.testing.assert_array_equal(prediction, expected)


def test_precomputed_keys_and_values_give_the_same_prediction(backbone):
  net, params, x, conditioning = backbone
  expected, _ = call(net, params, x, jnp.ones(2), conditioning, 3)
  precomputed = dataclasses.replace(conditioning, contexts=precompute_kv(params, conditioning.contexts))
  prediction, _ = call(net, params, x, jnp.ones(2), precomputed, 3)
  np.testing.assert_allclose(prediction, expected, atol=1e-5 * float(jnp.abs(expected).max()))


def test_a_clip_does_not_depend_on_its_batch(backbone):
  net, params, x, conditioning = backbone
  both, _ = call(net, params, x, jnp.ones(2), conditioning, 3)
  second = jax.tree.map(lambda a: a[a.shape[0] // 2 :], conditioning)
  alone, _ = call(net, params, x[3:], jnp.ones(1), second, 3)
  np.testing.assert_allclose(alone, both[3:], atol=1e-4)


def test_guide_features_are_added_after_the_first_convolution(backbone):
  net, params, x, conditioning = backbone
  guide = noise(8, 2, 1, 1, 32) * jnp.ones((2, 8, 8, 1))  # one for the three frames of each clip
  # The same for a convolution with that bias.
  biased = {**params, 'conv_in': {**params['conv_in'], 'bias': params['conv_in']['bias'] + guide[0, 0, 0]}}
  expected, _ = call(net, biased, x, jnp.ones(2), conditioning, 3)
  prediction, _ = call(net, params, x, jnp.ones(2), dataclasses.replace(conditioning, guide_features=guide), 3)
  np.testing.assert_allclose(prediction[:3], expected[:3], atol=1e-4)
  assert not jnp.allclose(prediction[3:], expected[3:], atol=1e-3)


def test_the_prediction_depends_on_every_condition(backbone):
  net, params, x, conditioning = backbone
  squared = lambda given: jnp.sum(jnp.square(net.apply({'params': params}, x, jnp.ones(2), given, 3)[0]))
  gradient = jax.jit(jax.grad(squared))(conditioning)
  change = jax.tree.map(lambda a: noise(9, *a.shape), conditioning)
  for part in (lambda c: c.contexts['reference'], lambda c: c.contexts['audio'], lambda c: c.motion_features,
               lambda c: c.speed, lambda c: c.modulation):  # fmt: skip
    slope = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(part(gradient)), jax.tree.leaves(part(change))))
    assert abs(float(slope)) > 1e-3


def test_two_contexts_are_attended_to_one_after_the_other():
  """m1 = phi1(motion, J), m2 = phi2(appearance, m1): each is what a block with that context alone computes."""
  x, motion, appearance = noise(1, 2, 9, 16), noise(2, 2, 1, 12), noise(3, 2, 9, 8)
  both = SpatialBlock(2, ('motion', 'appearance'))
  given = {'motion': motion, 'appearance': appearance}
  params = random_params(jax.eval_shape(lambda: both.init(KEY, x, given, {})['params']))
  # Where attention and feed-forward of everything else are zero, a block is the attention to its one context.
  silent = lambda *names: {
    k: jax.tree.map(jnp.zeros_like, v) if k in names else v for k, v in params.items() if k.startswith(('attn', 'ff'))
  }
  run = lambda contexts, params, x: SpatialBlock(2, contexts).apply({'params': params}, x, given, {})[0]
  first = run(('motion',), {**params, **silent('attn1', 'ff')}, x)
  second = run(('appearance',), {**params, **silent('attn1', 'ff')}, first)
  np.testing.assert_allclose(run(('motion', 'appearance'), {**params, **silent('attn1', 'ff')}, x), second, atol=1e-5)
  assert float(jnp.abs(first - x).max()) > 1e-3 and float(jnp.abs(second - first).max()) > 1e-3
  # One motion token: every pixel gets the same.
  np.testing.assert_allclose(first - x, jnp.broadcast_to((first - x)[:, :1], x.shape), atol=1e-6)


def test_precomputed_motion_and_appearance_give_the_same_prediction():
  net = LatentUNet(**SMALL, contexts=('motion', 'appearance'))
  x = noise(1, 4, 8, 8, 4)
  conditioning = Conditioning({'motion': noise(2, 4, 1, 16), 'appearance': noise(3, 2, 64, 16)})
  params = random_params(jax.eval_shape(lambda: init(net, x, jnp.zeros(4), conditioning)))
  assert {'attn1', 'attn2', 'attn2_5'} <= params['mid_block_attentions_0']['transformer_blocks_0'].keys()
  expected, _ = call(net, params, x, jnp.ones(4), conditioning)
  precomputed = Conditioning(precompute_kv(params, conditioning.contexts))
  np.testing.assert_allclose(call(net, params, x, jnp.ones(4), precomputed)[0], expected, atol=1e-4)
  repeated = Conditioning(
    {**conditioning.contexts, 'appearance': jnp.repeat(conditioning.contexts['appearance'], 2, 0)}
  )
  np.testing.assert_allclose(call(net, params, x, jnp.ones(4), repeated)[0], expected, atol=1e-4)


def test_tokens_of_an_image_say_where_its_pixels_are():
  x = jnp.ones((1, 3, 5, 4)) * noise(1, 4)  # every pixel is the same
  tokens = ImageTokens(8)
  params = tokens.init(KEY, x)
  y = tokens.apply(params, x).reshape(3, 5, 8)
  pixel = x[0, 0, 0] @ params['params']['proj']['kernel'] + params['params']['proj']['bias']
  np.testing.assert_allclose(y[2, 3, :4], pixel[:4] + positions(3, 4)[2], atol=1e-6)
  np.testing.assert_allclose(y[2, 3, 4:], pixel[4:] + positions(5, 4)[3], atol=1e-6)
  rows = np.asarray(y).reshape(15, 8)
  assert len(np.unique(rows.round(4), axis=0)) == 15


def test_recomputation_changes_nothing():
  net = LatentUNet(4, (16,), (True,), layers=1, heads=2, groups=4, temporal=Temporal(heads=2))
  x, conditioning = noise(1, 4, 4, 4, 4), Conditioning({'text': noise(2, 2, 3, 8)}, modulation=noise(3, 4, 5))
  params = random_params(jax.eval_shape(lambda: init(net, x, jnp.zeros(2), conditioning, 2)))

  def gradient(net):
    squared = lambda p: jnp.sum(jnp.square(net.apply({'params': p}, x, jnp.ones(2), conditioning, 2)[0]))
    function = jax.grad(squared)
    return str(jax.make_jaxpr(function)(params)), jax.jit(function)(params)

  (plain, stored), (remat, recomputed) = gradient(net), gradient(net.clone(remat=True))
  assert remat.count('prevent_cse') > plain.count('prevent_cse') == 0  # of jax.checkpoint
  for a, b in zip(jax.tree.leaves(stored), jax.tree.leaves(recomputed), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-3 * (1 + float(jnp.abs(a).max())))


def test_context_scales_are_factors_of_the_attention_outputs(backbone):
  net, params, x, conditioning = backbone
  run = lambda **fields: call(net, params, x, jnp.ones(2), dataclasses.replace(conditioning, **fields), 3)[0]
  plain = run()
  np.testing.assert_allclose(run(context_scales={'reference': 1.0, 'audio': 1.0}), plain, atol=1e-5)
  silent = run(context_scales={'reference': 1.0, 'audio': 0.0})
  assert not jnp.allclose(silent, plain, atol=1e-3)
  without = run(contexts={'reference': conditioning.contexts['reference']})
  np.testing.assert_allclose(silent, without, atol=1e-4)


def test_a_modulation_is_scaled_from_that_of_silence(backbone):
  net, params, x, conditioning = backbone
  modulation, silence = conditioning.modulation, noise(7, *conditioning.modulation.shape)
  ones = np.ones(6, np.float32)

  def run(scale, modulation=modulation, **fields):
    fields |= {'modulation': modulation, 'context_scales': {'modulation': scale}}
    return call(net, params, x, jnp.ones(2), dataclasses.replace(conditioning, **fields), 3)[0]

  plain, silent = run(ones), run(ones, silence)
  np.testing.assert_allclose(run(5 * ones), plain, atol=1e-4)  # nothing to scale from
  scaled = functools.partial(run, silent_modulation=silence)
  np.testing.assert_allclose(scaled(ones), plain, atol=1e-4)
  np.testing.assert_allclose(scaled(0 * ones), silent, atol=1e-4)
  np.testing.assert_allclose(scaled(3 * ones, silence), silent, atol=1e-4)
  mixed = scaled(np.repeat([0, 1], 3).astype(np.float32))
  np.testing.assert_allclose(mixed, jnp.concatenate([silent[:3], plain[3:]]), atol=1e-4)
  assert not jnp.allclose(scaled(2 * ones), plain, atol=1e-3)


def test_a_modulation_scales_and_shifts_the_second_norm():
  block = ResnetBlock(4, groups=2)
  x, modulation = noise(1, 4, 3, 3, 4), noise(2, 2, 5)
  params = block.init(KEY, x, None, modulation)['params']
  # As without one, on features whose GroupNorm has that scale and shift already, for the two images of each.
  for i in range(4):
    change = modulation[i // 2] @ params['modulation']['kernel'] + params['modulation']['bias']
    scale, shift = 1 + change[:4], change[4:]
    norm = {'scale': params['norm2']['scale'] * scale, 'bias': params['norm2']['bias'] * scale + shift}
    plain = {k: v for k, v in params.items() if k != 'modulation'} | {'norm2': norm}
    expected = block.apply({'params': plain}, x[i : i + 1])
    prediction = block.apply({'params': params}, x, None, modulation)[i : i + 1]
    np.testing.assert_allclose(prediction, expected, atol=1e-5)


def test_sizes_that_do_not_fit():
  net = LatentUNet(**SMALL, contexts=())
  with pytest.raises(ValueError, match='multiples of 2'):
    jax.eval_shape(lambda: init(net, jnp.zeros((1, 7, 8, 4)), jnp.zeros(1), Conditioning()))
  clip = LatentUNet(**SMALL, contexts=(), temporal=Temporal(heads=4, max_frames=2))
  with pytest.raises(ValueError, match='3 frames in a temporal layer made for 2'):
    jax.eval_shape(lambda: init(clip, jnp.zeros((3, 8, 8, 4)), jnp.zeros(1), Conditioning(), 3))


def test_wav2vec2_knows_its_number_of_features():
  net = Wav2Vec2(32, 1, 4, 64, (16,) * 7, position_kernel=16, position_groups=4)
  for samples in (400, 799, 16_000):
    states = jax.eval_shape(lambda rng, s=samples: net.init_with_output(rng, jnp.zeros((1, s)))[0], KEY)
    assert states[-1].shape == (1, net.num_features(samples), 32) and len(states) == 2


def test_wav2vec2_ignores_padding():
  net = Wav2Vec2(32, 2, 4, 64, (16,) * 7, position_kernel=16, position_groups=4)
  waveform = noise(3, 1, 4000)
  params = random_params(jax.eval_shape(net.init, KEY, waveform))
  apply = jax.jit(net.apply)
  for samples in (800, 2345):
    short = apply(params, waveform[:, :samples])[-1]
    padded = apply(params, waveform, samples)[-1]
    np.testing.assert_allclose(padded[:, : short.shape[1]], short, atol=2e-5)


def test_each_level_may_have_its_own_number_of_heads():
  """As in Stable Diffusion 2; the middle block has that of the last level."""
  x, text = noise(1, 1, 8, 8, 4), Conditioning({'text': noise(2, 1, 3, 16)})
  nets = {heads: LatentUNet(**{**SMALL, 'attention': (True, True), 'heads': heads}) for heads in ((4, 2), 4, 2)}
  params = random_params(jax.eval_shape(lambda: init(nets[4], x, jnp.zeros(1), text)))
  for path in ('down_blocks_0_attentions_0', 'up_blocks_1_attentions_0', 'up_blocks_1_attentions_1'):
    params[path]['proj_out'] = jax.tree.map(jnp.zeros_like, params[path]['proj_out'])  # without effect on the others
  outputs = {heads: call(net, params, x, jnp.zeros(1), text) for heads, net in nets.items()}
  features = {heads: output[1] for heads, output in outputs.items()}
  equal = lambda path, heads: np.array_equal(features[4, 2][path], features[heads][path])
  assert equal('down_blocks_0_attentions_0', 4) and not equal('down_blocks_0_attentions_0', 2)
  assert not equal('up_blocks_1_attentions_0', 2)  # the inputs are those of two heads
  np.testing.assert_array_equal(outputs[4, 2][0], outputs[2][0])

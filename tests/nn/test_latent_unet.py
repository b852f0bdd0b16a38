"""The latent U-Net: published sizes, additions that start as nothing, contexts hoisted out of the loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax import foundations
from talkjax.nn.autoencoder import Autoencoder, Folding
from talkjax.nn.latent_unet import LatentUNet, ResnetBlock, Temporal, hoist
from talkjax.nn.wav2vec2 import Wav2Vec2
from talkjax.training import state

SMALL = dict(out_channels=4, widths=(32, 64), attention=(True, False), layers=1, heads=4, groups=8)
KEY = jax.random.key(0)


def count(shapes) -> int:
  return sum(x.size for x in jax.tree.leaves(shapes))


def start(net, seed, x, time, contexts, frames=1, **told):
  init = jax.jit(lambda rng: net.init(rng, x, time, contexts, frames=frames, **told))
  return init(jax.random.key(seed))['params']


def call(net, params, x, time, contexts, frames=1, **told):
  """(prediction, features)"""
  run = jax.jit(lambda params, x, told: net.apply({'params': params}, x, time, frames=frames, **told))
  return run(params, x, {'contexts': contexts, **told})


def noise(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture(scope='module')
def reading():
  """A backbone that reads a portrait, sound, motion frames and speed, with parameters that are none of them zero."""
  net = LatentUNet(**SMALL, contexts=('reference', 'audio'), temporal=Temporal(speed=True, heads=4))
  x, portraits = noise(1, 6, 8, 8, 4), noise(2, 2, 8, 8, 4)
  looking = LatentUNet(**SMALL, head=False)
  text = {'text': jnp.zeros((1, 1, 16))}
  features = call(looking, start(looking, 0, portraits, jnp.zeros(2), text), portraits, jnp.zeros(2), text)[1]
  told = dict(
    contexts={'reference': {k: v for k, v in features.items() if 'attentions' in k}, 'audio': noise(3, 6, 5, 16)},
    before={k: noise(i, 2, 2, *v.shape[1:]) for i, (k, v) in enumerate(features.items()) if 'layers' in k},
    speed=noise(4, 2, 3, 12),
    modulation=noise(6, 6, 10),
  )
  params = start(net, 0, x, jnp.zeros(2), frames=3, **told)
  leaves, tree = jax.tree.flatten(params)
  params = tree.unflatten([p + 0.05 * noise(i, *p.shape) for i, p in enumerate(leaves)])
  return net, params, x, told


def test_published_sizes():
  """Parameters of the published checkpoints."""
  assert count(foundations.unet_shapes(LatentUNet())) == 859_520_964
  for middle, parameters in ((False, 417_137_600), (True, 453_209_280)):  # AnimateDiff v1 and v2
    both = foundations.unet_shapes(LatentUNet(temporal=Temporal(middle)))
    assert count({k: v for k, v in both.items() if 'motion_modules' in k}) == parameters
  assert count(jax.eval_shape(Autoencoder().init, KEY, jnp.zeros((1, 8, 8, 3)))) == 83_653_863
  # The published file also holds the 768 numbers of masked_spec_embed and the 128 gains of a weight normalisation.
  assert count(jax.eval_shape(Wav2Vec2().init, KEY, jnp.zeros((1, 800)))) == 94_371_712 - 768 - 128


def test_zero_additions_leave_the_output_bit_identical():
  """A plain U-Net's parameters in one that reads a reference, sound and time, whose own start at zero."""
  x, time = noise(1, 4, 8, 8, 4), jnp.array([3.0, 700.0])
  plain = LatentUNet(**SMALL, contexts=())
  trained = start(plain, 0, x, jnp.repeat(time, 2), {})
  expected, _ = call(plain, trained, x, jnp.repeat(time, 2), {})
  more = LatentUNet(**SMALL, contexts=('reference', 'audio'), zero_contexts=True, temporal=Temporal(heads=4))
  widths = {'down_blocks_0': (64, 32), 'mid_block': (16, 64), 'up_blocks_1': (64, 32)}  # pixels and channels
  reference = {p: noise(5, 2, *widths[p.partition('_attentions_')[0]]) for p in trained if '_attentions_' in p}
  told = {'reference': reference, 'audio': noise(3, 4, 5, 16)}
  fresh = start(more, 1, x, time, told, frames=2)
  taken = {state.path_name(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(trained)}
  merged = jax.tree_util.tree_map_with_path(lambda p, leaf: taken.get(state.path_name(p), leaf), fresh)
  got, _ = call(more, merged, x, time, told, frames=2)
  np.testing.assert_array_equal(got, expected)


def test_hoisted_contexts_give_the_same(reading):
  net, params, x, told = reading
  expected, _ = call(net, params, x, jnp.ones(2), frames=3, **told)
  hoisted = {**told, 'contexts': hoist(params, told['contexts'])}
  got, _ = call(net, params, x, jnp.ones(2), frames=3, **hoisted)
  np.testing.assert_allclose(got, expected, atol=1e-5 * float(jnp.abs(expected).max()))


def test_a_clip_does_not_depend_on_its_batch(reading):
  net, params, x, told = reading
  whole, _ = call(net, params, x, jnp.ones(2), frames=3, **told)
  second = jax.tree.map(lambda a: a[a.shape[0] // 2 :], told)
  alone, _ = call(net, params, x[3:], jnp.ones(1), frames=3, **second)
  np.testing.assert_allclose(alone, whole[3:], atol=1e-4)


def test_everything_told_is_heard(reading):
  net, params, x, told = reading
  moved = jax.tree.map(lambda a: noise(9, *a.shape), told)
  run = jax.jit(lambda told: net.apply({'params': params}, x, jnp.ones(2), frames=3, **told)[0])
  slopes = jax.grad(lambda told: jnp.sum(jnp.square(run(told))))(told)
  for what in (lambda t: t['contexts']['reference'], lambda t: t['contexts']['audio'], lambda t: t['before'],
               lambda t: t['speed'], lambda t: t['modulation']):  # fmt: skip
    slope = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(what(slopes)), jax.tree.leaves(what(moved))))
    assert abs(float(slope)) > 1e-3


def test_weights_scale_what_attention_adds(reading):
  net, params, x, told = reading
  run = lambda weights, told=told: call(net, params, x, jnp.ones(2), frames=3, **told, weights=weights)[0]
  plain = run({})
  np.testing.assert_allclose(run({'reference': 1.0, 'audio': 1.0}), plain, atol=1e-5)
  silent = run({'audio': 0.0})
  assert not jnp.allclose(silent, plain, atol=1e-3)
  deaf = {**told, 'contexts': {'reference': told['contexts']['reference']}}
  np.testing.assert_allclose(silent, run({}, deaf), atol=1e-4)


def test_a_modulation_counts_from_silence(reading):
  net, params, x, told = reading
  silence = noise(7, *told['modulation'].shape)
  run = lambda weight, **more: call(
    net, params, x, jnp.ones(2), frames=3, **{**told, **more}, weights={'modulation': jnp.asarray(weight)}
  )[0]
  silent = run(1.0, modulation=silence)
  np.testing.assert_allclose(run(1.0, silence=silence), run(5.0), atol=1e-4)  # as trained; nothing to count from
  np.testing.assert_allclose(run(0.0, silence=silence), silent, atol=1e-4)
  np.testing.assert_allclose(run(3.0, silence=silence, modulation=silence), silent, atol=1e-4)
  mixed = run([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], silence=silence)
  np.testing.assert_allclose(mixed, jnp.concatenate([silent[:3], run(1.0)[3:]]), atol=1e-4)
  assert not jnp.allclose(run(2.0, silence=silence), run(1.0), atol=1e-3)


def test_a_modulation_scales_and_shifts_the_second_norm():
  block = ResnetBlock(4, groups=2)
  x, told = noise(1, 4, 3, 3, 4), noise(2, 2, 5)
  params = block.init(KEY, x, None, told)['params']
  # As without one, on features whose GroupNorm has that scale and shift already, for the two pictures of each.
  for i in range(4):
    change = told[i // 2] @ params['modulation']['kernel'] + params['modulation']['bias']
    scale, shift = 1 + change[:4], change[4:]
    norm = {'scale': params['norm2']['scale'] * scale, 'bias': params['norm2']['bias'] * scale + shift}
    plain = {k: v for k, v in params.items() if k != 'modulation'} | {'norm2': norm}
    expected = block.apply({'params': plain}, x[i : i + 1])
    np.testing.assert_allclose(block.apply({'params': params}, x, None, told)[i : i + 1], expected, atol=1e-5)


def test_recomputation_changes_nothing(reading):
  net, params, x, told = reading
  value = lambda n: lambda p: jnp.sum(jnp.square(n.apply({'params': p}, x, jnp.ones(2), frames=3, **told)[0]))
  plain, again = (jax.jit(jax.grad(value(net.clone(remat=r))))(params) for r in (False, True))
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-3 * (1 + float(jnp.abs(a).max())))


def test_bad_sizes():
  net = LatentUNet(**SMALL, contexts=())
  with pytest.raises(ValueError, match='multiples of 2'):
    start(net, 0, jnp.zeros((1, 7, 8, 4)), jnp.zeros(1), {})
  clip = LatentUNet(**SMALL, contexts=(), temporal=Temporal(heads=4, max_frames=2))
  with pytest.raises(ValueError, match='3 frames in a temporal layer made for 2'):
    start(clip, 0, jnp.zeros((3, 8, 8, 4)), jnp.zeros(1), {}, frames=3)


def test_folding_loses_nothing():
  pictures = noise(0, 2, 16, 8, 3)
  latents = Folding(4).encode(pictures)
  assert latents.shape == (2, 4, 2, 48)
  np.testing.assert_array_equal(Folding(4).decode(latents), pictures)


def test_autoencoder_scales_what_it_decodes():
  net = Autoencoder((32, 32), layers=1, groups=8, scaling=0.5)
  pictures = noise(0, 1, 16, 16, 3)
  params = net.init(KEY, pictures)
  mean, logvar = net.apply(params, pictures, method='moments')
  np.testing.assert_allclose(net.apply(params, pictures, method='encode'), 0.5 * mean, rtol=1e-6)
  drawn = jnp.stack([net.apply(params, pictures, jax.random.key(i), method='encode') for i in range(200)])
  np.testing.assert_allclose(drawn.mean(0), 0.5 * mean, atol=0.3)
  np.testing.assert_allclose(drawn.std(0), 0.5 * jnp.exp(0.5 * logvar), rtol=0.5)


def test_wav2vec2_says_how_many_features():
  net = Wav2Vec2(32, 1, 4, 64, (16,) * 7, position_kernel=16, position_groups=4)
  for samples in (400, 799, 16_000):
    states = jax.eval_shape(lambda rng, s=samples: net.init_with_output(rng, jnp.zeros((1, s)))[0], KEY)
    assert states[-1].shape == (1, net.num_features(samples), 32) and len(states) == 2


@pytest.mark.parametrize('samples', [800, 2345])
def test_wav2vec2_does_not_hear_what_only_fills(samples):
  net = Wav2Vec2(32, 2, 4, 64, (16,) * 7, position_kernel=16, position_groups=4)
  waveform = noise(3, 1, 4000)
  params = net.init(KEY, waveform)
  short = net.apply(params, waveform[:, :samples])[-1]
  filled = net.apply(params, waveform, samples)[-1]
  np.testing.assert_allclose(filled[:, : short.shape[1]], short, atol=2e-5)

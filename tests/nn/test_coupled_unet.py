"""The coupled U-Net: its published sizes, attention between the modalities, captions."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax.nn.coupled_blocks import ConvAlong, CrossAttention, FrameConv, SelfAttention
from talkjax.nn.coupled_unet import CoupledUNet, JointClassifier
from talkjax.weights import mm_diffusion
from tests.micro import random_params

SMALL = {'width': 32, 'multipliers': (1, 1), 'num_res_blocks': 1, 'video_attention': (2,), 'cross_attention': (2,)}
SMALL |= {'windows': (2,), 'middle_window': 3, 'heads': 2, 'head_channels': 16}


def test_names_and_shapes_are_the_published_ones(goldens):
  """The conversion is strict, so every entry has found its parameter."""
  described = json.loads((goldens / 'mm_diffusion_unet.json').read_text())
  state = {name: np.broadcast_to(np.float32(0), shape) for name, shape in described['state'].items()}
  params, about = mm_diffusion.convert(state, described['config'], 'mm_diffusion_unet')
  assert sum(p.size for p in jax.tree.leaves(params)) == described['params']
  assert about['multipliers'] == tuple(int(n) for n in described['config']['channel_mult'].split(','))


@functools.cache
def made(b=2, f=3, s=24, **fields):
  net = CoupledUNet(**SMALL, **fields)
  keys = jax.random.split(jax.random.key(0), 2)
  video, audio = jax.random.normal(keys[0], (b, f, 4, 4, 3)), jax.random.normal(keys[1], (b, s, 1))
  args = video, audio, jnp.array([5.0, 900.0])[:b], net.draw_shifts(keys[0], f)
  captions = jnp.zeros(b, jnp.int32) if net.num_captions else None
  shapes = jax.eval_shape(lambda key: net.init(key, *args, captions), jax.random.key(1))
  return net, random_params(shapes), args


def test_both_modalities_depend_on_both_and_examples_are_apart():
  net, params, (video, audio, t, shifts) = made()
  run = jax.jit(lambda video, audio: net.apply(params, video, audio, t, shifts))
  plain = run(video, audio)
  for changed in ((-video, audio), (video, -audio), (video.at[1].set(0), audio.at[1].set(0))):
    for old, new in zip(plain, run(*changed), strict=True):
      difference = np.abs(old - new).max(tuple(range(1, old.ndim)))
      assert difference[1] > 1e-3
      assert (difference[0] > 1e-3) == (changed[0] is video or changed[1] is audio)


def test_every_parameter_learns():
  net, params, args = made()
  loss = lambda params: sum(jnp.square(x).sum() for x in net.apply(params, *args))
  for path, leaf in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(params)):
    assert jnp.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_starts_by_predicting_nothing_and_says_what_does_not_fit():
  net, _, args = made()
  params = jax.jit(net.init)(jax.random.key(1), *args)
  video, audio = jax.jit(net.apply)(params, *args)
  assert video.shape == args[0].shape and audio.shape == args[1].shape
  assert not video.any() and not audio.any()
  with pytest.raises(ValueError, match='audio of 22 samples: expected a multiple of 4'):
    net.init(jax.random.key(1), args[0], args[1][:, :22], *args[2:])
  with pytest.raises(ValueError, match='2 positions of audio for 3 frames: expected at least one for each'):
    jax.eval_shape(net.init, jax.random.key(1), args[0], args[1][:, :8], *args[2:])
  with pytest.raises(ValueError, match='frames of 3x4: sides must be multiples of 2'):
    net.init(jax.random.key(1), args[0][:, :, :3], *args[1:])
  with pytest.raises(ValueError, match='captions are given, but num_captions is 0'):
    net.init(jax.random.key(1), *args, jnp.zeros(2, jnp.int32))


def test_captions_shift_and_change_nothing_at_the_start_of_fine_tuning():
  net, params, args = made(num_captions=2)
  run = jax.jit(lambda params, captions: net.apply(params, *args, captions))
  first, second, none = (run(params, jnp.full(2, c)) for c in range(3))
  assert np.abs(first[0] - second[0]).max() > 1e-3 and np.abs(first[1] - none[1]).max() > 1e-3
  plain, _, _ = made()
  without = {
    name: {k: v for k, v in tree.items() if k != 'caption_layers_1'}
    for name, tree in params['params'].items()
    if name != 'caption_embed'
  }
  fresh = jax.tree.map(jnp.asarray, params)
  for tree in fresh['params'].values():
    if 'caption_layers_1' in tree:
      tree['caption_layers_1'] = jax.tree.map(jnp.zeros_like, tree['caption_layers_1'])
  for got, want in zip(run(fresh, jnp.full(2, 1)), plain.apply({'params': without}, *args), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_shifts_cover_their_range():
  net = CoupledUNet(num_res_blocks=1)  # windows 1, 4, 8: one block of each going down, two coming up
  drawn = np.asarray(jax.vmap(lambda key: net.draw_shifts(key, 16))(jax.random.split(jax.random.key(0), 500)))
  assert drawn.min(0).tolist() == [0] * 9
  assert drawn.max(0).tolist() == [15, 12, 8, 8, 8, 12, 12, 15, 15]
  assert not CoupledUNet(shift=False).draw_shifts(jax.random.key(0), 16).any()


def attended(params, video, audio, window, shift):
  """Random-shift attention as loops over frames and over heads of 4 channels, in float64."""
  p = jax.tree.map(np.float64, params)
  (f, h, w, c), s = video.shape, len(audio)
  per = s // f

  def projected(x, kind):
    groups = np.float64(x).reshape(-1, 32, c // 32)
    normal = (groups - groups.mean((0, 2), keepdims=True)) / np.sqrt(groups.var((0, 2), keepdims=True) + 1e-5)
    norm = p[f'{kind}_norm_GroupNorm']
    y = normal.reshape(-1, c) * norm['scale'] + norm['bias']
    return np.split(y @ p[f'{kind}_qkv']['kernel'] + p[f'{kind}_qkv']['bias'], 3, axis=-1)

  def attend(q, k, v):
    out = []
    for head in np.split(np.arange(c), c // 4):
      logits = q[:, head] @ k[:, head].T / 2
      weights = np.exp(logits - logits.max(1, keepdims=True))
      out.append(weights / weights.sum(1, keepdims=True) @ v[:, head])
    return np.concatenate(out, -1)

  (vq, vk, vv), (aq, ak, av) = projected(video, 'v'), projected(audio, 'a')
  pixels = h * w
  seen, heard = [], []
  for i in range(f):
    sounds = (per * (i + shift) + np.arange(per * window)) % s
    seen.append(attend(vq[pixels * i : pixels * (i + 1)], ak[sounds], av[sounds]))
    images = (pixels * (i + shift) + np.arange(pixels * window)) % (f * pixels)
    own = slice(per * i, s if i == f - 1 else per * (i + 1))
    heard.append(attend(aq[own], vk[images], vv[images]))
  out = []
  for x, y, name in ((video, seen, 'video'), (audio, heard, 'audio')):
    proj = p[f'{name}_proj_out_{name}_conv']
    out.append(x + (np.concatenate(y) @ proj['kernel'] + proj['bias']).reshape(x.shape))
  return out


@pytest.mark.parametrize(
  ('window', 'shift', 'samples'), [(1, 3, 12), (2, 1, 12), (2, 2, 15), (3, None, 14), (4, None, 12), (6, None, 12)]
)
def test_windows_against_loops(window, shift, samples):
  """With sound left over after the last frame, with windows that wrap around, and with all in one window."""
  keys = jax.random.split(jax.random.key(window), 2)
  video, audio = jax.random.normal(keys[0], (2, 4, 1, 2, 32)), jax.random.normal(keys[1], (2, samples, 32))
  net = CrossAttention(window, head_channels=4)
  shift = None if shift is None else jnp.int32(shift)
  params = random_params(jax.eval_shape(lambda key: net.init(key, video, audio, shift), jax.random.key(0)))
  got = jax.jit(net.apply)(params, video, audio, shift)
  for i in range(2):
    want = attended(params['params'], video[i], audio[i], window, 0 if shift is None else int(shift))
    for a, b in zip(got, want, strict=True):
      np.testing.assert_allclose(a[i], b, rtol=2e-3, atol=2e-3)


def test_attention_within_the_video_keeps_to_its_frame_or_its_pixel():
  x = jax.random.normal(jax.random.key(0), (1, 3, 2, 2, 32))
  for over_time in (False, True):
    net = SelfAttention(2, over_time)
    params = random_params(jax.eval_shape(net.init, jax.random.key(0), x))
    used = np.abs(jax.grad(lambda x, net=net, p=params: net.apply(p, x)[0, 1, 0, 1].sum())(x)).max(-1)[0] > 0
    expected = np.zeros((3, 2, 2), bool)
    expected[(slice(None), 0, 1) if over_time else 1] = True
    np.testing.assert_array_equal(used, expected)


def test_convolutions_against_sums_over_taps():
  x = np.random.default_rng(0).normal(size=(1, 7, 2)).astype(np.float32)
  net = ConvAlong(3, dilation=2)
  params = random_params(jax.eval_shape(net.init, jax.random.key(0), x))
  kernel, bias = (np.float64(params['params'][k]) for k in ('kernel', 'bias'))
  tap = lambda n, k: x[0, n + 2 * (k - 1)] @ kernel[k] if 0 <= n + 2 * (k - 1) < 7 else 0
  expected = [sum(tap(n, k) for k in range(3)) + bias for n in range(7)]
  np.testing.assert_allclose(net.apply(params, x)[0], expected, rtol=1e-4, atol=1e-5)

  video = np.random.default_rng(1).normal(size=(1, 3, 3, 3, 2)).astype(np.float32)
  net = FrameConv(2)
  params = random_params(jax.eval_shape(net.init, jax.random.key(0), video))
  kernel, bias = (np.float64(params['params'][k]) for k in ('kernel', 'bias'))
  out = net.apply(params, video)
  np.testing.assert_allclose(out[0, 1, 1, 1], np.einsum('thwi,thwio->o', video[0], kernel) + bias, rtol=1e-4)
  at_corner = np.einsum('thwi,thwio->o', video[0, 1:, 1:, :2], kernel[:2, :2, 1:]) + bias
  np.testing.assert_allclose(out[0, 2, 2, 0], at_corner, rtol=1e-4)


@pytest.mark.slow
def test_remat_changes_nothing():
  net, params, args = made()
  again = net.clone(remat=True)
  loss = lambda p, net: sum(jnp.square(x).mean() for x in net.apply(p, *args))
  plain, less = (jax.jit(jax.grad(functools.partial(loss, net=n)))(params) for n in (net, again))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), plain, less)


def test_the_joint_classifier_sees_both_modalities():
  _, _, args = made()
  net = JointClassifier(CoupledUNet(**SMALL, decoder=False), 2)
  params = random_params(jax.eval_shape(net.init, jax.random.key(0), *args))
  log_probability = lambda v, a: jax.nn.log_softmax(net.apply(params, v, a, *args[2:]))[0, 1]
  for gradient in jax.jit(jax.grad(log_probability, argnums=(0, 1)))(*args[:2]):
    assert jnp.abs(gradient[0]).max() > 0 and jnp.abs(gradient[1]).max() == 0

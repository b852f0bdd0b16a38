"""What portrait systems share: predictions, the loss of mouths, audio features, the start of each stage."""

import importlib
import re
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import emo, vexpress
from talkjax import systems, train
from talkjax.diffusion.schedules import Level
from talkjax.errors import UserError
from talkjax.media import picture
from talkjax.nn.latent_unet import Conditioning
from talkjax.systems.audio import Sound
from talkjax.systems.portrait import audio, loss, networks, overlay
from talkjax.systems.portrait.latents import FoldedLatents
from talkjax.systems.portrait.overlay import Overlay
from talkjax.training import checkpoint
from talkjax.training.sharding import path_name
from tests import micro


class Constant(nn.Module):
  """A backbone that predicts the same for every pixel, one number a channel."""

  values: tuple[float, ...]

  @nn.compact
  def __call__(self, x, *_, **__):
    return jnp.broadcast_to(jnp.array(self.values), (*x.shape[:3], len(self.values))), {}


def aids(**given):
  return types.SimpleNamespace(**{'reference': 'none', 'prior': 0.0, **given})


def predict(values, x, condition, level=None, **given):
  nets = types.SimpleNamespace(backbone=Constant(values), aids=aids(**given), latents=FoldedLatents(2))
  level = level or Level(np.array([3, 7]), None, None, None)
  return networks.predict({'backbone': {}}, x, level, condition, nets=nets)


@pytest.mark.parametrize('framewise', [False, True])
def test_a_residual_is_a_part_of_its_own_and_a_multiple_of_the_portrait(framewise):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 3, 4, 4, 2))
  portrait = rng.normal(size=(2, 3, 4, 4, 2) if framewise else (2, 4, 4, 2))
  values = (0.5, -1.0, 2.0, 3.0)
  assert networks.num_references(aids(reference='concatenated')) == 2 and networks.num_references(aids()) == 1
  condition = networks.PortraitConditioning(Conditioning(), portrait)
  per_frame = portrait if framewise else portrait[:, None]
  expected = np.broadcast_to(np.array([0.5, -1.0]) + np.array([2.0, 3.0]) * per_frame, x.shape)
  np.testing.assert_allclose(predict(values, x, condition, reference='concatenated'), expected, atol=1e-6)

  # With a prior, the mean of a Gaussian of that variance given x.
  signal, noise = np.array([0.8, 0.6]), np.array([0.6, 0.8])
  level = Level(np.array([3, 7]), signal**2, signal, noise)
  gain = signal * 0.03 / (signal**2 * 0.03 + noise**2)
  prediction = predict(values, x, condition, level, reference='concatenated', prior=0.03)
  np.testing.assert_allclose(prediction, expected + x * gain.reshape(2, 1, 1, 1, 1), atol=1e-6)

  prediction = predict(values[:2], x, condition)  # without a residual
  np.testing.assert_allclose(prediction, np.broadcast_to(values[:2], x.shape), atol=1e-6)


def test_with_an_overlay_the_video_is_a_blend_of_portraits_and_what_is_added():
  """Whatever the residual is diffused from, undone it is that blend."""
  rng = np.random.default_rng(0)
  x, laid = rng.normal(size=(2, 2, 3, 4, 4, 2))
  portrait = rng.normal(size=(2, 4, 4, 2))
  added, share, factor = np.array([0.5, -1.0]), np.array([0.0, 2.0]), np.array([2.0, 3.0])
  condition = networks.PortraitConditioning(Conditioning(), portrait, Overlay(laid, None), base=laid)
  given = {'reference': 'overlay'}
  assert networks.num_references(aids(**given)) == 3
  residual = predict((*added, *share, *factor), x, condition, **given)
  made = networks.from_residual(residual, laid, types.SimpleNamespace(latents=FoldedLatents(2)))
  blend = laid / (1 + np.exp(-share)) + portrait[:, None] / (1 + np.exp(share))
  np.testing.assert_allclose(made, blend + (added + factor * blend) / 6, atol=1e-5)


def test_a_flow_moves_the_overlay_that_is_blended():
  """A network that predicts nothing but an overlay and its flow shows the portrait where the flow takes it from."""
  patch, size, pixels = 2, 16, 3
  rng = np.random.default_rng(0)
  portrait = rng.uniform(-1, 1, (2, size, size, 3)).astype(np.float32)
  latents = FoldedLatents(patch)
  encode = lambda images: latents.encode({}, images)
  grid = np.broadcast_to(overlay.pixel_centres(size).reshape(size, size, 2), (2, 3, size, size, 2))
  enlarged = overlay.enlarge(portrait)
  frames = np.repeat(encode(portrait)[:, None], 3, 1)
  condition = networks.PortraitConditioning(
    Conditioning(), encode(portrait), Overlay(frames, grid, enlarged), base=frames
  )
  given = aids(reference='flow')
  config = types.SimpleNamespace(aids=given, latents=types.SimpleNamespace(kind='fold', patch=patch))
  assert networks.flow_channels(config) == 2
  values = (0.0,) * 12 + (50.0,) * 12 + (0.0,) * 12 + (pixels / size / overlay.FLOW_SCALE, 0.0)
  nets = types.SimpleNamespace(backbone=Constant(values), aids=given, latents=latents)
  residual = networks.predict({'backbone': {}}, frames, Level(np.zeros(2), None, None, None), condition, nets=nets)
  made = latents.decode({}, networks.from_residual(residual, frames, nets).reshape(6, 8, 8, 12))
  expected = np.repeat(encode(overlay.sample(enlarged, grid + [pixels / size, 0])[:, 0])[:, None], 3, 1)
  np.testing.assert_allclose(made, latents.decode({}, expected.reshape(6, 8, 8, 12)), atol=1e-5)
  kept = portrait.repeat(3, 0)[:, :, pixels + 1 : -1]
  np.testing.assert_allclose(made[:, :, 1 : -1 - pixels], kept, atol=0.5)  # the picture is noise, and sampled smoothly


def test_a_residual_is_undone():
  latents, base = np.random.default_rng(0).normal(size=(2, 2, 3, 4, 4, 2))
  nets = types.SimpleNamespace(latents=FoldedLatents(2))
  condition = networks.PortraitConditioning(Conditioning(), base[:, 0], base=base)
  residual = networks.to_residual(latents, condition, nets)
  np.testing.assert_allclose(residual, 6 * (latents - base))
  np.testing.assert_allclose(networks.from_residual(residual, base, nets), latents, atol=1e-6)
  condition = networks.PortraitConditioning(Conditioning(), base[:, 0])  # without a base nothing changes
  assert networks.to_residual(latents, condition, nets) is latents
  assert networks.from_residual(latents, None, nets) is latents


@pytest.mark.parametrize(
  'changes, said',
  [
    ({'mouth_weight': 1.0}, r'hidden_mouth needs the mouth map that config\.mouth_weight=1 leaves out: set'),
    ({'diffusion.target': 'epsilon'}, r"prior=0\.03 needs a network that predicts x0, .* is 'epsilon': set the prior"),
    ({'aids.prior': 0.0, 'diffusion.target': 'epsilon'}, r"flow blends portraits in .* x0, .* is 'epsilon': set that"),
    ({'latents.kind': 'vae'}, r"flow moves pixels, and config\.latents\.kind is 'vae': set that to 'fold', or"),
    ({'aids.reference': 'near'}, r"reference='near' is not one of none, concatenated, overlay, flow"),
  ],
)
def test_contradicting_aids_are_refused(changes, said, puppets):
  with pytest.raises(UserError, match=said):
    systems.build(micro.config(vexpress, 1, puppets, **changes))


def test_a_small_network_of_an_earlier_version_is_refused(puppets):
  with pytest.raises(UserError, match=r'modulated=True: an earlier version trained .*: train it again, or use that'):
    config = micro.config(vexpress, 1, puppets)
    config.model.modulated = True
    systems.build(config)


def test_a_hidden_mouth_is_noise_and_nothing_else_is():
  keys = jax.random.split(jax.random.key(0), 3)
  x, noise = (jax.random.normal(k, (64, 2, 4, 4, 3)) for k in keys[:2])
  mouth = jnp.zeros((64, 2, 4, 4, 1), bool).at[:, :, 1:3].set(True)
  level = Level(None, None, None, jnp.where(jnp.arange(64) < 32, 0.9, 0.5))
  changed = loss.hide_mouths(x, noise, level, mouth, 0.5, keys[2])
  np.testing.assert_array_equal(changed[:, :, [0, 3]], x[:, :, [0, 3]])
  hidden = np.array([np.array_equal(a, b) for a, b in zip(changed[:, :, 1:3], noise[:, :, 1:3])])
  visible = np.array([np.array_equal(a, b) for a, b in zip(changed[:, :, 1:3], x[:, :, 1:3])])
  assert np.array_equal(hidden, ~visible) and not hidden[32:].any() and 8 < hidden[:32].sum() < 24


def test_audio_features_are_those_of_their_frame():
  settings = micro.emo_config(2).audio
  waveform = np.zeros(16_000, np.float32)
  waveform[10 * 640 : 11 * 640] = np.random.default_rng(0).normal(size=640)  # frame 10
  features = audio.spectrogram(Sound(waveform, 25, 25.0), settings)
  assert features.mean(1).argmax() == 10 and features.shape == (25, 160)
  half = audio.spectrogram(Sound(waveform, 12, 12.5), settings)  # of a video with half the frames
  assert half.mean(1).argmax() == 5


# By config: changes of the first stage, and what stages 2 and 3 may change of what they start from.
STAGES = {
  emo: ({}, 'attn2|modulation|^audio/', 'motion_modules'),
  vexpress: ({'audio.kind': 'none', 'aids.modulation': False}, '(?!)', ''),
}


def stage_config(file, stage, puppets, **changes):
  first = STAGES[file][0] if stage == 1 else {}
  return micro.config(file, stage, puppets, **{'sample_every': 0, **changes, **first})


def flat(tree):
  return {path_name(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize('file', [emo, vexpress])
def test_each_stage_takes_all_of_the_earlier_one_and_adds_what_its_config_names(file, puppets, tmp_path):
  configs = {stage: stage_config(file, stage, puppets) for stage in (1, 2, 3)}
  shapes = {}
  for stage, config in configs.items():
    system = systems.build(config)
    shapes[stage] = jax.eval_shape(system.init, jax.random.key(0), micro.training_batch(config, system))
  for stage in (2, 3):
    earlier = tmp_path / str(stage - 1)
    checkpoint.save_params(earlier, configs[stage - 1], micro.random_params(shapes[stage - 1]), 0)
    loaded = checkpoint.load_part(earlier, shapes[stage], '', missing=configs[stage].init_new)
    paths = {s: {path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(shapes[s])} for s in (stage - 1, stage)}
    assert loaded.keys() == paths[stage - 1]
    added = paths[stage] - paths[stage - 1]
    assert bool(added) == bool(configs[stage].init_new)
    if file is emo:
      assert all(('motion_modules' if stage == 2 else 'speed') in name for name in added)
  if file is emo:
    with pytest.raises(UserError, match='lacks parameter .*motion_modules'):  # a stage left out
      checkpoint.load_part(tmp_path / '1', shapes[3], '', missing=configs[3].init_new)


@pytest.mark.parametrize('file', [emo, vexpress])
def test_images_are_read_as_bytes_and_scaled_on_the_device(file, puppets):
  config = micro.config(file, 2, puppets)
  system = systems.build(config)
  batch = micro.training_batch(config, system)
  images = {k for k, x in batch.items() if x.shape[-3:-1] == (config.size, config.size)}
  assert images >= {'target', 'reference'}
  assert {k: batch[k].dtype for k in images} == dict.fromkeys(images, np.uint8)
  # They are the pixels from 0 to 255: the loss of another scale differs.
  params = micro.random_params(jax.eval_shape(system.init, jax.random.key(0), batch))
  nets = importlib.import_module(f'talkjax.systems.{config.system}.model').make_networks(config)
  latents = networks.encode(params, batch, 'reference', nets)
  np.testing.assert_array_equal(latents, nets.latents.encode(params, picture.to_float(batch['reference'])))


@pytest.mark.large
@pytest.mark.parametrize('file', [emo, vexpress])
def test_three_stages_train_each_from_the_average_of_the_earlier_one(file, puppets, tmp_path):
  changes = {'steps': 2, 'log_every': 1, 'checkpoint_every': 2, 'optimizer.warmup': 0}
  workdirs = {stage: str(tmp_path / str(stage)) for stage in (1, 2, 3)}
  for stage, workdir in workdirs.items():
    train.train(stage_config(file, stage, puppets, init_from=workdirs.get(stage - 1, ''), **changes), workdir)
  leaves = lambda stage, item: flat(checkpoint.load_params(workdirs[stage], item)[1])
  for stage in (2, 3):
    before, after = leaves(stage - 1, 'ema'), leaves(stage, 'params')
    moved = {name for name, value in before.items() if not np.array_equal(after[name], value)}
    assert all(re.search(STAGES[file][stage - 1], name) for name in moved)
    if file is emo:
      assert moved
      new = after.keys() - before.keys()
      assert new and all(('motion_modules' if stage == 2 else 'speed') in name for name in new)
  if file is emo:
    second = leaves(2, 'params')  # zero-initialised layers have learned
    assert all(np.any(x) for name, x in second.items() if 'motion_modules' in name and 'proj_out/kernel' in name)
  else:
    for part in ('backbone/conv_in', 'reference/', 'guider/', 'audio/', 'attn2', 'motion_modules'):
      assert any(part in name for name in moved), part


@pytest.mark.parametrize('file', [emo, vexpress])
def test_frozen_networks_compute_in_float32(file):
  """In `paper`, whose own networks compute in bfloat16."""
  config = file.get_config('paper,stage=2')
  nets = importlib.import_module(f'talkjax.systems.{config.system}.model').make_networks(config)
  assert nets.backbone.dtype == nets.reference.dtype == jnp.bfloat16
  assert nets.latents.net.dtype == nets.audio_features.encoder.net.dtype == jnp.float32
  params = jax.eval_shape(nets.latents.init, jax.random.key(0))
  images = jax.eval_shape(nets.latents.decode, params, jnp.zeros((1, 8, 8, 4), jnp.float32))
  assert images.dtype == jnp.float32

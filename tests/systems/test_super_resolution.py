"""Super-resolution: its examples and losses, one noise per clip, videos of any size, published weights."""

import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import super_resolution as configs
from talkjax import convert, systems
from talkjax.diffusion.noise import keyed_normal
from talkjax.errors import UserError
from talkjax.media import audio, picture, video
from talkjax.nn.guided_unet import concatenate_low_resolution
from talkjax.nn.unet import UNet
from talkjax.pipeline import Pipeline
from talkjax.systems.clips import CHUNK, Frames
from talkjax.systems.super_resolution import data
from talkjax.training import checkpoint, input_pipeline
from talkjax.weights import adm
from tests import torch_file
from tests.commands import call
from tests.micro import generate, random_params
from tests.published_files import adm_state

MICRO = {'size': 32, 'crop_size': 16, 'model.width': 32, 'model.multipliers': (1,), 'data.corpus': 'puppets/tiny'}
MICRO |= {'sampler.steps': 2, 'data.examples_per_record': 4, 'optimizer.warmup': 0}
# The published layout, as small as it can be.
PUBLISHED = {'width': 32, 'multipliers': (1, 1), 'attention_downsamples': (2,), 'num_res_blocks': 1, 'heads': (4, 4)}
PAPER = {f'model.{k}': v for k, v in PUBLISHED.items()} | {'size': 32, 'dtype': 'float32', 'sampler.steps': 2}


@pytest.fixture(scope='module')
def config(puppets):
  c = configs.get_config('tiny')
  c.update_from_flattened_dict(MICRO | {'data.dir': str(puppets)})
  return c


@pytest.fixture(scope='module')
def clips(config):
  return list(input_pipeline.eval_records(config.data, 'test', 2))


def made(config, side):
  system = systems.build(config)
  batch = {'image': np.zeros((1, side, side, 3), np.uint8)}
  return system, random_params(jax.eval_shape(system.init, jax.random.key(0), batch))


@pytest.fixture(scope='module')
def tiny(config):
  return made(config, 16)


def paper_config(**changes):
  c = configs.get_config('paper')
  c.update_from_flattened_dict(PAPER | changes)
  return c


def changed(config, **changes):
  c = config.copy_and_resolve_references()
  c.update_from_flattened_dict(changes)
  return c


def test_small_frames_are_means_over_squares():
  frames = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3)).astype(np.uint8)
  small = data.degrade(frames, 4)
  assert small.shape == (2, 2, 3, 3) and small.dtype == np.uint8
  assert small[1, 1, 2, 0] == np.round(frames[1, 4:, 8:, 0].mean())
  area = cv2.resize(frames[0], (3, 2), interpolation=cv2.INTER_AREA)
  assert np.abs(small[0].astype(int) - area).max() <= 1


def test_examples_are_crops_of_frames_and_the_same_small(config, clips):
  still = changed(config, **{'augment.flip': 0.0})
  example = systems.build(still).read(clips[0], np.random.default_rng(0))
  assert example['image'].shape == (4, 16, 16, 3) and example['low'].shape == (4, 8, 8, 3)
  frames = [picture.fit_square(clips[0].frame(i), 32) for i in range(len(clips[0].frames))]
  starts = [(y, x) for y in range(0, 17, 2) for x in range(0, 17, 2)]
  for image, low in zip(example['image'], example['low']):
    assert any(np.array_equal(f[y : y + 16, x : x + 16], image) for f in frames for y, x in starts)
    np.testing.assert_array_equal(low, data.degrade(image, 2))
  mirrored = systems.build(changed(config, **{'augment.flip': 1.0})).read(clips[0], np.random.default_rng(0))
  np.testing.assert_array_equal(mirrored['image'], example['image'][:, :, ::-1])


def test_a_still_video_stays_still(tiny):
  """The frames of a clip have one noise; clips of other seeds have another."""
  system, params = tiny
  frame = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
  still = Frames(lambda: (np.stack([frame, frame]) for _ in range(CHUNK + 3)))
  videos = generate(system, params, still, [1, 2])
  assert videos.shape == (2, CHUNK + 3, 16, 16, 3)
  for video_of in videos:
    assert (video_of == video_of[0]).all()
  assert not np.array_equal(videos[0], videos[1])


@pytest.mark.parametrize('sampler', ['ddpm', 'dpm++'])
def test_noise_of_every_step_is_that_of_the_clip(config, sampler):
  system, params = made(changed(config, **{'sampler.name': sampler}), 16)
  frames = np.full((3, 8, 8, 3), 90, np.uint8)
  enlarged = system.upscale(params, frames, 3)
  assert (enlarged == enlarged[:1]).all()
  assert np.array_equal(enlarged, system.upscale(params, frames, 3))
  assert not np.array_equal(enlarged, system.upscale(params, frames, 4))


@pytest.mark.parametrize('size', [(8, 8), (7, 9), (5, 12)])
def test_frames_of_any_size(tiny, size):
  system, params = tiny
  frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype(np.uint8)
  assert system.upscale(params, frames, 0).shape == (2, 2 * size[0], 2 * size[1], 3)


def test_an_untrained_network_is_bicubic_interpolation(config, clips):
  """Its last layer is zero, so the residual is."""
  system, params = made(config, 16)
  params['unet']['conv_out'] = jax.tree.map(jnp.zeros_like, params['unet']['conv_out'])
  batch = system.from_records(clips, num_frames=3)
  enlarged = generate(system, params, batch.conditions, [0, 1])
  small = next(iter(batch.conditions.frames()))
  low = picture.to_float(small.astype(np.float32))
  np.testing.assert_allclose(enlarged[:, 0], picture.to_uint8(jax.image.resize(low, (2, 32, 32, 3), 'cubic')), atol=1)
  assert [len(t.frames) for t in batch.truth] == [3, 3]
  np.testing.assert_array_equal(small[1], data.degrade(batch.truth[1].frames[0], 2))


def test_the_variance_learns_from_the_bound_alone():
  """And the prediction from the error alone: of the last layer's channels, the gradients are separate."""
  c = paper_config(size=8)
  system, params = made(c, 8)
  image = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
  batch = {'image': image, 'low': data.degrade(image, 4)}

  @jax.jit
  def terms(last):
    tree = {'unet': {**params['unet'], 'conv_out': last}}
    metrics = system.loss(tree, batch, jax.random.key(1), True)[1]
    return metrics['error'], metrics['bound']

  error, bound = (np.asarray(g['bias']) for g in jax.jacrev(terms)(params['unet']['conv_out']))
  assert np.isfinite(bound).all() and (error[3:] == 0).all() and (bound[:3] == 0).all()
  assert error[:3].any() and bound[3:].any()


@pytest.fixture(scope='module')
def workdir(config, tmp_path_factory):
  folder = tmp_path_factory.mktemp('super_resolution') / 'run'
  arguments = [f'--config.{key}={value}' for key, value in MICRO.items() if key != 'model.multipliers']
  call(
    'talkjax.train', '--config=configs/super_resolution.py:tiny,model.multipliers=(1,)', *arguments,
    f'--config.data.dir={config.data.dir}', '--config.steps=3', '--config.batch_size=8', '--config.log_every=1',
    '--config.sample_every=3', f'--workdir={folder}',
  )  # fmt: skip
  return str(folder)


def test_it_enlarges_a_video_with_its_sound(workdir, tmp_path):
  sound = (0.2 * np.sin(np.arange(16_000) / 20)).astype(np.float32)
  with video.VideoWriter(tmp_path / 'small.mp4', 12.5, (18, 26), sound, 16_000, crf=10) as writer:
    for i in range(12):
      writer.write(np.full((18, 26, 3), 10 * i, np.uint8))
  call(
    'talkjax.generate', f'--workdir={workdir}', f'--video={tmp_path}/small.mp4', f'--output={tmp_path}/large.mp4',
    '--seed=3', '--steps=1',
  )  # fmt: skip
  info = video.probe(tmp_path / 'large.mp4')
  assert (info.height, info.width, info.fps, info.num_frames) == (36, 52, 12.5, 12)
  assert abs(len(audio.read_audio(tmp_path / 'large.mp4')) - 12 / 12.5 * 16_000) < 2000
  pipeline = Pipeline(workdir)
  first, again = (pipeline.generate(video=str(tmp_path / 'small.mp4'), seed=s, steps=1).frames for s in (3, 3))
  np.testing.assert_array_equal(first, again)


def test_it_is_scored_beside_bicubic_interpolation(workdir, tmp_path):
  call('talkjax.evaluate', f'--workdir={workdir}', '--limit=2', f'--output={tmp_path / "s.json"}')
  scores = json.loads((tmp_path / 's.json').read_text())
  assert 15 < scores['psnr_bicubic'] < 45 and 0 < scores['ssim_bicubic'] < 1
  assert scores['psnr'] > 5 and 0 < scores['change_bicubic'] < 1.2 and scores['change'] > 0


def test_a_video_that_would_become_too_large_is_said(workdir, tmp_path):
  with video.VideoWriter(tmp_path / 'large.mp4', 25.0, (1100, 1200)) as writer:
    writer.write(np.zeros((1100, 1200, 3), np.uint8))
  with pytest.raises(UserError, match='is 1200x1100 and would become 2400x2200: expected at most 1048576 pixels'):
    Pipeline(workdir).generate(video=str(tmp_path / 'large.mp4'))


@pytest.mark.parametrize(
  ('size', 'changes', 'sentence'),
  [
    ('tiny', {'scale': 3}, 'config.scale=3, config.size=128 and config.crop_size=64: expected a scale'),
    ('tiny', {'crop_size': 256}, 'a crop of at most the size'),
    ('tiny', {'model.learned_variance': True}, '^config.model.learned_variance is for'),
    ('paper', {'model.skip': True}, '^config.model.learned_variance is for'),
    ('tiny', {'diffusion.target': 'epsilon'}, '^config.model.skip with config.diffusion.target'),
    ('tiny', {'sampler.name': 'palette'}, "sampler 'palette' is not one of ddim, ddpm, dpm"),
  ],
)
def test_configs_that_contradict_themselves(size, changes, sentence):
  with pytest.raises(UserError, match=sentence):
    systems.build(changed(configs.get_config(size), **changes))


def published_file(path, **fields):
  """A file of the published layout; returns its network."""
  net = UNet(**PUBLISHED, **{'out_channels': 6, 'noise_embedding': 'timestep', **fields})
  labels = jnp.zeros(1, jnp.int32) if net.num_classes else None
  init = lambda key: net.init(key, jnp.zeros((1, 2, 2, 6)), jnp.zeros(1), labels=labels)
  shapes = jax.eval_shape(init, jax.random.key(0))['params']
  layers = adm.layer_names({**PUBLISHED, **fields})
  state = adm_state(shapes, layers, np.random.default_rng(0))
  torch_file.save(path, {name: 0.05 * array for name, array in state.items()})
  return net


def test_published_weights_generate(tmp_path):
  net = published_file(tmp_path / 'AIST++_SR.pt')
  (note,) = convert.convert('super_resolution', tmp_path, str(tmp_path / 'out'))
  assert note == f'params from {tmp_path}/AIST++_SR.pt'
  c, params, _ = checkpoint.load_params(tmp_path / 'out')
  assert (c.size, c.scale, c.sampler.name, c.sampler.steps) == (256, 4, 'ddim', 25)
  assert c.model.learned_variance and tuple(c.model.heads) == (4, 4) and tuple(c.model.multipliers) == (1, 1)
  # One step from noise is what the network itself predicts of the noise.
  frames = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3)).astype(np.uint8)
  enlarged = systems.build(changed(c, **{'sampler.steps': 1, 'dtype': 'float32'})).upscale(params, frames, 5)
  x = keyed_normal(jnp.array([5]), 0, 1, (16, 16, 3))
  inputs = concatenate_low_resolution(x, picture.to_float(frames.astype(np.float32)))
  epsilon = jax.jit(net.apply)({'params': params['unet']}, inputs, jnp.zeros(1))[..., :3]
  level = np.float32(1 - 1e-4)
  clean = (x - np.sqrt(1 - level) * epsilon) / np.sqrt(level)
  np.testing.assert_allclose(enlarged, picture.to_uint8(np.clip(clean, -1, 1)), atol=1)


def test_classes_of_the_published_upsamplers_are_left_out(tmp_path):
  published_file(tmp_path / '128_512_upsampler.pt', num_classes=5)
  (tmp_path / 'config.json').write_text('{"num_head_channels": 16}')
  notes = convert.convert('super_resolution', tmp_path / '128_512_upsampler.pt', str(tmp_path / 'out'))
  assert 'embedding of classes is left out' in notes[1]
  c, params, _ = checkpoint.load_params(tmp_path / 'out')
  assert c.size == 512 and c.model.head_channels == 16 and 'embed_label' not in params['unet']


def test_other_networks_are_refused(tmp_path):
  published_file(tmp_path / 'landscape_SR.pt', out_channels=9)
  with pytest.raises(UserError, match='is no super-resolution network: expected a U-Net of 6 channels'):
    convert.convert('super_resolution', tmp_path / 'landscape_SR.pt', str(tmp_path / 'out'))
  (tmp_path / 'empty').mkdir()
  with pytest.raises(UserError, match='has no super-resolution network: expected landscape_SR.pt'):
    convert.convert('super_resolution', tmp_path / 'empty', str(tmp_path / 'out'))

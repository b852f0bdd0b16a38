"""Stage 3 of FD2Talk on drawn puppets: examples, conditions, generation from records and from files."""

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from talkjax import generate as command
from talkjax import systems
from talkjax.errors import UserError
from talkjax.faces import landmarks, mesh_pca
from talkjax.media import picture, video
from talkjax.systems.fd2talk import conditions, frame_networks, frames, generation, motion, motion_generation
from talkjax.systems.portrait import framing
from talkjax.systems.sampling import make_table
from talkjax.training import checkpoint, sharding
from tests import micro
from tests.commands import ROOT
from tests.renderer import EXPRESSION, IDENTITY, Made, make, params_of


@pytest.fixture(scope='module')
def made(puppets) -> Made:
  return make(puppets)


# Training.


def test_an_example_is_a_frame_with_its_coefficients_and_an_earlier_one_as_portrait(made):
  record, rows = made.records[0], made.records[0].features['coefficients']
  shown = np.stack([picture.fit_square(record.frame(i), 32) for i in range(9)])
  find = lambda image: next(i for i, f in enumerate(shown) if np.array_equal(f, image))
  for seed in range(4):
    example = systems.build(made.change(**{'clip': 3})).read(record, np.random.default_rng(seed))
    for i in range(2):
      target, first = find(example['target'][i]), find(example['reference'][i])
      assert first <= target < first + 3
      np.testing.assert_array_equal(example['rows'][i], rows[target])
      np.testing.assert_array_equal(example['reference_rows'][i], rows[first])
    assert example['weight'].shape == (2, 8, 8, 1) and set(np.unique(example['weight'])) == {1, 16}
  always = systems.build(made.change(**{'data.first_frames': 1.0})).read(record, np.random.default_rng(0))
  assert {find(image) for image in always['reference']} == {0}


def test_a_framed_example_shows_the_face_where_its_coefficients_have_it(made):
  """What training reads of a record is what generation measures in the picture that it is shown."""
  record, config = made.records[0], made.change(framing=1.2)
  system = systems.build(config)
  example = system.read(record, np.random.default_rng(0))
  window = framing.of_record(record, 1.2)
  shown = np.stack([window.picture(record.frame(i), 32) for i in range(9)])
  assert all((shown == image).all((1, 2, 3)).any() for image in example['target'])
  whole = made.system.read(record, np.random.default_rng(0))
  for rows, size, side in ((example['rows'], 32, window.side), (whole['rows'], 32, min(record.size))):
    points = made.model.project(np.float32(rows), (size, size))[:, made.model.landmarks68, :2]
    height = np.ptp(points[..., 1], axis=1) * side / size
    frames_shown = np.ptp(record.landmarks[:, :, 1], axis=1)
    assert np.abs(height / frames_shown.mean() - 1).max() < 0.15
  batch = system.from_records([record], oracle=True)
  (face,) = batch.conditions.faces
  first = mesh_pca.in_square(face_rows(made, record), (window.x, window.y), window.side, record.size)
  np.testing.assert_allclose(face.rows(made.model)[0], first, atol=2e-3)
  np.testing.assert_array_equal(batch.conditions.portraits.reference[0], shown[0])
  np.testing.assert_array_equal(batch.truth[0].frames[0], shown[0])


def face_rows(made, record) -> np.ndarray:
  """The coefficients of the face in a record's first frame."""
  return mesh_pca.of_picture(made.model, record.frame(0))


def test_framing_needs_coefficients_that_follow_a_square(made):
  with pytest.raises(UserError, match='config.framing=1.5 cuts out the face, and coefficients of bfm'):
    systems.build(made.change(**{'framing': 1.5, 'morphable.name': 'bfm'}))


def test_predicted_expressions_come_with_the_true_identity_and_pose(made):
  record, rows = made.records[0], made.records[0].features['coefficients']
  predicted = np.random.default_rng(0).normal(size=(9, EXPRESSION)).astype(np.float16)
  record = dataclasses.replace(record, features={**record.features, 'motion': predicted})
  driving = frames.driving_rows(record, rows, made.change(motion='predicted'))
  np.testing.assert_array_equal(driving[:, IDENTITY:-6], predicted)
  np.testing.assert_array_equal(np.delete(driving, np.s_[IDENTITY:-6], 1), np.delete(rows, np.s_[IDENTITY:-6], 1))
  np.testing.assert_array_equal(frames.driving_rows(record, rows, made.change(motion='true')), rows)
  silent = dataclasses.replace(record, audio=np.zeros(0, np.int16))
  np.testing.assert_array_equal(frames.driving_rows(silent, rows, made.change(motion='predicted')), rows)


def test_the_loss_depends_on_every_condition(made):
  config = made.config
  batch = made.system.read(made.records[0], np.random.default_rng(3))
  batch = {k: jnp.asarray(v, jnp.float32) for k, v in batch.items() if k != 'id'}
  given = ('reference', 'rows', 'reference_rows', 'target')
  slope = jax.jit(jax.grad(lambda x: made.system.loss(made.params, {**batch, **x}, jax.random.key(1), True)[0]))
  for name, gradient in slope({k: batch[k] for k in given}).items():
    assert np.isfinite(gradient).all() and float(jnp.abs(gradient).max()) > 0, name
  assert config.train[0][0] == '^frames/'


def test_mouths_are_hidden_in_training_alone(made):
  config = made.change(**{'aids.hidden_mouth': 0.0})
  batch = {k: v for k, v in made.system.read(made.records[0], np.random.default_rng(3)).items() if k != 'id'}
  value = lambda system, train: float(jax.jit(system.loss, static_argnums=3)(made.params, batch, key, train)[0])
  key, visible = jax.random.key(1), systems.build(config)
  assert made.config.aids.hidden_mouth == 1
  assert value(visible, True) == value(visible, False) == value(made.system, False) != value(made.system, True)
  with pytest.raises(UserError, match='config.aids.hidden_mouth needs the mouth map'):
    systems.build(made.change(mouth_weight=1.0))


@pytest.mark.parametrize('joint', [False, True])
def test_without_aids_the_network_is_that_of_the_paper(made, joint):
  """Noisy latents alone go in, and each block attends to the motion and then to the portrait, or to both at once."""
  aids = {'aids.reference': 'none', 'aids.face_map': False, 'aids.modulation': False}
  config = made.change(**aids, **{'model.joint': joint})
  params, nets = params_of(config, made.records, made.model), frame_networks.make_networks(config)
  block = params['frames']['unet']['mid_block_attentions_0']['transformer_blocks_0']
  assert {k for k in block if k.startswith('attn')} == {'attn1', 'attn2_5', *(() if joint else ('attn2',))}
  assert params['frames']['unet']['conv_in']['kernel'].shape[2] == nets.latents.channels
  assert params['frames'].keys() == {'motion', 'appearance', 'unet'}
  rows = jnp.asarray(made.records[0].features['coefficients'], jnp.float32)[:3]
  images = np.stack([picture.fit_square(made.records[0].frame(i), 32) for i in range(3)])
  level = type('Level', (), {'timestep': jnp.zeros(())})

  @functools.partial(jax.jit, static_argnums=2)
  def predict(images, rows, precomputed=False):
    portrait = frame_networks.portrait(params, {'reference': images}, rows[:1].repeat(3, 0), nets)
    portrait = frame_networks.precompute(params, portrait, nets) if precomputed else portrait
    given = frame_networks.condition(params, portrait, rows, made.model, nets, made.config)
    return frame_networks.predict(params, jnp.ones((3, 8, 8, 48)), level, given, nets)

  base = predict(images[:1].repeat(3, 0), rows[:1].repeat(3, 0))
  np.testing.assert_allclose(base, base[:1].repeat(3, 0), atol=1e-5)
  np.testing.assert_allclose(predict(images[:1].repeat(3, 0), rows[:1].repeat(3, 0), True), base, atol=1e-4)
  for changed in (predict(images, rows[:1].repeat(3, 0)), predict(images[:1].repeat(3, 0), rows)):
    assert float(jnp.abs(changed[2] - base[2]).max()) > 1e-4


# Generation.


def test_a_video_does_not_depend_on_its_batch(made):
  """Nor on the frames that are generated together; a shorter video of a batch holds its last frame."""
  short = dataclasses.replace(micro.cut(made.records[1], 5), features={})
  both = made.system.from_records([made.records[0], short])
  assert both.conditions.pose == [None, None]
  videos = micro.generate(made.system, made.params, both.conditions, [3, 4])
  assert videos.shape == (2, 9, 32, 32, 3)
  alone = systems.build(made.change(frames_at_once=3))
  for i, record in enumerate((made.records[0], short)):
    own = micro.generate(alone, made.params, alone.from_records([record]).conditions, [3 + i])
    assert np.abs(videos[i, : own.shape[1]] - own[0]).max() <= 1
  assert (videos[1, 5:] == videos[1, 4]).all()
  other = micro.generate(made.system, made.params, both.conditions, [5, 4])
  assert np.abs(other[0] - videos[0]).max() > 5 and (other[1] == videos[1]).all()


def sampler_of(config) -> generation.Sampler:
  first = frames.motion_config(config)
  nets, parts = frame_networks.make_networks(config), motion_generation.make_sampler(first)
  return generation.Sampler(nets, config, parts, motion.make_audio(first), make_table(config))


def test_compiled_once_for_every_length(made):
  sampler = sampler_of(made.config)
  for count in (5, 9):
    batch = made.system.from_records([micro.cut(made.records[0], count)])
    chunks = list(generation.generate(made.params, batch.conditions, np.zeros(1, np.uint32), sampler=sampler))
    assert sum(c.frames.shape[1] for c in chunks) == count and chunks[0].frames.shape[1] == 4
  assert sampler.draw._cache_size() == 1


def test_the_true_pose_on_request(made):
  batch = made.system.from_records(made.records[:1], oracle=True).conditions
  portrait = batch.faces[0].rows(made.model)[0]
  pose = batch.pose[0](made.model, portrait, 9)
  track = landmarks.find_faces(map(made.records[0].frame, range(9)))
  np.testing.assert_allclose(pose, mesh_pca.of_track(made.model, track, made.records[0].size)[:, -6:], atol=1e-3)
  assert conditions.back_and_forth(3, 8).tolist() == [0, 1, 2, 1, 0, 1, 2, 1]


@pytest.fixture(scope='module')
def files(made, tmp_path_factory):
  """(portrait, voice of 5 frames)"""
  folder = tmp_path_factory.mktemp('files')
  picture.write(folder / 'portrait.png', made.records[0].frame(0))
  soundfile.write(folder / 'voice.wav', made.records[0].audio[: 5 * 640 - 100], 16_000)
  return (str(folder / 'portrait.png'),), (str(folder / 'voice.wav'),)


read = lambda path: np.stack(list(video.read_frames(path))).astype(int)


def test_saved_motion_renders_the_same_video_and_can_be_edited(made, files, tmp_path):
  render = functools.partial(micro.render, made, image=files[0], audio=files[1])
  path = str(tmp_path / 'm.npz')
  assert render(tmp_path / 'a.mp4', save_motion=path) == {str(tmp_path / 'a.mp4'): 5}
  render(tmp_path / 'b.mp4', motion=path, seed=0)
  assert np.abs(read(tmp_path / 'a.mp4') - read(tmp_path / 'b.mp4')).max() <= 2
  with np.load(path) as file:
    values = dict(file)
  assert values['expression'].shape == (5, EXPRESSION)
  np.testing.assert_allclose(values['translation'].mean(0), 0, atol=1e-4)
  # A face that does not move: with one start noise its frames are the same, with others they differ.
  still = {k: values[k][:1].repeat(5, 0) for k in ('expression', 'angles', 'translation')}
  np.savez(path, **{**values, **still})
  render(tmp_path / 'c.mp4', motion=path)
  frame_noise = dataclasses.replace(
    made, config=made.config, system=systems.build(made.change(**{'sampler.noise': 'frame'}))
  )
  micro.render(frame_noise, tmp_path / 'd.mp4', image=files[0], audio=files[1], motion=path)
  change = lambda name: np.abs(np.diff(read(tmp_path / name), axis=0)).mean()
  assert change('c.mp4') < 0.5 and change('d.mp4') > 2


def test_another_system_can_have_its_motion_drawn(made, files, tmp_path):
  path = str(tmp_path / 'm.npz')
  micro.render(made, tmp_path / 'a.mp4', image=files[0], audio=files[1], save_motion=path, seed=0)
  with np.load(path) as file:
    motion = np.concatenate([file[k] for k in ('expression', 'angles', 'translation')], axis=1)
  portraits = [made.records[0].frame(0), made.records[1].frame(0)]
  draw = made.system.renderer(made.params, portraits)
  both = draw(np.stack([motion, motion]), np.array([0, 1], np.uint32))
  assert both.shape == (2, 5, 32, 32, 3) and both.dtype == np.uint8
  request = systems.Request('a.mp4', {'image': files[0], 'audio': files[1], 'motion': path})
  (batch,) = made.system.from_files(made.params, request)
  own = systems.join(made.system.generate(made.params, batch.conditions(), np.zeros(1, np.uint32))).frames[0]
  assert np.abs(both[0].astype(int) - own).max() <= 2
  assert np.abs(both[0].astype(int) - both[1]).mean() > 10
  # Piece by piece it is the same video.
  pieces = [draw(np.stack([part, part]), np.array([0, 1], np.uint32)) for part in (motion[:2], motion[2:])]
  assert np.abs(np.concatenate(pieces, axis=1).astype(int) - both).max() <= 2


def test_meshes_on_the_left_and_a_sweep_over_seeds(made, files, tmp_path):
  still = dataclasses.replace(made, system=systems.build(made.change(pose='still')))
  micro.render(still, tmp_path / 'm.mp4', image=files[0], audio=files[1], mesh=True)
  assert read(tmp_path / 'm.mp4').shape == (5, 32, 64, 3)
  counts = micro.render(made, tmp_path / 'sweep', sweep=('seed', (0.0, 3.0)), image=files[0], audio=files[1])
  videos = [read(path) for path in counts]
  assert len(videos) == 2 and np.abs(videos[0] - videos[1]).max() > 5
  shown = picture.read(command.compare(counts, 'seed'))
  assert shown.shape[0] == 2 * 32 + 2
  micro.render(made, tmp_path / '3.mp4', image=files[0], audio=files[1], seed=3)
  difference = np.abs(read(tmp_path / '3.mp4') - videos[1])
  assert difference.mean() < 1  # rounding, which the video coder enlarges from frame to frame


def test_motion_that_does_not_fit_is_refused_before_anything_is_generated(made, files, tmp_path):
  path = str(tmp_path / 'm.npz')
  micro.render(made, tmp_path / 'a.mp4', image=files[0], audio=files[1], save_motion=path)
  other = dataclasses.replace(
    made, params={**made.params, 'morphable': {**made.params['morphable'], 'noise': np.float32(9)}}
  )
  with pytest.raises(UserError, match='is of the morphable model mesh_pca'):
    micro.render(other, tmp_path / 'b.mp4', image=files[0], audio=files[1], motion=path)
  soundfile.write(tmp_path / 'long.wav', made.records[0].audio[: 6 * 640], 16_000)
  with pytest.raises(UserError, match='has 5 frames, and the sound lasts 6'):
    micro.render(made, tmp_path / 'b.mp4', image=files[0], audio=(str(tmp_path / 'long.wav'),), motion=path)
  assert not (tmp_path / 'b.mp4').exists()


def images_of_workdir(workdir: str, image: str, voice: str, path: str) -> None:
  """Writes the frames of a video, before they are rounded, generated with a workdir on all devices."""
  config, params, _ = checkpoint.load_params(workdir)
  (batch,) = systems.build(config).from_files(params, systems.Request('', {'image': (image,), 'audio': (voice,)}))
  shared = sampler_of(config)
  frames = list(generation.images(sharding.replicate(params), batch.conditions(), np.array([3], np.uint32), shared))
  np.save(path, np.concatenate(frames, axis=1)[0])


@pytest.mark.slow
def test_the_same_video_on_one_device_and_on_eight(made, files, tmp_path):
  workdir = str(tmp_path / 'workdir')
  # Random parameters multiply rounding errors, unlike trained ones: here they are smaller.
  params = {**made.params, 'frames': jax.tree.map(lambda x: 0.5 * x, made.params['frames'])}
  checkpoint.save_params(workdir, made.change(frames_at_once=1), params, 0)
  arguments = workdir, files[0][0], files[1][0]
  images_of_workdir(*arguments, str(tmp_path / 'one.npy'))
  flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=8'
  script = (
    f'from tests.systems import test_fd2talk_frames as t; t.images_of_workdir(*{arguments}, "{tmp_path}/eight.npy"); '
    'import jax; assert jax.device_count() == 8'
  )
  env = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags}
  done = subprocess.run([sys.executable, '-c', script], env=env, cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-2000:]
  one, eight = np.load(tmp_path / 'one.npy'), np.load(tmp_path / 'eight.npy')
  assert one.shape == (5, 32, 32, 3)
  np.testing.assert_allclose(eight, one, atol=1e-4)

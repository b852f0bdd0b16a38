"""V-Express on drawn puppets: what it reads, what it drops, windows of any length, its three stages, its commands."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from configs import vexpress as config_file
from talkjax import systems, train
from talkjax.diffusion import losses
from talkjax.errors import UsageError, UserError
from talkjax.faces import keypoints
from talkjax.media import picture, video
from talkjax.nn.latent_unet import hoist
from talkjax.systems import portraits
from talkjax.systems.vexpress import animate, data, model, windows
from talkjax.training import checkpoint, input_pipeline, sharding, state
from tests.commands import ROOT, run
from tests.micro import opened
from tests.micro import vexpress_config as micro


@pytest.fixture(scope='module')
def last(puppets):
  """Stage 3 with parameters that are none of them zero, and a batch."""
  config = micro(3, puppets)
  return config, *opened(config)


@pytest.fixture(scope='module')
def records(puppets):
  return list(input_pipeline.eval_records(micro(3, puppets).data, 'test', 2))


# What is read.


def test_an_example_has_the_keypoints_of_its_frames_and_the_sound_around_them(puppets, records):
  config = micro(2, puppets)
  example = data.read(records[0], np.random.default_rng(1), config=config)
  assert example['target'].shape == (1, 4, 32, 32, 3) and example['audio'].shape == (1, 8, 160)
  frames = np.stack([picture.to_float(data.picture(records[0], i, 32)) for i in range(len(records[0].frames))])
  start = next(i for i, f in enumerate(frames) if np.array_equal(f, example['target'][0, 0]))
  points = data.face_points(records[0], 32)[start : start + 4]
  np.testing.assert_array_equal(example['kps'][0], keypoints.draw_all(points, 32, config.kps_canvas))
  assert example['weight'].shape == (1, 4, 8, 8, 1) and set(np.unique(example['weight'])) == {1, 20}


def test_a_mirrored_example_is_mirrored_whole_and_its_eyes_change_colours(puppets, records):
  plain, mirrored = (
    data.read(records[0], np.random.default_rng(1), config=micro(2, puppets, **{'augment.flip': flip}))
    for flip in (0.0, 1.0)
  )
  for key in ('target', 'reference', 'weight'):
    np.testing.assert_array_equal(mirrored[key], plain[key][..., ::-1, :])
  np.testing.assert_array_equal(mirrored['audio'], plain['audio'])
  pixels = plain['kps'][..., ::-1, :].astype(int)
  unlike = lambda other: np.abs(mirrored['kps'] - other).mean()
  assert unlike(pixels[..., [1, 0, 2]]) < 0.4 * unlike(pixels)


def test_silent_records_train_the_first_stage_alone(puppets, records):
  silent = dataclasses.replace(records[0], audio=np.zeros(0, np.int16))
  data.read(silent, np.random.default_rng(0), config=micro(1, puppets, **{'audio.kind': 'none'}))
  with pytest.raises(UserError, match='has no sound'):
    data.read(silent, np.random.default_rng(0), config=micro(2, puppets))


# What is learned.


def test_the_loss_depends_on_every_condition(last):
  _, system, params, batch = last
  told = {k: batch[k] for k in ('reference', 'audio')}
  run = lambda told, kps: system.loss(params, {**batch, **told, 'kps': kps}, jax.random.key(1), False)[0]
  run = jax.jit(jax.value_and_grad(run))
  value, slopes = run(told, batch['kps'])
  assert all(float(jnp.abs(x).max()) > 0 for x in slopes.values())
  assert abs(float(value - run(told, np.zeros_like(batch['kps']))[0])) > 1e-6


def test_what_is_dropped_is_zero_and_dropped_by_frame(last):
  config, _, params, batch = last
  nets = model.make_networks(config)
  portrait = model.encode(params, batch['reference'], nets)
  attended, _ = model.reference_features(params, portrait, None, nets)
  contexts = {'reference': attended, 'audio': jnp.ones((8, 2, 64))}
  added = jnp.ones((8, 8, 8, 32))
  full = hoist(params['backbone'], {'reference': attended})['reference']

  def dropped(seed=0, **shares):
    shares = type(config.drop)({'all': 0.0, 'kps': 0.0, 'reference': 0.0, **shares})
    return model.drop(params, contexts, added, portrait, 4, shares, jax.random.key(seed), nets)

  kept, _, seen = dropped()
  for path, pair in kept['reference'].items():
    for a, b in zip(pair, full[path]):
      np.testing.assert_array_equal(a, jnp.repeat(b, 4, 0))
  np.testing.assert_array_equal(seen, jnp.repeat(portrait[:, None], 4, 1))
  # Zero features have zero keys and values.
  zero = hoist(params['backbone'], {'reference': jax.tree.map(jnp.zeros_like, attended)})['reference']
  assert not any(np.any(x) for x in jax.tree.leaves(zero))
  gone, rest, seen = dropped(all=1.0)
  assert not any(np.any(x) for x in jax.tree.leaves((gone, rest, seen)))
  shares = []
  for seed in range(30):
    some, rest, seen = dropped(seed, kps=0.5, reference=0.2)
    frames = [np.any(np.asarray(x), axis=(1, 2)) for x in jax.tree.leaves(some['reference'])]
    assert all(np.array_equal(f, frames[0]) for f in frames)  # the same frames in every block
    np.testing.assert_array_equal(np.any(np.asarray(seen), axis=(2, 3, 4)).reshape(-1), frames[0])
    assert np.all(some['audio'] == 1)
    shares.append([frames[0].mean(), np.asarray(rest)[:, 0, 0, 0].mean()])
  np.testing.assert_allclose(np.mean(shares, 0), [0.8, 0.5], atol=0.1)


def test_min_snr_with_the_one_added_learns_levels_without_signal():
  """Against the released formula: min(snr + 1, gamma) / (snr + 1) on velocities."""
  ratio = np.array([0.0, 0.5, 4.0, 50.0])
  expected = np.minimum(ratio + 1, 5.0) / (ratio + 1)
  np.testing.assert_allclose(losses.min_snr_weight(ratio, 'velocity', 5.0, 1.0), expected, rtol=1e-6)


# Windows.


@pytest.mark.parametrize(('count', 'size', 'overlap'), [(2, 12, 4), (12, 12, 4), (13, 12, 4), (137, 24, 4), (31, 8, 0)])
def test_windows_have_every_frame_and_share_enough(count, size, overlap):
  frames = windows.plan(count, size, overlap)
  assert frames.shape[1] == size and frames.max() == max(count, size) - 1
  np.testing.assert_array_equal(np.diff(frames), 1)
  assert set(range(count)) <= set(frames.ravel().tolist())
  shared = [np.intersect1d(a, b).size for a, b in zip(frames, frames[1:])]
  assert all(n >= overlap for n in shared) and all(n == overlap for n in shared[:-1])
  assert len(frames) == max(1, -(-(count - overlap) // (size - overlap)))


def test_predictions_are_averaged():
  frames = windows.plan(6, 4, 2)
  said = np.arange(8.0).reshape(2, 4, 1)
  np.testing.assert_allclose(windows.merge(said, frames, 6)[:, 0], [0, 1, (2 + 4) / 2, (3 + 5) / 2, 6, 7])


@pytest.mark.parametrize('budget', [1, 3])
def test_any_length_is_made_without_compiling_again(last, records, budget):
  config = last[0].copy_and_resolve_references()
  config.windows.budget = budget
  system = systems.build(config)
  sampler = system.generate.keywords['sampler']
  made = {}
  for count in (2, 9, 12, 30):
    inputs = system.inputs(records[:1], num_frames=count)
    made[count] = np.stack(list(system.generate(last[2], inputs, np.array([5], np.uint32))))
    assert made[count].shape == (count, 1, 32, 32, 3) and made[count].dtype == np.uint8
  several = 1 if budget == 1 else 3  # windows at once: 1, 2, or the budget
  assert sampler.predict._cache_size() <= several and sampler.decode._cache_size() == 1


def test_a_video_depends_neither_on_its_batch_nor_on_the_budget(last, records):
  config, system, params, _ = last
  both = system.inputs(records, num_frames=9)
  made = np.stack(list(system.generate(params, both, np.array([5, 6], np.uint32)))).astype(int)
  config = config.copy_and_resolve_references()
  config.windows.update(budget=1, kept=0)
  other = systems.build(config)
  alone = np.stack(list(other.generate(params, other.inputs(records[1:], num_frames=9), np.array([6], np.uint32))))
  assert made.shape == (9, 2, 32, 32, 3) and np.abs(made[:, 1] - alone[:, 0].astype(int)).max() <= 1


def test_sound_and_keypoints_drive_what_is_made(last, records):
  _, system, params, _ = last
  inputs = system.inputs(records[:1], num_frames=5)
  make = lambda x: np.stack(list(system.generate(params, x, np.array([5], np.uint32)))).astype(int)
  plain = make(inputs)
  assert np.abs(make(dataclasses.replace(inputs, sound=[inputs.sound[0][::-1]])) - plain).max() > 0
  assert np.abs(make(dataclasses.replace(inputs, keypoints=[inputs.keypoints[0] + 4])) - plain).max() > 0


def test_each_video_of_a_batch_has_its_own_settings(last, records):
  """One after the other is doubled, then all: the videos differ, and the last is what a config with all gives."""
  config, system, params, _ = last
  several, alone = (system.inputs(records[:1] * n, num_frames=9) for n in (4, 1))
  values = 1.0 + np.eye(4, dtype=np.float32)[:3]
  values[:, -1] = 2.0
  for setting, row in zip(portraits.SETTINGS, values):
    several = portraits.with_setting(several, setting, row)
  made = np.stack(list(system.generate(params, several, np.full(4, 5, np.uint32)))).astype(int)
  unlike = np.abs(made[:, :, None] - made[:, None]).max((0, 3, 4, 5))
  assert (unlike[~np.eye(4, dtype=bool)] > 1).all()
  other = systems.build(systems.with_options(config, **dict.fromkeys(portraits.SETTINGS, 2.0)))
  expected = np.stack(list(other.generate(params, alone, np.array([5], np.uint32))))[:, 0]
  np.testing.assert_allclose(made[:, -1], expected.astype(int), atol=1)


DEVICES = """
import sys
import jax, numpy as np
from talkjax import systems
from talkjax.training import checkpoint, input_pipeline, sharding
from talkjax.training.workdir import read_config
config = read_config(sys.argv[1])
config.sampler.name, config.guidance = 'ddim', 2.0
system = systems.build(config)
params = checkpoint.load_params(sys.argv[1])[1]
records = list(input_pipeline.eval_records(config.data, 'test', 1))
inputs = system.inputs(records, num_frames=30)
sampler = system.generate.keywords['sampler']
made = []
def keep(params, x, portraits, video):
  made.append(np.asarray(x))
  return np.zeros((len(x), 2, 2, 3), np.float32)
sampler.decode = keep
list(system.generate(params, inputs, np.array([3], np.uint32), spread=sharding.spread))
np.save(sys.argv[2], np.concatenate(made)[:30])
print(jax.device_count())
"""


def test_windows_on_one_two_and_eight_devices_average_to_the_same(stages, tmp_path):
  made = []
  for devices in (1, 2, 8):
    flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={devices}'
    env = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags, 'PYTHONPATH': str(ROOT)}
    path = str(tmp_path / f'{devices}.npy')
    done = subprocess.run(
      [sys.executable, '-c', DEVICES, stages[3], path], env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout.strip() == str(devices), done.stderr[-2000:]
    made.append(np.load(path))
  for other in made[1:]:
    np.testing.assert_allclose(other, made[0], atol=1e-4 * np.abs(made[0]).max())


# Stages.


@pytest.fixture(scope='module')
def stages(puppets, tmp_path_factory):
  """Workdirs of the three stages, by number."""
  folder = tmp_path_factory.mktemp('stages')
  changes = {'steps': 1, 'log_every': 1, 'checkpoint_every': 1, 'sample_every': 0, 'optimizer.warmup': 0}
  workdirs = {stage: str(folder / str(stage)) for stage in (1, 2, 3)}
  for stage, workdir in workdirs.items():
    silent = {'audio.kind': 'none', 'model.modulated': False} if stage == 1 else {'model.modulated': True}
    config = micro(stage, puppets, init_from=workdirs.get(stage - 1, ''), **changes, **silent)
    train.train(config, workdir)
  return workdirs


def test_three_stages_each_from_the_one_before(stages):
  leaves = lambda stage, item: {
    sharding.path_name(p): np.asarray(x)
    for p, x in jax.tree_util.tree_leaves_with_path(checkpoint.load_params(stages[stage], item)[1])
  }
  first, second = leaves(1, 'ema'), leaves(2, 'params')  # a stage starts from the average
  assert not any('attn2' in n or 'motion_modules' in n for n in first if n.startswith('backbone'))
  # Sound and motion alone are learned in the second stage (section 2.3).
  assert [n for n, x in first.items() if not np.array_equal(second[n], x)] == []
  before, after = leaves(2, 'ema'), leaves(3, 'params')
  moved = {n for n, x in after.items() if not np.array_equal(x, before[n])}
  for part in ('backbone/conv_in', 'reference/', 'guider/', 'audio/', 'attn2', 'motion_modules'):
    assert any(part in n for n in moved), part


def test_what_trains_in_each_stage(last):
  _, _, params, _ = last
  for stage in (2, 3):
    mask = state.trainable_mask(params, micro(stage).train)
    names = {state.path_name(p) for p, m in jax.tree_util.tree_leaves_with_path(mask) if m}
    assert any(n.startswith('audio/') for n in names) and any('motion_modules' in n for n in names)
    assert any('attn1_5' in n for n in names) == (stage == 3)


def test_the_second_stage_keeps_what_its_zero_layers_learned():
  """Nothing is zeroed again between stages: only what the first stage lacks may be new."""
  paper = [config_file.get_config(f'paper,stage={s}') for s in (1, 2, 3)]
  assert paper[2].init_new == () and paper[0].frames == 1 and paper[1].frames == paper[2].frames == 12
  assert (paper[1].drop.kps, paper[1].drop.reference, paper[0].drop.kps) == (0.5, 0.2, 0.0)
  assert paper[1].mouth_weight == 100 and (paper[1].windows.frames, paper[1].windows.overlap) == (12, 4)


# Files.


@pytest.fixture(scope='module')
def files(records, tmp_path_factory):
  folder = tmp_path_factory.mktemp('files')
  picture.write(folder / 'face.png', records[0].frame(0))
  soundfile.write(folder / 'voice.wav', records[0].audio[: 6 * 640], 16_000)
  points = data.face_points(records[1], 512)
  np.save(folder / 'kps.npy', points)
  return folder


@pytest.fixture(scope='module')
def render(last, files):
  _, system, params, _ = last

  def make(output, **request):
    request = {'image': (str(files / 'face.png'),), 'audio': (str(files / 'voice.wav'),), **request}
    return system.render(params, systems.Request(output=str(output), **request))

  return make


def test_as_many_frames_as_the_sound_with_keypoints_or_without(render, files, tmp_path, last):
  path = tmp_path / 'still.mp4'
  assert render(path) == {str(path): 6} and len(list(video.read_frames(path))) == 6
  for retarget in (None, 'offset'):
    made = render(tmp_path / 'moved.mp4', kps=str(files / 'kps.npy'), retarget=retarget)
    assert list(made.values()) == [6]
  half = tmp_path / 'half.wav'
  soundfile.write(half, np.zeros(8000, np.float32), 16_000)
  assert list(render(tmp_path / 'a.mp4', audio=(str(half),)).values()) == [12]  # 12.5 frames


def test_every_portrait_with_every_voice_and_value(render, files, records, tmp_path):
  faces, voices = (
    [str(files / 'face.png'), str(tmp_path / 'other.png')],
    [str(files / 'voice.wav'), str(tmp_path / 'b.wav')],
  )
  picture.write(faces[1], records[1].frame(0))
  soundfile.write(voices[1], records[1].audio[: 10 * 640], 16_000)
  made = render(
    tmp_path / 'all', image=tuple(faces), audio=tuple(voices), batch_size=3, sweep=('audio_weight', (0.5, 2.0))
  )
  expected = {
    f'{f}_{v}_audio_weight={w}': n
    for f in ('face', 'other')
    for v, n in (('voice', 6), ('b', 10))
    for w in ('0.5', '2')
  }
  assert {pathlib.Path(p).stem: n for p, n in made.items()} == expected
  shown = lambda path: np.stack(list(video.read_frames(path))).astype(int)
  assert all(len(shown(path)) == count for path, count in made.items())
  alone = render(tmp_path / 'alone', image=(faces[1],), audio=(voices[0],), sweep=('audio_weight', (2.0, 3.0)))
  (path,) = (p for p in alone if p.endswith('audio_weight=2.mp4'))
  assert np.abs(shown(path) - shown(tmp_path / 'all' / 'other_voice_audio_weight=2.mp4')).max() <= 8  # the codec's loss


def test_what_cannot_be_is_said_in_a_sentence(render, files, tmp_path, last):
  out = tmp_path / 'a.mp4'
  with pytest.raises(UsageError, match='--retarget=naive moves keypoints of --kps, which is missing'):
    render(out, retarget='naive')
  with pytest.raises(UsageError, match='--retarget=nearest: expected one of fix_face'):
    render(out, retarget='nearest', kps=str(files / 'kps.npy'))
  with pytest.raises(UserError, match=r'nothing\.npy: not a readable .npy file'):
    render(out, kps=str(tmp_path / 'nothing.npy'))
  with pytest.raises(UserError, match='no face was found'):
    picture.write(tmp_path / 'grey.png', np.full((64, 64, 3), 128, np.uint8))
    render(out, image=(str(tmp_path / 'grey.png'),))
  with pytest.raises(UsageError, match='does not take --speed'):
    render(out, speed=3.0)
  with pytest.raises(UsageError, match='--sweep=speed: vexpress sweeps one of guidance'):
    render(out, sweep=('speed', (1.0, 2.0)))
  with pytest.raises(UsageError, match='2 videos are asked for: name a folder'):
    render(out, sweep=('guidance', (1.0, 2.0)))
  assert not out.exists()
  config = last[0]
  for key, value, sentence in (
    ('windows.overlap', 4, 'must be at least 0 and less than config.windows.frames=4'),
    ('windows.budget', 0, 'expected 1 window or more'),
    ('windows.frames', 64, 'more than the 32 frames'),
    ('compat', 'exact', 'is not one of paper, published'),
    ('sampler.name', 'dpm++', 'looks back'),
  ):
    wrong = config.copy_and_resolve_references()
    wrong.update_from_flattened_dict({'sampler.steps': 5, key: value})
    with pytest.raises(UserError, match=sentence):
      systems.build(wrong)
  wrong = config.copy_and_resolve_references()
  wrong.update(compat='published')
  with pytest.raises(UserError, match='fewer than a window of 24'):
    wrong.windows.update(frames=24, overlap=4)
    systems.build(wrong).render(
      last[2], systems.Request(output='a.mp4', image=(str(files / 'face.png'),), audio=(str(files / 'voice.wav'),))
    )


def test_keypoints_of_a_video_are_those_that_were_published_of_it(last, samples):
  config = last[0].copy_and_resolve_references()
  config.update(fps=30.0, size=512)
  folder = samples / 'vexpress'
  found = animate.read_driving(str(folder / 'triple_gt.mp4'), 20, config)
  given = animate.read_driving(str(folder / 'triple_kps.pth'), 20, config)
  assert found.shape == (20, 3, 2) and len(given) == 137
  assert np.linalg.norm(found - given[:20], axis=-1).mean() < 0.03 * 512


def test_the_published_sample_has_137_frames(last, samples, tmp_path):
  """Its portrait, its voice (4.57 s at 30 frames a second) and its keypoints, a pickle of arrays."""
  config = last[0].copy_and_resolve_references()
  config.update(fps=30.0)
  config.windows.update(frames=12, overlap=4)
  config.sampler.steps = 1
  folder = samples / 'vexpress'
  out = str(tmp_path / 'out.mp4')
  request = systems.Request(
    output=out,
    image=(str(folder / 'triple_ref.jpg'),),
    audio=(str(folder / 'triple_aud.mp3'),),
    kps=str(folder / 'triple_kps.pth'),
    retarget='none',
  )
  assert systems.build(config).render(last[2], request) == {out: 137}
  assert len(list(video.read_frames(out))) == 137


def test_the_command_takes_every_setting(last, files, tmp_path):
  config, _, params, _ = last
  checkpoint.save_params(tmp_path / 'workdir', config, params, 0)
  out = tmp_path / 'out.mp4'
  arguments = (f'--workdir={tmp_path}/workdir', f'--image={files}/face.png', f'--audio={files}/voice.wav')
  settings = ('--window=3', '--overlap=2', '--window_budget=2', '--guidance=2', '--compat=published', '--sampler=ddim')
  weights = ('--reference_weight=0.9', '--audio_weight=2')
  driven = (f'--kps={files}/kps.npy', '--retarget=offset')
  done = run('talkjax.generate', *arguments, *settings, *weights, *driven, f'--output={out}')
  assert f'{out}: 6 frames' in done.stdout
  said = json.loads(video.read_metadata(out)['comment'])['config']
  assert said['windows'] | {'frames': 3, 'overlap': 2, 'budget': 2} == said['windows']
  assert said['weights'] == {'reference': 0.9, 'audio': 2.0} and said['compat'] == 'published'
  done = run('talkjax.generate', *arguments, '--sweep=reference_weight=0.5,1', f'--output={tmp_path}/sweep')
  assert f'{tmp_path}/sweep/comparison.png' in done.stdout
  compared = picture.read(tmp_path / 'sweep' / 'comparison.png')
  assert compared.shape[0] == 2 * 32 + picture.GAP and compared.shape[1] > 6 * (32 + picture.GAP)
  wrong = run('talkjax.generate', *arguments, '--sweep=reference_weight=a', f'--output={tmp_path}/no', check=False)
  assert wrong.returncode == 2 and 'expected a setting and two numbers or more' in wrong.stderr
  wrong = run('talkjax.generate', *arguments, '--window=3', '--overlap=3', f'--output={out}', check=False)
  assert wrong.returncode == 1 and 'must be at least 0 and less than config.windows.frames=3' in wrong.stderr


def test_long_sound_is_encoded_in_pieces(monkeypatch):
  """As many features as of the whole, and nearly the same ones: what is left out is far away."""
  config = config_file.get_config('tiny,stage=2,audio.kind=wav2vec2')
  sizes = {'width': 16, 'layers': 1, 'heads': 2, 'hidden': 16, 'conv_widths': (16,) * 7, 'position_kernel': 16}
  config.audio.encoder = {**sizes, 'position_groups': 4}
  sampler = windows.Sampler(model.make_networks(config), config)
  waveform = np.random.default_rng(0).standard_normal(16_000 * 11 + 77).astype(np.float32)
  params = {'wav2vec2': jax.jit(sampler.nets.encoder.init)(jax.random.key(0), waveform[None, :16_000])['params']}
  whole = windows.listen(params, waveform, 275, 25.0, sampler)
  monkeypatch.setattr(windows, 'HEARD', 6)
  pieces = windows.listen(params, waveform, 275, 25.0, sampler)
  assert whole.shape == pieces.shape == (275, 32)
  shifted = np.abs(pieces[1:] - whole[:-1]).mean()
  assert np.abs(pieces - whole).mean() < 0.2 * shifted
  assert windows.listen(params, waveform[:100], 2, 25.0, sampler).shape == (2, 32)

"""EMO on drawn puppets: what it reads, what may depend on what, clips that go on from one another, lengths."""

import dataclasses
import pathlib
import re

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import soundfile

from configs import emo as config_file
from talkjax import evaluate, systems, train
from talkjax.diffusion import schedules
from talkjax.errors import UsageError, UserError
from talkjax.faces import landmarks
from talkjax.media import picture, video
from talkjax.media.picture import to_float
from talkjax.nn.latent_unet import LatentUNet
from talkjax.systems import backbone, portraits
from talkjax.systems.emo import animate, data, model
from talkjax.training import checkpoint, input_pipeline, sharding, state
from tests.commands import run
from tests.micro import emo_config as micro
from tests.micro import opened


@pytest.fixture(scope='module')
def last(puppets):
  """Stage 3 with parameters that are none of them zero, and a batch."""
  config = micro(3, puppets)
  return config, *opened(config)


def test_an_example_is_a_clip_with_what_came_before(puppets):
  config = micro(2, puppets)
  record = next(input_pipeline.eval_records(config.data, 'train', 1))
  found = []
  for seed in range(20):
    example = data.read(record, np.random.default_rng(seed), config=config)
    assert example['target'].shape == (1, 4, 32, 32, 3) and example['audio'].shape == (1, 8, 160)
    assert example['region'].min() == 0 and example['region'].max() == 1
    if not example['has_motion'][0]:
      continue
    frames = [to_float(portraits.picture(record, i, 32)) for i in range(len(record.frames))]
    start = next(i for i, f in enumerate(frames) if np.array_equal(f, example['target'][0, 0]))
    found.append(start)
    np.testing.assert_array_equal(example['motion'][0], frames[start - config.motion_frames : start])
    speeds = landmarks.head_speed(record.pose, record.fps)
    np.testing.assert_array_equal(example['speed'][0, 2:6], speeds[start : start + 4])
  assert len(set(found)) > 3


def test_sound_lies_under_its_frame():
  settings = micro(2).audio
  waveform = np.zeros(16_000, np.float32)
  waveform[10 * 640 : 11 * 640] = np.random.default_rng(0).normal(size=640)  # frame 10
  features = portraits.speech_features(waveform, 25, 25.0, settings)
  assert features.mean(1).argmax() == 10 and features.shape == (25, 160)
  half = portraits.speech_features(waveform, 12, 12.5, settings)  # of a video with half the frames
  assert half.mean(1).argmax() == 5


def test_head_speed_is_degrees_a_second():
  turning = np.stack([np.arange(20.0), np.zeros(20), np.zeros(20)], 1)  # a degree a frame
  np.testing.assert_allclose(landmarks.head_speed(turning, 25.0)[3:-3], 25.0)
  assert landmarks.head_speed(turning[:1], 25.0) == [0]


def test_the_loss_depends_on_every_condition(last):
  _, system, params, batch = last
  told = {k: batch[k] for k in ('reference', 'motion', 'region', 'audio', 'speed')}
  run = lambda told, has: system.loss(params, {**batch, **told, 'has_motion': has}, jax.random.key(1), False)[0]
  slopes = jax.jit(jax.grad(run))
  sizes = lambda has: {k: float(jnp.abs(x).max()) for k, x in slopes(told, has).items()}
  has = np.ones_like(batch['has_motion'])
  assert all(size > 0 for size in sizes(has).values())
  assert [k for k, size in sizes(0 * has).items() if size == 0] == ['motion']  # without motion frames they do not count


def test_what_trains_in_each_stage(last):
  _, _, params, _ = last
  for size, slow in (('paper', 1.0), ('tiny', 0.1)):
    rates = state.learning_rates(params, config_file.get_config(f'{size},stage=3').train)
    rates = {state.path_name(p): rate for p, rate in jax.tree_util.tree_leaves_with_path(rates)}
    assert any('speed_attention' in n for n in rates) and any(n.startswith('speed/') for n in rates)
    for name, rate in rates.items():
      assert rate == (1 if 'speed' in name else slow if 'motion_modules' in name else 0), name


def test_exactly_as_many_frames_as_the_sound_and_no_frame_knows_its_batch(last):
  config, system, params, _ = last
  records = list(input_pipeline.eval_records(config.data, 'test', 2))
  for count in (3, 4, 9):
    inputs = system.inputs(records, num_frames=count)
    made = list(system.generate(params, inputs, np.array([5, 6], np.uint32)))
    assert len(made) == count and made[0].shape == (2, 32, 32, 3) and made[0].dtype == np.uint8
  alone = system.inputs(records[1:], num_frames=9)
  second = list(system.generate(params, alone, np.array([6], np.uint32)))
  np.testing.assert_allclose(np.stack(second)[:, 0].astype(int), np.stack(made)[:, 1].astype(int), atol=1)


def test_a_clip_goes_on_from_the_one_before(last):
  config, system, params, _ = last
  records = list(input_pipeline.eval_records(config.data, 'test', 1))
  inputs = system.inputs(records, num_frames=8)
  made = np.stack(list(system.generate(params, inputs, np.array([5], np.uint32))))
  louder = inputs.audio.copy()
  louder[:, 0] += 1  # far from what the second clip hears: it can only come through the motion frames
  other = np.stack(list(system.generate(params, dataclasses.replace(inputs, audio=louder), np.array([5], np.uint32))))
  assert not np.array_equal(made[4:], other[4:])


def test_guidance_changes_what_is_made(puppets):
  videos = []
  for scale in (1.0, 2.0):
    config = micro(2, puppets, guidance=scale)
    system = systems.build(config)
    iterator = input_pipeline.training_iterator(config.data, system.read, config.batch_size, 0)
    batch, _ = input_pipeline.split_names(next(iterator))
    params = jax.tree.map(lambda p: p + 0.02, jax.jit(system.init)(jax.random.key(0), batch))
    record = list(input_pipeline.eval_records(config.data, 'test', 1))
    videos.append(np.stack(list(system.generate(params, system.inputs(record, num_frames=4), np.zeros(1, np.uint32)))))
  assert not np.array_equal(*videos)


def test_every_portrait_with_every_voice(last, tmp_path):
  config, system, params, _ = last
  images, voices, lengths = [], [], {}
  for i, record in enumerate(input_pipeline.eval_records(config.data, 'test', 2)):
    images.append(str(tmp_path / f'portrait{i}.png'))
    picture.write(images[-1], record.frame(0))
    voices.append(str(tmp_path / f'voice{i}.wav'))
    soundfile.write(voices[-1], record.audio[: (5 + 4 * i) * 640 - 100], 16_000)
    lengths[f'voice{i}'] = 5 + 4 * i
  shown = lambda path: np.stack(list(video.read_frames(path))).astype(int)
  render = lambda **request: system.render(params, systems.Request(seed=3, speed=10.0, **request))
  made = render(image=tuple(images), audio=tuple(voices), output=str(tmp_path / 'all'), batch_size=3)
  assert {pathlib.Path(p).stem: n for p, n in made.items()} == {
    f'portrait{i}_{voice}': count for i in (0, 1) for voice, count in lengths.items()
  }
  assert all(len(shown(path)) == count for path, count in made.items())
  # The same as made alone, but for what the writer loses.
  alone = str(tmp_path / 'alone.mp4')
  assert render(image=(images[1],), audio=(voices[0],), output=alone) == {alone: 5}
  assert np.abs(shown(alone) - shown(tmp_path / 'all' / 'portrait1_voice0.mp4')).max() <= 8
  with pytest.raises(UsageError, match='2 videos are asked for: name a folder'):
    render(image=tuple(images), audio=(voices[0],), output=alone)
  with pytest.raises(UsageError, match='two videos would be called'):
    other = tmp_path / 'b' / 'portrait0.png'
    picture.write(other, np.zeros((8, 8, 3), np.uint8))
    render(image=(images[0], str(other)), audio=(voices[0],), output=str(tmp_path / 'c'))


def test_each_video_of_a_batch_has_its_own_settings(last):
  """One after the other is doubled, then all: the videos differ, and the last is what a config with all gives."""
  config, system, params, _ = last
  (record,) = input_pipeline.eval_records(config.data, 'test', 1)
  settings = (*portraits.SETTINGS, 'speed')
  values = 1.0 + np.eye(len(settings) + 1, dtype=np.float32)[: len(settings)]
  values[:, -1] = 2.0
  several = system.inputs([record] * values.shape[1], num_frames=5)
  alone = system.inputs([record], num_frames=5)
  for setting, row in zip(settings, values):
    several = portraits.with_setting(several, setting, row * 10 if setting == 'speed' else row)
  made = np.stack(list(system.generate(params, several, np.full(5, 5, np.uint32)))).astype(int)
  unlike = np.abs(made[:, :, None] - made[:, None]).max((0, 3, 4, 5))
  assert (unlike[~np.eye(5, dtype=bool)] > 1).all()
  other = systems.build(systems.with_options(config, **dict.fromkeys(portraits.SETTINGS, 2.0)))
  alone = portraits.with_setting(alone, 'speed', np.array([20.0]))
  expected = np.stack(list(other.generate(params, alone, np.array([5], np.uint32))))[:, 0]
  np.testing.assert_allclose(made[:, -1], expected.astype(int), atol=1)


def test_a_sweep_measures_heads_and_mouths_at_every_value(last):
  config, system, params, _ = last
  records = list(input_pipeline.eval_records(config.data, 'test', 1))
  still = dataclasses.replace(system, generate=lambda params, inputs, seeds: iter(np.stack(inputs.truth, 1)))
  measured = evaluate.sweep(still, config, params, records, 'audio_weight', (1.0, 2.0), 0)
  # What is made does not depend on the value here, so its ranks are not defined.
  truth = evaluate.mouth_opening(system.inputs(records).truth[0], None, 'found')
  wide = truth[truth >= np.quantile(truth, 0.75)].mean()
  assert measured['mouth_opening'] == (pytest.approx([wide] * 2), None)
  assert measured['mouth_motion'] == (pytest.approx([truth.std()] * 2), None)
  with pytest.raises(UsageError, match='--sweep=steps: emo has no such setting'):
    evaluate.sweep(system, config, params, records, 'steps', (1.0, 2.0), 0)


@pytest.mark.parametrize('box', ['1,2,3', 'a,b,c,d', '0.5,0,0.2,1', '0,0,1,1.5'])
def test_bad_face_boxes(box):
  with pytest.raises(UsageError, match='expected x0,y0,x1,y1'):
    animate.parse_box(box)


@pytest.fixture(scope='module')
def stages(puppets, tmp_path_factory):
  """Workdirs of the three stages, by number."""
  folder = tmp_path_factory.mktemp('stages')
  changes = {'steps': 2, 'log_every': 1, 'checkpoint_every': 2, 'sample_every': 0}
  workdirs = {stage: str(folder / str(stage)) for stage in (1, 2, 3)}
  for stage, workdir in workdirs.items():
    train.train(micro(stage, puppets, init_from=workdirs.get(stage - 1, ''), **changes), workdir)
  return workdirs


def test_the_same_videos_on_one_device_and_on_eight(stages, last, tmp_path):
  records = list(input_pipeline.eval_records(last[0].data, 'test', 2))
  for i, record in enumerate(records):
    picture.write(tmp_path / f'face{i}.png', record.frame(0))
  soundfile.write(tmp_path / 'voice.wav', records[0].audio[: 6 * 640], 16_000)
  videos = []
  for devices in (1, 8):
    arguments = (f'--workdir={stages[3]}', f'--image={tmp_path}/face*.png', f'--audio={tmp_path}/voice.wav')
    run('talkjax.generate', *arguments, f'--output={tmp_path}/{devices}', '--seed=4', devices=devices)
    paths = [tmp_path / str(devices) / f'face{i}_voice.mp4' for i in range(2)]
    videos.append(np.stack([list(video.read_frames(p)) for p in paths]).astype(int))
  assert videos[0].shape[:2] == (2, 6) and np.abs(videos[0] - videos[1]).max() <= 4  # rounding, then the codec


def test_three_stages_each_from_the_one_before(stages):
  leaves = lambda stage, item: {
    sharding.path_name(p): np.asarray(x)
    for p, x in jax.tree_util.tree_leaves_with_path(checkpoint.load_params(stages[stage], item)[1])
  }
  images, video, speed = leaves(1, 'ema'), leaves(2, 'params'), leaves(3, 'params')
  moved = {name for name, value in images.items() if not np.array_equal(value, video[name])}
  assert moved and all(re.search('attn2|modulation|^audio/', name) for name in moved)
  new = video.keys() - images.keys()
  assert new and all('motion_modules' in name for name in new)
  assert all(np.any(video[name]) for name in new if 'proj_out/kernel' in name)  # they start as nothing
  moved = {name for name, value in leaves(2, 'ema').items() if not np.array_equal(speed[name], value)}
  assert moved and all('motion_modules' in name for name in moved)
  assert speed.keys() - video.keys() and all('speed' in name for name in speed.keys() - video.keys())
  last_params = checkpoint.load_params(stages[3])[1]
  with pytest.raises(UserError, match='lacks parameter .*motion_modules'):  # a stage left out
    checkpoint.load_part(stages[1], last_params, '', missing=micro(3).init_new)


def test_foundations_go_where_they_belong(puppets, tmp_path):
  """Made-up foundations in the layout of ours: what is taken, what is left out, what starts afresh."""
  config = micro(
    1,
    puppets,
    **{'steps': 1, 'checkpoint_every': 1, 'sample_every': 0, 'model.zero_contexts': True, 'latents.change': 0.0},
    **{'audio.kind': 'none'},
  )
  net = LatentUNet(48, (32,), (True,), layers=1, heads=4)
  text = {'text': jnp.zeros((1, 1, 64))}
  made = jax.jit(net.init)(jax.random.key(7), jnp.zeros((1, 8, 8, 48)), jnp.zeros(1), text)['params']
  checkpoint.save_params(tmp_path / 'sd', ml_collections.ConfigDict({'foundation': 'sd15'}), made, 0)
  config.foundations.sd15 = str(tmp_path / 'sd')
  config.optimizer.learning_rate = 0.0
  state = train.train(config, str(tmp_path / 'run'))
  for branch in ('backbone', 'reference'):
    np.testing.assert_array_equal(state.params[branch]['conv_in']['kernel'], made['conv_in']['kernel'])
  block = state.params['backbone']['down_blocks_0_attentions_0']['transformer_blocks_0']
  assert set(block) == {'norm1', 'attn1', 'norm1_5', 'attn1_5', 'norm3', 'ff'}
  np.testing.assert_array_equal(block['attn1_5']['to_out_0']['kernel'], 0)
  with pytest.raises(UserError, match='lacks parameter .*attn1_5'):  # a list that forgets what EMO adds
    checkpoint.load_part(tmp_path / 'sd', state.params, 'backbone', 'attn2|/norm2|transformer_blocks_0/norm2')


def test_wav2vec2_is_heard_frame_by_frame_and_never_trained():
  config = config_file.get_config('tiny,stage=2,audio.kind=wav2vec2')
  config.audio.encoder = {
    'width': 16,
    'layers': 2,
    'heads': 2,
    'hidden': 16,
    'conv_widths': (16,) * 7,
    'position_groups': 4,
  }
  assert not next(trains for regex, trains in config.train if re.search(regex, 'wav2vec2/encoder_layers_0'))
  nets = model.make_networks(config)
  reach = config.margin + config.audio.context
  rng = np.random.default_rng(0)
  frames = portraits.speech_features(rng.normal(size=640 * 100).astype(np.float32), 100, 25.0, config.audio)
  assert frames.shape == (100, 640)
  audio = jnp.asarray(portraits.padded(frames, np.arange(40 - reach, 48 + reach), config.audio))[None]
  params = {'wav2vec2': jax.jit(nets.encoder.init)(jax.random.key(0), audio.reshape(1, -1))['params']}
  hear = jax.jit(lambda params, audio: model.hear(params, audio, nets))
  heard = hear(params, audio)
  assert heard.shape == (1, 8 + 2 * config.margin, 2 * 16)  # both layers, side by side
  slope = jax.grad(lambda p: jnp.sum(jnp.square(hear(p, audio))))(params)
  assert all(not np.any(g) for g in jax.tree.leaves(slope))
  # The middle frame's own sound changes what is heard there most.
  louder = audio.at[0, reach + 4].multiply(3.0)
  change = np.abs(np.asarray(hear(params, louder) - heard))[0].mean(1)
  assert abs(int(change.argmax()) - (config.margin + 4)) <= 1


def test_the_portrait_may_be_held_near_the_clip_and_the_region_roomy(puppets):
  config = micro(2, puppets, **{'data.reference_within': 2, 'augment.region_frames': 0})
  record = next(input_pipeline.eval_records(config.data, 'train', 1))
  frames = np.stack([to_float(portraits.picture(record, i, 32)) for i in range(len(record.frames))])
  index = lambda shown: next(i for i, f in enumerate(frames) if np.array_equal(f, shown))
  apart, small, large = [], 0, 0
  for seed in range(20):
    example = data.read(record, np.random.default_rng(seed), config=config)
    start, portrait = index(example['target'][0, 0]), index(example['reference'][0])
    apart.append(max(start - portrait, portrait - (start + config.frames - 1), 0))
    small += example['region'].sum()
    roomy = micro(2, puppets, **{'augment.region_frames': 50})
    large += data.read(record, np.random.default_rng(seed), config=roomy)['region'].sum()
  assert max(apart) in (1, 2) and large > small


def test_a_hidden_mouth_is_noise_and_nothing_else_is():
  keys = jax.random.split(jax.random.key(0), 3)
  x, noise = (jax.random.normal(k, (64, 2, 4, 4, 3)) for k in keys[:2])
  mouth = jnp.zeros((64, 2, 4, 4, 1), bool).at[:, :, 1:3].set(True)
  noise_scale = jnp.where(jnp.arange(64) < 32, 0.9, 0.5)
  level = schedules.Level(None, None, None, noise_scale)
  made = backbone.hide_mouths(x, noise, level, mouth, 0.5, keys[2])
  np.testing.assert_array_equal(made[:, :, [0, 3]], x[:, :, [0, 3]])
  hidden = np.array([np.array_equal(a, b) for a, b in zip(made[:, :, 1:3], noise[:, :, 1:3])])
  seen = np.array([np.array_equal(a, b) for a, b in zip(made[:, :, 1:3], x[:, :, 1:3])])
  assert np.array_equal(hidden, ~seen) and not hidden[32:].any() and 8 < hidden[:32].sum() < 24

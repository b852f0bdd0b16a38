"""EMO on drawn puppets: examples, dependencies, clips that continue each other, lengths, files."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import soundfile

from configs import emo as config_file
from talkjax import options, systems
from talkjax.errors import UsageError, UserError
from talkjax.faces import measures
from talkjax.media import picture, video
from talkjax.metrics import suites
from talkjax.nn.latent_unet import Conditioning, LatentUNet
from talkjax.systems import audio, portrait, scoring
from talkjax.systems.emo import OPTIONS, conditions, generation, model
from talkjax.systems.portrait import conditions as portrait_conditions
from talkjax.systems.portrait import framing
from talkjax.systems.portrait.reading import face_points, face_region
from talkjax.training import checkpoint, input_pipeline, state
from talkjax.training.sharding import path_name
from tests.commands import run
from tests.micro import ENCODER, cut, generate, random_params, render, training_batch
from tests.micro import emo_config as micro


@pytest.fixture(scope='module')
def record(puppets):
  return next(input_pipeline.eval_records(micro(2, puppets).data, 'train', 1))


@pytest.fixture(scope='module')
def frames(record):
  """The frames of the record as training reads them."""
  window = framing.of_record(record, micro(2).framing)
  return np.stack([window.picture(record.frame(i), 32) for i in range(len(record.frames))])


def index_of(frame, frames) -> int:
  return next(i for i, f in enumerate(frames) if np.array_equal(f, frame))


# Training.


def test_an_example_is_a_clip_with_the_frames_before_it(puppets, record, frames):
  config = micro(2, puppets)
  speeds = measures.head_speed(record.pose, record.fps)
  starts = []
  for seed in range(20):
    example = systems.build(config).read(record, np.random.default_rng(seed))
    assert example['target'].shape == (1, 4, 32, 32, 3) and example['audio'].shape == (1, 8, 160)
    assert example['region'].min() == 0 and example['region'].max() == 1
    if not example['has_motion'][0]:
      continue
    start = index_of(example['target'][0, 0], frames)
    starts.append(start)
    np.testing.assert_array_equal(example['motion'][0], frames[start - config.motion_frames : start])
    np.testing.assert_array_equal(example['speed'][0, 2:6], speeds[start : start + 4])
  assert len(set(starts)) > 3


def test_the_portrait_may_be_kept_near_the_clip_and_the_region_roomy(puppets, record, frames):
  plain = {'aids.reference': 'concatenated'}
  config = micro(2, puppets, **plain, **{'data.reference_within': 2, 'augment.region_frames': 0})
  roomy = micro(2, puppets, **{'augment.region_frames': 50})
  distances, small, large = [], 0, 0
  for seed in range(20):
    example = systems.build(config).read(record, np.random.default_rng(seed))
    start, reference = index_of(example['target'][0, 0], frames), index_of(example['reference'][0], frames)
    distances.append(max(start - reference, reference - (start + config.frames - 1), 0))
    small += example['region'].sum()
    large += systems.build(roomy).read(record, np.random.default_rng(seed))['region'].sum()
  assert max(distances) in (1, 2) and large > small


def test_a_portrait_is_laid_over_the_face_before_the_clip(puppets, record, frames):
  """Over that of the last motion frame; without motion frames over one that is near. It comes from anywhere."""
  config = micro(2, puppets, **{'data.reference_within': 2})
  points = face_points(record, config) / np.float32(config.size)
  sources = []
  for seed in range(30):
    example = systems.build(config).read(record, np.random.default_rng(seed))
    start = index_of(example['target'][0, 0], frames)
    sources.append(abs(index_of(example['reference'][0], frames) - start))
    np.testing.assert_allclose(example['reference_points'][0], points[index_of(example['reference'][0], frames)])
    over = example['points'][0, 0]
    if example['has_motion'][0]:
      np.testing.assert_allclose(over, points[start - 1])
    else:
      assert min(np.abs(over - p).max() for p in points[: start + config.frames + 2]) < 1e-6
  assert max(sources) > 10


def test_faces_of_generated_frames_are_found_or_stay_where_they_were(record):
  config = micro(2, size=64)
  window, points = framing.of_record(record, config.framing), face_points(record, config) / np.float32(64)
  shown = np.stack([window.picture(record.frame(20), 64), np.full((64, 64, 3), 127, np.uint8)])
  expected = np.stack([points[0], points[5]])
  found = generation.find_points(shown, expected)
  assert np.abs(found[0] - points[20]).max() < 0.03
  np.testing.assert_array_equal(found[1], points[5])


def test_a_portrait_is_laid_over_the_last_face_without_changing_its_size():
  """A turn and a shift are followed, a head that seems smaller as it turns away is not."""
  source = np.array([[[0.4, 0.4], [0.6, 0.42], [0.5, 0.55]]], np.float32)
  turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
  moved = source @ turn.T + [0.05, -0.1]
  np.testing.assert_allclose(generation.keep_size(source, moved), moved, atol=1e-6)
  smaller = moved.mean(1) + 0.8 * (moved - moved.mean(1))
  np.testing.assert_allclose(generation.keep_size(source, smaller), moved, atol=1e-6)
  assert np.isfinite(generation.keep_size(source, np.full_like(source, 0.5))).all()


def test_the_region_of_the_paper_is_that_of_the_whole_video(puppets, record):
  """As at generation, where one region is given for the video."""
  assert all(config_file.get_config(f'paper,stage={stage}').augment.region_frames == -1 for stage in (1, 2, 3))
  whole = face_region(record, range(len(record.frames)), 32, micro(2).framing)
  system = systems.build(micro(2, puppets, **{'augment.region_frames': -1}))
  for seed in range(3):
    np.testing.assert_array_equal(system.read(record, np.random.default_rng(seed))['region'][0], whole)


def test_head_speed_is_degrees_per_second():
  turning = np.stack([np.arange(20.0), np.zeros(20), np.zeros(20)], 1)  # a degree per frame
  np.testing.assert_allclose(measures.head_speed(turning, 25.0)[3:-3], 25.0)
  assert measures.head_speed(turning[:1], 25.0) == [0]


def test_the_loss_depends_on_every_condition(emo):
  given = {k: emo.batch[k].astype(np.float32) for k in ('reference', 'motion', 'region', 'audio', 'speed')}
  loss = lambda given, has, params: emo.system.loss(
    params, {**emo.batch, **given, 'has_motion': has}, jax.random.key(1), False
  )[0]
  gradient = jax.jit(jax.grad(loss))
  sizes = lambda has: {k: float(jnp.abs(x).max()) for k, x in gradient(given, has, emo.params).items()}
  has = np.ones_like(emo.batch['has_motion'])
  assert all(size > 0 for size in sizes(has).values())
  assert [k for k, size in sizes(0 * has).items() if size == 0] == ['motion']


def test_what_trains_in_the_last_stage(emo):
  for size, multiplier in (('paper', 1.0), ('tiny', 0.1)):
    multipliers = state.learning_rate_multipliers(emo.params, config_file.get_config(f'{size},stage=3').train)
    multipliers = {path_name(p): m for p, m in jax.tree_util.tree_leaves_with_path(multipliers)}
    assert any('speed_attention' in n for n in multipliers) and any(n.startswith('speed/') for n in multipliers)
    for name, found in multipliers.items():
      assert found == (1 if 'speed' in name else multiplier if 'motion_modules' in name else 0), name


def test_pretrained_parameters_go_where_they_belong(puppets, tmp_path):
  """Random parameters in the layout of Stable Diffusion: what is loaded, ignored and initialised."""
  changes = {'model.zero_contexts': True, 'audio.kind': 'none', 'aids.reference': 'none'}
  config = micro(1, puppets, **changes)
  system = systems.build(config)
  shapes = jax.eval_shape(system.init, jax.random.key(0), training_batch(config, system))
  net = LatentUNet(48, (32,), (True,), layers=1, heads=4)
  text = Conditioning({'text': jnp.zeros((1, 1, 64))})
  initialise = lambda: net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 48)), jnp.zeros(1), text)['params']
  sd15 = random_params(jax.eval_shape(initialise))
  checkpoint.save_params(tmp_path / 'sd', ml_collections.ConfigDict({'pretrained_network': 'sd15'}), sd15, 0)
  for name, branch, ignored, missing in config_file.get_config('paper').load[:2]:
    assert name == 'sd15'
    loaded = checkpoint.load_part(tmp_path / 'sd', shapes, branch, ignored, (missing,) if missing else ())
    np.testing.assert_array_equal(loaded[f'{branch}/conv_in/kernel'], sd15['conv_in']['kernel'])
    wanted = {f'{branch}/{path_name(p)}' for p, _ in jax.tree_util.tree_leaves_with_path(shapes[branch])}
    assert all('1_5' in name for name in wanted - loaded.keys()) and not loaded.keys() - wanted
  with pytest.raises(UserError, match='lacks parameter .*attn1_5'):  # a list without what EMO adds
    checkpoint.load_part(tmp_path / 'sd', shapes, 'backbone', 'attn2|/norm2|transformer_blocks_0/norm2')


@pytest.mark.parametrize('kind', ['speech_encoder', 'wav2vec2'])
def test_a_frame_is_conditioned_on_its_own_sound_whichever_the_encoder(kind):
  config = config_file.get_config('tiny,stage=2')
  config.audio.update(kind=kind, wav2vec2=ENCODER)
  features = model.make_networks(config).audio_features
  params = {kind: random_params(jax.eval_shape(features.encoder.init, jax.random.key(0)))}
  waveform = np.random.default_rng(0).normal(size=640 * 100).astype(np.float32)
  before = features.of_sound(params, audio.Sound(waveform, 100, 25.0))
  assert before.shape == (100, features.channels)
  waveform[640 * 50 : 640 * 51] *= 3
  change = np.abs(features.of_sound(params, audio.Sound(waveform, 100, 25.0)) - before).mean(1)
  assert abs(int(change.argmax()) - 50) <= 1


# Generation.


def test_as_many_frames_as_the_audio_and_no_video_depends_on_its_batch(emo):
  records = [*emo.records, emo.records[0]]
  for count in (3, 4, 9):
    batch = emo.system.from_records(records, num_frames=count)
    joined = systems.join(emo.system.generate(emo.params, batch.conditions, np.array([5, 6, 7], np.uint32)))
    assert joined.frames.shape == (3, count, 32, 32, 3) and joined.frames.dtype == np.uint8
    assert joined.fps == 25 and joined.seams == (tuple(range(4, count, 4)),) * 3
  alone = emo.system.from_records(records[1:2], num_frames=9).conditions
  alone = generate(emo.system, emo.params, alone, [6])[0]
  np.testing.assert_allclose(alone, joined.frames[1].astype(int), atol=1)


def test_a_video_is_evaluated_at_the_frame_rate_of_its_record(emo):
  record = cut(emo.records[0], 6)
  _, (made,) = scoring.generate_clips(emo.system, emo.params, [record], np.array([5], np.uint32))
  assert (made.fps, made.seams) == (25.0, (4,))
  faster = dataclasses.replace(record, fps=50.0)
  _, (made,) = scoring.generate_clips(emo.system, emo.params, [faster], np.array([5], np.uint32))
  assert (made.fps, len(made.frames)) == (50.0, 6)


def test_a_clip_continues_the_one_before(emo):
  given = emo.system.from_records(emo.records[:1], num_frames=8).conditions
  waveform = given.sound[0].waveform.copy()
  # In the first frame, outside the window of the second clip: only motion frames can carry it there.
  waveform[:320] += 0.3 * np.random.default_rng(0).standard_normal(320)
  louder = [dataclasses.replace(given.sound[0], waveform=waveform)]
  plain, other = (
    generate(emo.system, emo.params, dataclasses.replace(given, sound=sound), [5])[0] for sound in (given.sound, louder)
  )
  assert not np.array_equal(plain[4:], other[4:])


@pytest.mark.slow
def test_each_video_of_a_batch_has_its_own_settings(emo):
  """Each setting is doubled in one video, all of them in the last, which equals a config with all doubled."""
  names = (*portrait.SETTINGS, 'speed')
  count = len(names) + 1
  doubled = 1.0 + np.eye(count, dtype=np.float32)[: len(names)]
  doubled[:, -1] = 2.0
  settings = {name: row * 10 if name == 'speed' else row for name, row in zip(names, doubled)}
  several = emo.system.from_records(emo.records[:1] * count, num_frames=5, settings=settings).conditions
  videos = generate(emo.system, emo.params, several, [5] * count)
  differences = np.abs(videos[:, None] - videos[None]).max((2, 3, 4, 5))
  assert (differences[~np.eye(count, dtype=bool)] > 1).all()
  config, _ = options.apply(emo.config, OPTIONS, dict.fromkeys(portrait.SETTINGS, 2.0))
  other = systems.build(config)
  alone = other.from_records(emo.records[:1], num_frames=5, settings={'speed': [20.0]}).conditions
  np.testing.assert_allclose(videos[-1], generate(other, emo.params, alone, [5])[0], atol=1)
  # And each differs from the video of the config.
  plain = emo.system.from_records(emo.records[:1], num_frames=5, settings={'speed': [10.0]}).conditions
  assert (np.abs(videos - generate(emo.system, emo.params, plain, [5])).max((1, 2, 3, 4)) > 1).all()


def test_records_are_generated_as_a_users_portrait_is_unless_by_the_oracle(emo, files):
  record = emo.records[0]
  image = portrait_conditions.read_portrait(files[0][0], 32, emo.config.framing)
  users = emo.system.from_records([record], num_frames=5)
  asked = conditions.portrait_region(image.landmarks, None, 32)
  region = users.conditions.region[0]
  assert (region * asked).sum() > 0.85 * np.maximum(region, asked).sum()  # detected, and drawn landmarks
  np.testing.assert_array_equal(users.truth[0].region, region)
  assert (users.conditions.speed == emo.config.speed.default).all()
  oracle = emo.system.from_records([record], num_frames=5, oracle=True)
  np.testing.assert_array_equal(oracle.conditions.region[0], face_region(record, range(5), 32, emo.config.framing))
  np.testing.assert_array_equal(oracle.truth[0].region, oracle.conditions.region[0])
  np.testing.assert_array_equal(oracle.conditions.speed[0], measures.head_speed(record.pose, record.fps)[:5])
  swept = emo.system.from_records([record], num_frames=5, oracle=True, settings={'speed': [7.0]})
  assert (swept.conditions.speed == 7).all()


def test_scores_of_the_oracle_have_names_of_their_own(emo):
  clips = [cut(record, 5) for record in emo.records]
  settings = scoring.Settings(batch_size=1, oracle=True)  # a size that is compiled already
  scores = scoring.score_workdir(emo.system, emo.config, emo.params, clips, settings)
  assert {'oracle_lip_score', 'oracle_in_region', 'oracle_psnr'} <= set(scores.names) & scores.means.keys()
  assert all(name.startswith('oracle_') for name in scores.means.keys() - {'clips', 'frames'})
  assert emo.system.oracle and not emo.system.true_conditions


def test_a_sweep_measures_heads_and_mouths_at_every_value(emo):
  records = emo.records[:1]
  (truth,) = emo.system.from_records(records).truth
  chunk = systems.Chunk(np.stack(truth.frames)[None], fps=25.0)
  # What is generated does not depend on the value here, so its ranks are not defined.
  constant = dataclasses.replace(emo.system, generate=lambda *_: iter([chunk]))
  measured = scoring.sweep(constant, emo.config, emo.params, records, 'audio_weight', (1.0, 2.0), 0)
  opening = suites.mouth_opening(truth.frames, truth.landmarks, 'found')
  wide = opening[opening >= np.quantile(opening, 0.75)].mean()
  assert measured['mouth_opening'] == (pytest.approx([wide] * 2), None)
  assert measured['mouth_motion'] == (pytest.approx([opening.std()] * 2), None)
  with pytest.raises(UsageError, match='--sweep=steps: emo can sweep guidance'):
    options.parse_sweep('steps=1,2', 'emo', OPTIONS)


# Files.


@pytest.mark.parametrize('box', ['1,2,3', 'a,b,c,d', '0.5,0,0.2,1', '0,0,1,1.5'])
def test_wrong_face_boxes(box):
  with pytest.raises(UsageError, match='expected x0,y0,x1,y1'):
    conditions.parse_box(box)


@pytest.fixture(scope='module')
def files(emo, tmp_path_factory):
  """(portraits, voices of 5 and 9 frames), files of both test records."""
  folder = tmp_path_factory.mktemp('files')
  for i, record in enumerate(emo.records):
    picture.write(folder / f'portrait{i}.png', record.frame(0))
    soundfile.write(folder / f'voice{i}.wav', record.audio[: (5 + 4 * i) * 640 - 100], 16_000)
  return tuple(tuple(str(folder / f'{name}{i}.{kind}') for i in (0, 1)) for name, kind in PARTS)


PARTS = (('portrait', 'png'), ('voice', 'wav'))
read = lambda path: np.stack(list(video.read_frames(path))).astype(int)


def test_every_portrait_with_every_voice(emo, files, tmp_path):
  images, voices = files
  counts = render(emo, tmp_path / 'all', image=images, audio=voices, batch_size=3, seed=3)
  assert {pathlib.Path(p).stem: n for p, n in counts.items()} == {
    f'portrait{i}_voice{j}': 5 + 4 * j for i in (0, 1) for j in (0, 1)
  }
  assert all(len(read(path)) == count for path, count in counts.items())
  # The same as when generated alone, except for rounding and what the codec makes of it.
  alone = tmp_path / 'alone.mp4'
  assert render(emo, alone, image=images[1:], audio=voices[:1], seed=3) == {str(alone): 5}
  again, other = (read(tmp_path / 'all' / f'portrait{i}_voice0.mp4') for i in (1, 0))
  assert np.abs(read(alone) - again).mean() < 0.2 * np.abs(other - again).mean()
  with pytest.raises(UsageError, match='2 videos are asked for: name a folder'):
    render(emo, alone, image=images, audio=voices[:1])
  with pytest.raises(UsageError, match='two videos would be called'):
    namesake = tmp_path / 'b' / 'portrait0.png'
    picture.write(namesake, np.zeros((8, 8, 3), np.uint8))
    render(emo, tmp_path / 'c', image=(images[0], str(namesake)), audio=voices[:1])


@pytest.mark.slow
def test_the_same_videos_on_one_device_and_on_eight(emo, files, tmp_path):
  images, voices = files
  checkpoint.save_params(tmp_path / 'workdir', emo.config, emo.params, 0)
  arguments = (f'--workdir={tmp_path}/workdir', f'--image={",".join(images)}', f'--audio={voices[0]}', '--seed=4')
  render(emo, tmp_path / '1', image=images, audio=voices[:1], batch_size=1, seed=4)
  run('talkjax.generate', *arguments, f'--output={tmp_path}/8', devices=8)
  one, eight = (np.stack([read(tmp_path / n / f'portrait{i}_voice0.mp4') for i in (0, 1)]) for n in '18')
  assert one.shape[:2] == (2, 5)
  assert np.abs(one - eight).mean() < 0.2 * np.abs(one[0] - one[1]).mean()  # rounding, then the codec

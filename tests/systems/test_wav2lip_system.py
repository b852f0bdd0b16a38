"""Wav2Lip as a system: its examples and loss, generation from records and files, and lips for frames as they come."""

import dataclasses
import functools
import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from configs import wav2lip as configs
from talkjax import convert, systems
from talkjax.errors import UsageError, UserError
from talkjax.faces import align
from talkjax.faces.landmarks import NoFace
from talkjax.media import mel, picture, video
from talkjax.nn.wav2lip import FaceDiscriminator
from talkjax.pipeline import Pipeline
from talkjax.systems.audio import Sound
from talkjax.systems.wav2lip import conditions, data, model, published, streaming
from talkjax.training import checkpoint, input_pipeline
from tests import torch_file
from tests.commands import call
from tests.micro import generate, random_params

MICRO = {
  **{'size': 32, 'model.width': 32, 'model.multipliers': (1,), 'audio.kind': 'mel', 'data.corpus': 'puppets/tiny'},
  **{'data.examples_per_record': 4, 'optimizer.warmup': 0},
}


@pytest.fixture(scope='module')
def config(puppets):
  c = configs.get_config('tiny')
  c.update_from_flattened_dict(MICRO | {'data.dir': str(puppets)})
  return c


@pytest.fixture(scope='module')
def clips(config):
  return list(input_pipeline.eval_records(config.data, 'test', 2))


@pytest.fixture(scope='module')
def system(config):
  return systems.build(config)


@pytest.fixture(scope='module')
def params(system, clips):
  batch = {k: v for k, v in system.read(clips[0], np.random.default_rng(0)).items() if k != 'id'}
  return random_params(jax.eval_shape(system.init, jax.random.key(0), batch))


@pytest.fixture(scope='module')
def workdir(config, params, tmp_path_factory):
  folder = tmp_path_factory.mktemp('wav2lip') / 'run'
  checkpoint.save_params(folder, config, params, 1)
  return str(folder)


def changed(config, **changes):
  c = config.copy_and_resolve_references()
  c.update_from_flattened_dict(changes)
  return c


def test_an_example_is_a_window_and_a_reference_of_another_time(config, clips):
  plain = changed(config, frames=3, **{'augment.shrink': 0.0, 'augment.noise': 0.0, 'augment.shift': 0.0})
  example = systems.build(plain).read(clips[0], np.random.default_rng(3))
  (truth,) = conditions.from_records(clips[:1], config=plain).truth
  frames = picture.to_float(np.stack(truth.frames))
  find = lambda window: next(
    i for i in range(len(frames) - 2) if np.array_equal(picture.to_float(window), frames[i : i + 3])
  )
  starts = [find(window) for window in example['target']]
  references = [next(i for i in range(len(frames)) if np.array_equal(x[0], frames[i])) for x in example['reference']]
  assert min(abs(a - b) for a, b in zip(starts, references)) >= 2 + data.APART
  np.testing.assert_array_equal(example['given'], picture.to_float(example['target']))
  features = data.spectrogram(Sound.of_record(clips[0]))
  np.testing.assert_array_equal(example['audio'], np.stack([features[s : s + 3] for s in starts]))
  np.testing.assert_array_equal(example['mask'], np.stack([truth.masks[s : s + 3] for s in starts]))
  assert (example['weight'][example['mask'] == 0] <= plain.mouth_weight).all()
  assert example['weight'].max() == 1 + plain.mouth_weight


def test_what_is_given_is_augmented_and_the_target_is_sharp(config, clips):
  noisy = changed(config, **{'augment.shrink': 0.0, 'augment.noise': 0.5})
  example = systems.build(noisy).read(clips[0], np.random.default_rng(0))
  assert np.abs(example['given'] - picture.to_float(example['target'])).mean() > 0.02
  blurred = data.augment(
    example['target'][0],
    np.random.default_rng(1),
    changed(config, **{'augment.shrink': 0.8, 'augment.noise': 0.0}).augment,
  )
  detail = lambda x: np.abs(np.diff(x, axis=-2)).mean()
  assert detail(blurred) < 0.9 * detail(picture.to_float(example['target'][0]))


def test_a_short_clip_is_named(config, clips):
  short = dataclasses.replace(clips[0], frames=clips[0].frames[:4])
  with pytest.raises(UserError, match='has 4 frames, fewer than the 5 of an example'):
    systems.build(changed(config, frames=5)).read(short, np.random.default_rng(0))


def test_speech_of_a_frame_is_that_of_the_published_windows():
  waveform = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
  for fps in (25.0, 16.0):
    count = int(fps)
    features = data.spectrogram(Sound(waveform, count, fps)).reshape(count, 80, 16)
    windows, starts = mel.wav2lip_windows(mel.wav2lip_mel(waveform), fps)
    inside = starts[:-1] + 16 <= 78  # not at the end, which the spectrogram reflects there
    np.testing.assert_allclose(features[: len(starts) - 1][inside], windows[:-1][inside], atol=1e-5)
  beyond = data.spectrogram(Sound(waveform, 50, 25.0))
  assert (beyond[-5:] == data.SILENCE).all()


def test_crops_by_boxes_are_upright_and_fill_the_picture(clips, config):
  c = changed(config, crop='box', size=96)
  box = np.repeat(np.array([[40.0, 30.0, 90.0, 110.0]]), 4, 0)
  (transform, *_) = data.face_transforms(clips[0].landmarks[:4], box, c)
  corners = align.transform_points(np.array([[40.0, 30.0], [90.0, 114.0]]) - 0.5, transform)
  np.testing.assert_allclose(corners, [[-0.5, -0.5], [95.5, 95.5]], atol=1e-3)


def test_lips_do_not_depend_on_the_mouths_of_the_video(system, params, clips):
  given = system.from_records(clips[:1], num_frames=4).conditions

  class Painted:
    def __iter__(self):
      for frame in given.frames:
        yield {**frame, 'clean': np.where(frame['mask'] > 0, 0.7, frame['clean']).astype(np.float32)}

  # The reference, the first frame of the video, stays as it is.
  own = generate(system, params, given, [0])
  painted = generate(system, params, dataclasses.replace(given, frames=Painted()), [0])
  np.testing.assert_array_equal(own, painted)
  reference = dataclasses.replace(given, reference=np.zeros_like(given.reference))
  assert not np.array_equal(own, generate(system, params, reference, [0]))


def test_generation_is_by_frame_and_keeps_what_is_not_hidden(system, params, clips):
  given = system.from_records(clips, num_frames=11).conditions  # two chunks, of which one is not full
  made = generate(system, params, given, [0, 1])
  assert made.shape == (2, 11, 32, 32, 3)
  for f, frame in enumerate(given.frames):
    outside = frame['mask'] == 0
    np.testing.assert_array_equal(
      np.where(outside, made[:, f], 0), np.where(outside, picture.to_uint8(frame['clean']), 0)
    )
  alone = generate(system, params, system.from_records(clips[1:], num_frames=11).conditions, [5])
  assert np.abs(alone[0] - made[1]).max() <= 1  # rounding of a differently shaped product
  other = generate(system, params, system.from_records(clips[:1], num_frames=11, speech=clips[1:]).conditions, [0])
  assert not np.array_equal(other[0], made[0])


def test_the_middle_of_a_window_of_what_comes():
  values = np.random.default_rng(0).normal(size=(9, 2))
  for count in (1, 2, 3, 9):
    rows = [np.mean(found, 0) for found in streaming.centred(iter(values[:count]), 5)]
    np.testing.assert_allclose(rows, align.centred_mean(values[:count], 5))


@pytest.fixture(scope='module')
def drawn(clips):
  """Frames of a puppet, small as another system draws them."""
  return [cv2.resize(clips[0].frame(i), (64, 64), interpolation=cv2.INTER_AREA) for i in range(14)]


def test_lips_for_frames_as_they_come(system, params, drawn, clips, workdir, tmp_path):
  sound = clips[1].audio[: 14 * 1000].astype(np.float32) / 32768
  read = []

  def frames():
    for frame in drawn:
      read.append(frame)
      yield frame

  moved = []
  for frame in system.lip_sync(params, frames(), sound, 16.0):
    moved.append(frame)
    assert len(read) - len(moved) <= 11  # held at once
  assert len(moved) == 14 and all(f.shape == (64, 64, 3) and f.dtype == np.uint8 for f in moved)
  changed = [np.abs(a.astype(int) - b).max(-1) > 0 for a, b in zip(moved, drawn)]
  assert all(0.02 < c.mean() < 0.5 for c in changed) and not any(c[:24].any() for c in changed)  # the eyes are above
  # A file of the same frames and sound gives the same lips.
  with video.VideoWriter(tmp_path / 'in.mp4', 16.0, (64, 64), crf=0) as writer:
    for frame in drawn:
      writer.write(frame)
  soundfile.write(tmp_path / 'a.wav', sound, 16_000)
  made = Pipeline(workdir).generate(video=str(tmp_path / 'in.mp4'), audio=str(tmp_path / 'a.wav'))
  assert made.fps == 16 and made.frames.shape == (14, 64, 64, 3)
  assert np.abs(made.frames - np.stack(moved).astype(int)).mean() < 2


def test_sound_shorter_than_the_frames_is_followed_by_silence(system, params, drawn):
  lips = lambda sound: np.stack(list(system.lip_sync(params, drawn[:6], sound, 25.0)))
  sound = np.random.default_rng(0).standard_normal(3 * 640).astype(np.float32) * 0.1
  short, long = lips(sound), lips(np.pad(sound, (0, 3 * 640)))
  np.testing.assert_array_equal(short[3:], long[3:])
  assert not np.array_equal(short, lips(np.zeros(6 * 640, np.float32)))


def test_a_face_is_needed_first_and_kept_when_it_is_lost(system, params, drawn):
  grey = np.full_like(drawn[0], 128)
  with pytest.raises(NoFace, match='^no face was found in the first frame'):
    next(system.lip_sync(params, [grey, *drawn[:3]], np.zeros(8000, np.float32), 25.0))
  moved = list(system.lip_sync(params, [*drawn[:3], grey], np.zeros(8000, np.float32), 25.0))
  assert len(moved) == 4 and not np.array_equal(moved[3], grey)


def test_a_picture_becomes_a_video_of_equal_frames(workdir, clips, tmp_path):
  """Of any size; as long as the sound."""
  image = cv2.resize(clips[0].frame(0), (151, 133))
  sound = clips[1].audio[:6400].astype(np.float32) / 32768
  made = Pipeline(workdir).generate(image=image, audio=(sound, 16_000))
  assert made.frames.shape == (10, 133, 151, 3) and made.fps == 25 and len(made.sound) == 6400
  still = np.ptp(made.frames, axis=0).max(-1) == 0
  assert still[:40].all() and not still.all()
  np.testing.assert_array_equal(made.frames[4][:40], image[:40])


def test_inputs_that_are_refused(workdir, clips, tmp_path):
  pipeline, sound = Pipeline(workdir), (np.zeros(3200, np.float32), 16_000)
  with pytest.raises(UsageError, match='wav2lip takes either --video or --image'):
    pipeline.generate(audio=sound)
  with pytest.raises(UsageError, match='wav2lip takes either --video or --image'):
    pipeline.generate(audio=sound, image=clips[0].frame(0), video=(clips[0].frame(0)[None], 25))
  with pytest.raises(UserError, match='no face was found'):
    pipeline.generate(audio=sound, image=np.full((64, 64, 3), 128, np.uint8))
  with pytest.raises(UsageError, match='--audio is missing'):
    pipeline.generate(image=clips[0].frame(0))


@pytest.mark.parametrize(
  ('arg', 'sentence'),
  [
    ('tiny,crop=square', "config.crop='square': expected one of box, aligned"),
    ('tiny,model.kind=gan', "config.model.kind='gan': expected one of wav2lip, unet"),
    ('tiny,audio.kind=none', "config.audio.kind='none': expected one of mel, speech_encoder, wav2vec2"),
    ('paper,size=64', 'config.size=64 and .*the published network needs config.size=96 and config.audio.kind=mel'),
    ('paper,frames=1', 'config.loss.sync=0.03 with .*config.frames=1: the expert judges five frames'),
    ('tiny,loss.sync=0.03', 'config.loss.sync=0.03 with config.model.kind=unet'),
  ],
)
def test_configs_that_cannot_be_built(arg, sentence):
  with pytest.raises(UserError, match=sentence):
    systems.build(configs.get_config(arg))


def test_each_player_learns_from_its_own_term():
  parts = model.Parts(None, FaceDiscriminator((4, 4, 8)))
  true, made = jax.random.uniform(jax.random.key(0), (2, 2, 16, 16, 3), minval=-1)
  own = random_params(jax.eval_shape(parts.discriminator.init, jax.random.key(1), made[:, 8:])['params'])
  players = lambda made, own, name: model._adversarial({'discriminator': own}, parts, true, made)[name]
  zero = lambda tree: all((np.asarray(x) == 0).all() for x in jax.tree.leaves(tree))
  for name, of_faces in (('adversarial', True), ('discriminator', False)):
    grads = jax.jit(jax.grad(players, argnums=(0, 1)), static_argnums=2)(made, own, name)
    assert (not zero(grads[0]), not zero(grads[1])) == (of_faces, not of_faces)
    assert zero(grads[0][:, :8])  # it sees lower halves alone


def test_the_expert_sees_five_lower_halves_in_bgr():
  seen = []

  class Expert:
    def apply(self, variables, faces, mel):
      seen.extend((faces, mel))
      return jnp.full(len(faces), 0.5)

  made = np.random.default_rng(0).uniform(-1, 1, (10, 8, 8, 3)).astype(np.float32)
  audio = np.arange(2 * 5 * 80 * 16, dtype=np.float32).reshape(2, 5, -1)
  value = model._sync({'expert': {}}, model.Parts(None, expert=Expert()), made, {'audio': audio})
  np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
  faces, columns = seen
  assert faces.shape == (2, 4, 8, 15)
  np.testing.assert_allclose(faces[1, ..., 6:9], (made[7, 4:, :, ::-1] + 1) / 2, rtol=1e-6)
  np.testing.assert_array_equal(columns[1, ..., 0], audio[1, 0].reshape(80, 16))


def test_l1_is_of_what_is_drawn(system, params, clips):
  batch = {k: v for k, v in system.read(clips[0], np.random.default_rng(0)).items() if k != 'id'}
  loss = jax.jit(functools.partial(system.loss, train=False))
  value, terms = loss(params, batch, jax.random.key(0))
  assert set(terms) == {'l1'} and value == terms['l1'] > 0
  outside = {**batch, 'target': np.where(batch['weight'] > 0, batch['target'], 0).astype(np.uint8)}
  np.testing.assert_allclose(loss(params, outside, jax.random.key(0))[0], value, rtol=1e-6)


def test_trains_and_is_scored(puppets, tmp_path):
  flags = [f'--config.{key}={value}' for key, value in MICRO.items()]
  run = f'--workdir={tmp_path}/run'
  steps = ('--config.steps=2', '--config.batch_size=4', '--config.sample_every=2', f'--config.data.dir={puppets}')
  call('talkjax.train', '--config=configs/wav2lip.py:tiny', run, *flags, *steps)
  assert (tmp_path / 'run/samples/strip_0000002.png').exists()
  call('talkjax.evaluate', run, '--split=test', '--limit=2', f'--output={tmp_path}/scores.json')
  scores = json.loads((tmp_path / 'scores.json').read_text())
  assert {'lip_score', 'lip_score_other_speech', 'psnr'} <= scores.keys()


@pytest.mark.large
def test_the_published_generator_generates_and_trains_on(goldens, clips, puppets, tmp_path):
  shapes = json.loads((goldens / 'wav2lip_generator.json').read_text())['state']
  random = np.random.default_rng(0)
  scale = lambda name, s: np.ones(s) if name.endswith('running_var') else 0.02 * random.standard_normal(s)
  torch_file.save(
    tmp_path / 'wav2lip_gan.pth', {f'module.{k}': scale(k, s).astype(np.float32) for k, s in shapes.items()}
  )
  convert.convert(published.NAME, tmp_path, str(tmp_path / 'run'))
  sound = clips[1].audio[:3200].astype(np.float32) / 32768
  made = Pipeline(str(tmp_path / 'run')).generate(image=clips[0].frame(0), audio=(sound, 16_000))
  assert made.frames.shape == (5, *clips[0].size, 3)
  expert = '--config.pretrained.wav2lip_syncnet=random'
  small = ('--config.data.corpus=puppets/tiny', f'--config.data.dir={puppets}', '--config.data.workers=0')
  steps = ('--config.steps=1', '--config.batch_size=1', '--config.sample_every=0', expert)
  run = f'--workdir={tmp_path}/more'
  call('talkjax.train', '--config=configs/wav2lip.py', run, f'--config.init_from={tmp_path}/run', *small, *steps)
  before, after = (checkpoint.load_params(tmp_path / name, 'params')[1]['generator'] for name in ('run', 'more'))
  path = ('face_encoder_blocks_1', '0_conv_block_1')
  leaf = lambda tree, name: tree[path[0]][path[1]][name]
  np.testing.assert_array_equal(leaf(before, 'running_mean'), leaf(after, 'running_mean'))
  assert not np.array_equal(leaf(before, 'scale'), leaf(after, 'scale'))


def test_other_files_are_refused(tmp_path):
  torch_file.save(tmp_path / 'wav2lip.pth', {'module.a.weight': np.ones(3, np.float32)})
  with pytest.raises(UserError, match='wav2lip.pth'):
    convert.convert(published.NAME, tmp_path, str(tmp_path / 'run'))
  (tmp_path / 'empty').mkdir()
  with pytest.raises(UserError, match='has no generator of Wav2Lip: expected wav2lip_gan.pth or wav2lip.pth'):
    convert.convert(published.NAME, tmp_path / 'empty', str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()

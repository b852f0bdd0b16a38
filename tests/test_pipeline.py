"""talkjax.load: a workdir generates from files and from arrays what the command writes to files."""

import functools
import subprocess
import sys

import numpy as np
import pytest

import talkjax
from configs import speech_encoder
from talkjax import pipeline, systems
from talkjax.errors import UsageError, UserError
from talkjax.media import picture, video
from talkjax.training import checkpoint, input_pipeline
from tests import micro as small
from tests.commands import ROOT, call
from tests.systems import toy


@pytest.fixture(scope='module')
def record(puppets):
  return next(input_pipeline.eval_records(small.emo_config(1, puppets).data, 'test', 1))


@pytest.fixture(scope='module')
def sound(record):
  """Speech for 8 frames, and its rate."""
  return record.audio[:5120].astype(np.float32) / 32768, 16_000


@pytest.fixture(scope='module')
def files(record, sound, tmp_path_factory):
  folder = tmp_path_factory.mktemp('files')
  picture.write(folder / 'face.png', record.frame(0))
  with video.VideoWriter(folder / 'talk.mp4', 25.0, tuple(record.size), *sound) as writer:
    for i in range(8):
      writer.write(record.frame(i))
  return folder


# What these compile, tests of the systems compile too.
VEXPRESS = functools.partial(small.vexpress_config, **{'windows.batch_size': 2})


@pytest.fixture(scope='module', params=[small.emo_config, VEXPRESS], ids=['emo', 'vexpress'])
def portrait(request, puppets, tmp_path_factory):
  """The workdir of a portrait system with random weights."""
  made = small.setup(request.param(3, puppets))
  folder = tmp_path_factory.mktemp('runs') / made.config.system
  checkpoint.save_params(folder, made.config, made.params, 3)
  return folder


@pytest.mark.slow
def test_a_portrait_system_generates_from_arrays_what_the_command_writes(portrait, record, sound, files, tmp_path):
  pipeline = talkjax.load(portrait)
  from_arrays = pipeline.generate(image=record.frame(0), audio=sound, seed=1)
  assert from_arrays.frames.shape == (8, 32, 32, 3) and from_arrays.frames.dtype == np.uint8
  assert from_arrays.fps == 25 and from_arrays.sound_rate == 16_000
  np.testing.assert_allclose(from_arrays.sound.reshape(-1), sound[0], atol=1e-6)
  compiled = dict(pipeline._systems)
  from_files = pipeline.generate(image=files / 'face.png', audio=sound, seed=1)
  np.testing.assert_array_equal(from_files.frames, from_arrays.frames)
  assert pipeline._systems == compiled  # and so nothing is compiled again
  assert not np.array_equal(pipeline.generate(image=record.frame(0), audio=sound).frames, from_arrays.frames)

  out = tmp_path / 'out.mp4'
  flags = (f'--image={files / "face.png"}', f'--audio={files / "talk.mp4"}', f'--output={out}')
  call('talkjax.generate', f'--workdir={portrait}', *flags, '--seed=1')
  again = pipeline.generate(image=str(files / 'face.png'), audio=str(files / 'talk.mp4'), seed=1)
  written = np.stack(list(video.read_frames(out)))
  blocks = lambda frames: frames.reshape(8, 8, 4, 8, 4, 3).mean((2, 4, 5))  # noise does not survive compression
  assert np.abs(blocks(written) - blocks(again.frames)).mean() < 4


def test_speech_edit_generates_from_arrays(micro_workdir, record, sound, files):
  pipeline = talkjax.load(micro_workdir)
  frames = np.stack([record.frame(i) for i in range(8)])
  result = pipeline.generate(video=(frames, 25.0), audio=sound, steps=1)
  assert result.frames.shape == frames.shape and result.fps == 25 and len(result.sound) == len(sound[0])
  changed = np.abs(result.frames.astype(int) - frames).mean((0, 3)) > 20
  assert changed.any() and not changed[:40].any()  # the lower face alone
  stereo = np.repeat(sound[0][:, None], 2, 1)
  result = pipeline.generate(video=files / 'talk.mp4', audio=(stereo, 16_000), identity=record.frame(2), steps=1)
  assert len(result.frames) == 8 and result.sound.shape == stereo.shape


def test_a_system_of_picture_and_sound(puppets, tmp_path):
  call('talkjax.train', '--config=tests/systems/toy.py', f'--config.data.dir={puppets}', f'--workdir={tmp_path}')
  result = talkjax.load(tmp_path, weights='params').generate(seconds=1, pitch=800.0)
  assert result.frames.shape == (25, 16, 16, 3) and len(result.sound) == result.sound_rate == 16_000
  assert abs(np.abs(np.fft.rfft(result.sound)).argmax() - 800) <= 1


@pytest.mark.parametrize(
  ('inputs', 'sentence'),
  [
    ({}, 'speech_edit needs --video, --audio'),
    ({'image': 'a.png'}, 'speech_edit does not take --image: it takes --video'),
    ({'video': 'v.mp4', 'audio': 'a.wav', 'sede': 1}, 'speech_edit does not take --sede'),
    ({'video': 'v.mp4', 'audio': 'a.wav', 'steps': '4'}, "steps='4': expected a value of type int"),
    ({'video': 'v.mp4', 'audio': 'a.wav', 'steps': True}, 'steps=True: expected a value of type int'),
    ({'video': 'v.mp4', 'audio': 'a.wav', 'steps': 0}, '--steps=0: expected 1 or more'),
    ({'video': np.zeros((4, 8, 8, 3), np.uint8), 'audio': 'a.wav'}, r'video: uint8 \[4, 8, 8, 3\] is not accepted'),
    ({'video': 'v.mp4', 'audio': (np.zeros(9, np.int16), 9)}, r'audio: int16 \[9\] is not accepted: expected a file'),
  ],
)
def test_wrong_inputs(micro_workdir, inputs, sentence):
  with pytest.raises(UsageError, match=sentence):
    talkjax.load(micro_workdir).generate(**inputs)


def test_what_cannot_generate_is_refused(tmp_path):
  with pytest.raises(UserError, match='is not a workdir'):
    talkjax.load(tmp_path)
  (tmp_path / 'config.json').write_text('{"system": "nothing"}')
  with pytest.raises(UserError, match="config.system='nothing' is not one of"):
    talkjax.load(tmp_path)
  (tmp_path / 'config.json').write_text(speech_encoder.get_config('tiny').to_json())
  with pytest.raises(UserError, match='makes no video: speech_encoder only helps other systems'):
    talkjax.load(tmp_path).generate(audio='a.wav')


def test_only_what_a_config_lacks_is_its_fault_while_a_video_is_generated():
  """Other errors are those of the code, and leave a traceback."""
  config = toy.get_config('tiny')
  for error, raised in ((KeyError('width'), UserError), (TypeError('width'), TypeError)):
    with pytest.raises(raised, match='width'), systems.consistent(config, systems.LACKING):
      raise error


def test_importing_talkjax_is_cheap():
  code = 'import sys, talkjax; print(callable(talkjax.load), {"jax", "numpy", "talkjax.pipeline"} & set(sys.modules))'
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
  assert done.stdout.strip() == 'True set()'


def test_a_comparison_replaces_no_other_picture(tmp_path, tmp_path_factory):
  (tmp_path / 'comparison.png').write_text('mine')
  workdir = tmp_path_factory.mktemp('toy') / 'run'
  checkpoint.save_params(workdir, toy.get_config('tiny'), {'image': np.zeros((16, 16, 3), np.float32)}, 0)
  with pytest.raises(UserError, match='comparison.png exists and was not made by talkjax'):
    pipeline.Pipeline(workdir).write(str(tmp_path), sweep=('pitch', (1.0, 2.0)), seconds=0.2)
  assert [p.name for p in tmp_path.iterdir()] == ['comparison.png']

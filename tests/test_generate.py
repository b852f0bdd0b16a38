"""Any video and any speech in, the re-voiced video out; and what is refused."""

import json
import os
import pathlib

import cv2
import numpy as np
import pytest
import soundfile

from talkjax import pipeline, systems
from talkjax.errors import UsageError, UserError
from talkjax.media import audio, video
from talkjax.training import checkpoint, input_pipeline
from talkjax.training.workdir import read_config
from tests.commands import call


@pytest.fixture(scope='module')
def make(micro_workdir):
  """Generates one video and returns its number of frames."""
  config, params, _ = checkpoint.load_params(micro_workdir)
  system = systems.build(config)

  def make_one(output, seed=0, **inputs):
    (made,) = pipeline.generate(system, params, systems.Request(str(output), inputs), seed).items()
    assert made[0] == str(output)
    return made[1]

  return make_one


@pytest.fixture(scope='module')
def clip(micro_workdir):
  config = read_config(micro_workdir)
  return next(input_pipeline.eval_records(config.data, 'test', 1))


@pytest.fixture(scope='module')
def talk(clip, tmp_path_factory):
  """A puppet of 20 frames at 30 frames/s in an odd size, off the middle of the picture."""
  path = str(tmp_path_factory.mktemp('videos') / 'talk.mp4')
  with video.VideoWriter(path, 30.0, (301, 340), clip.audio.astype(np.float32) / 32768) as writer:
    for i in range(20):
      canvas = np.full((301, 340, 3), 90, np.uint8)
      canvas[20:276, 60:316] = cv2.resize(clip.frame(i), (256, 256), interpolation=cv2.INTER_CUBIC)
      writer.write(canvas)
  return path


@pytest.fixture
def wav(tmp_path):
  def write(seconds, rate=16_000, channels=1):
    path = str(tmp_path / f'speech_{seconds}_{rate}_{channels}.wav')
    t = np.arange(round(seconds * rate)) / rate
    tone = (0.3 * np.sin(2 * np.pi * 150 * t) * (np.sin(2 * np.pi * 3 * t) > 0)).astype(np.float32)
    soundfile.write(path, np.repeat(tone[:, None], channels, 1), rate)
    return path

  return write


@pytest.mark.parametrize(
  ('seconds', 'rate', 'channels', 'frames'),
  [(0.5, 16_000, 1, 15), (0.2, 50_000, 2, 6), (1.51, 44_100, 2, 46)],  # the last plays forth and back
)
def test_as_long_as_the_speech_in_the_videos_own_size_and_rate(
  make, talk, wav, tmp_path, seconds, rate, channels, frames
):
  speech, output = wav(seconds, rate, channels), str(tmp_path / 'out.mp4')
  assert make(output, video=talk, audio=speech) == frames
  info = video.probe(output)
  assert (info.width, info.height, round(info.fps, 3)) == (340, 301, 30.0)
  assert len(list(video.read_frames(output))) == frames
  assert abs(len(audio.read_audio(output)) / 16_000 - seconds) < 0.001


def test_only_the_face_changes_and_the_same_seed_gives_the_same_video(make, talk, wav, tmp_path):
  speech = wav(0.5)
  made = []
  for i, seed in enumerate((0, 0, 1)):
    output = str(tmp_path / f'{i}.mp4')
    make(output, video=talk, audio=speech, seed=seed)
    made.append(np.stack(list(video.read_frames(output))).astype(int))
  source = np.stack(list(video.read_frames(talk)))[:15].astype(int)
  np.testing.assert_array_equal(made[0], made[1])
  assert not np.array_equal(made[0], made[2])
  changed = np.abs(made[0] - source).max(-1)
  assert changed[:, :40].max() < 40 and changed[:, :, :40].max() < 40  # encoding twice, no more
  assert np.median(changed[:, 190:230, 150:220]) > 0


def test_a_generated_file_says_so(micro_workdir, talk, wav, tmp_path):
  output = tmp_path / 'out.mp4'
  done = call(
    'talkjax.generate',
    f'--workdir={micro_workdir}',
    f'--video={talk}',
    f'--audio={wav(0.2)}',
    f'--output={output}',
    '--steps=1',
    '--sampler=dpm++',
    '--seed=7',
    '--identity=3',
  )
  assert done.stdout == f'{output}: 6 frames\n'
  about = json.loads(video.read_metadata(output)['comment'])
  assert about['generated'] and (about['step'], about['seed'], about['system']) == (6, 7, 'speech_edit')
  assert about['config']['sampler'] == {'name': 'dpm++', 'steps': 1, 'eta': 0.0, 'spacing': 'trailing'}


def test_what_a_user_has_is_never_lost(micro_workdir, talk, wav, tmp_path):
  speech, text = wav(0.2), tmp_path / 'text.mp4'
  text.write_text('mine')
  link = tmp_path / 'link.mp4'
  link.symlink_to(talk)
  model = pipeline.Pipeline(micro_workdir)
  for output, kind, sentence in (
    (talk, UserError, 'is an input'),
    (link, UserError, 'is an input'),
    (speech, UsageError, 'ends in .mp4'),
    (text, UserError, 'was not made by talkjax: .*--overwrite'),
    (tmp_path / 'text.mp4' / 'out.mp4', UserError, 'is not a folder'),
  ):
    with pytest.raises(kind, match=sentence):
      model.write(str(output), video=talk, audio=speech)
  before = pathlib.Path(talk).read_bytes()
  with pytest.raises(UserError, match='is an input'):
    model.write(talk, video=talk, audio=speech, overwrite=True)
  assert pathlib.Path(talk).read_bytes() == before and text.read_text() == 'mine'
  for overwrite in (True, False):  # the second time it is a generated video, which is replaced
    assert model.write(str(text), video=talk, audio=speech, overwrite=overwrite) == {str(text): 6}


@pytest.fixture
def bad(tmp_path, talk):
  """Files that cannot serve."""
  grey = str(tmp_path / 'grey.mp4')
  with video.VideoWriter(grey, 25.0, (64, 64)) as writer:
    for _ in range(5):
      writer.write(np.full((64, 64, 3), 128, np.uint8))
  text = tmp_path / 'text.mp4'
  text.write_text('not a video')
  return {'grey': grey, 'text': str(text), 'missing': str(tmp_path / 'missing.mp4'), 'talk': talk}


@pytest.mark.parametrize(
  ('of', 'speech', 'sentence'),
  [
    ('missing', None, r'no file .*missing\.mp4'),
    ('text', None, r'text\.mp4'),
    ('grey', None, 'no face was found in any of the'),
    ('talk', 'grey', 'has no sound track'),
    ('talk', 'missing', r'no file .*missing\.mp4'),
  ],
)
def test_what_cannot_serve_is_named_and_nothing_is_left(make, bad, wav, tmp_path, of, speech, sentence):
  output = tmp_path / 'out' / 'out.mp4'
  with pytest.raises(UserError, match=sentence):
    make(output, video=bad[of], audio=bad[speech] if speech else wav(0.3))
  assert not output.exists() and not list(tmp_path.glob('**/*.partial*'))


@pytest.mark.parametrize(
  ('args', 'code', 'sentence'),
  [
    (['--video=v.mp4'], 2, 'speech_edit needs --video, --audio: --audio is missing'),
    (['--video=v.mp4', '--audio=a.wav', '--image=i.png'], 2, 'speech_edit does not take --image: it takes --video'),
    (['--video=v.mp4', '--audio=a.wav', '--steps=0'], 2, '--steps=0: expected 1 or more'),
    (['--video=v.mp4', '--audio=a.wav', '--batch_size=0'], 2, '--batch_size=0: expected 1 or more'),
    (['--video=v.mp4', '--audio=a.wav', '--weights=best'], 2, '--weights=best: expected one of ema, params'),
    (['--video=v.mp4', '--audio=a.wav', '--sweep=steps=1,2'], 2, '--sweep=steps: speech_edit can sweep nothing'),
    (['--video=v.mp4', '--audio=a.wav', '--sampler=ddimm'], 1, "sampler 'ddimm' is not one of"),
    (['--video=v.mp4', '--audio=a.wav', '--seed=-1'], 2, '--seed=-1: expected 0 or more'),
    (['--video=v.mp4', '--audio=a.wav'], 1, 'no file v.mp4'),
  ],
)
def test_errors_of_the_command(micro_workdir, tmp_path, args, code, sentence):
  output = tmp_path / 'out.mp4'
  done = call('talkjax.generate', f'--workdir={micro_workdir}', *args, f'--output={output}', check=False)
  assert done.returncode == code and sentence in done.stderr and done.stderr.count('\n') == 1
  assert not output.exists()


def test_empty_outputs_and_workdirs_are_usage_errors(micro_workdir):
  for flag in ('workdir', 'output'):
    done = call('talkjax.generate', f'--workdir={micro_workdir}', f'--{flag}=', check=False)
    assert done.returncode == 2 and f'--{flag} is empty: give it a value' in done.stderr


def test_a_workdir_is_asked_for():
  done = call('talkjax.generate', '--video=v.mp4', check=False)
  assert done.returncode == 2 and '--workdir is missing: python -m talkjax.generate --workdir=DIR' in done.stderr


def test_identity_is_a_frame_or_a_picture(make, talk, wav, tmp_path):
  with pytest.raises(UserError, match='the video has frames 0 to'):
    make(tmp_path / 'a.mp4', video=talk, audio=wav(0.3), identity='999')
  with pytest.raises(UserError, match='neither an image nor the number'):
    make(tmp_path / 'a.mp4', video=talk, audio=wav(0.3), identity='nobody.png')
  os.mkfifo(tmp_path / 'fifo.png')
  with pytest.raises(UserError, match=r'fifo\.png is a FIFO \(named pipe\): give a PNG or JPEG'):
    make(tmp_path / 'a.mp4', video=talk, audio=wav(0.3), identity=str(tmp_path / 'fifo.png'))
  face = str(tmp_path / 'face.png')
  frame = next(iter(video.read_frames(talk)))
  cv2.imwrite(face, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
  assert make(tmp_path / 'a.mp4', video=talk, audio=wav(0.2), identity=face) == 6


def test_any_frame_of_the_source_can_say_who_speaks(make, talk, wav, tmp_path):
  """Also one that comes after the frames that short speech needs."""
  made = []
  for identity in ('0', '5', '19'):
    make(tmp_path / 'a.mp4', video=talk, audio=wav(0.1), identity=identity)
    made.append(np.stack(list(video.read_frames(tmp_path / 'a.mp4'))))
  assert not np.array_equal(made[0], made[2])
  for identity in ('20', '9' * 5000):
    with pytest.raises(UserError, match='the video has frames 0 to 19'):
      make(tmp_path / 'a.mp4', video=talk, audio=wav(0.1), identity=identity)

"""Videos that joint_av makes of files and texts, and of messages."""

import types

import jax
import numpy as np
import pytest
import soundfile

from talkjax.errors import UsageError, UserError
from talkjax.media import audio, picture, video
from talkjax.training import checkpoint
from tests import micro, renderer
from tests.commands import call
from tests.joint import MAN, WOMAN, make, make_pixels, make_with_renderer


@pytest.fixture(scope='module')
def drawn(puppets):
  return renderer.make(puppets)


@pytest.fixture(scope='module')
def made(drawn, tmp_path_factory):
  return make_with_renderer(drawn, tmp_path_factory.mktemp('renderer'))


@pytest.fixture(scope='module')
def files(made, tmp_path_factory):
  folder = tmp_path_factory.mktemp('files')
  picture.write(folder / 'portrait.png', made.records[0].frame(0))
  soundfile.write(folder / 'voice.wav', made.records[0].audio[: 9 * 640 - 100], 16_000)
  return types.SimpleNamespace(image=str(folder / 'portrait.png'), audio=str(folder / 'voice.wav'))


def read(path):
  return np.stack(list(video.read_frames(path))).astype(int)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('given', 'frames'),
  [
    ((), 8),
    (('caption',), 8),
    (('seconds',), 13),
    (('image',), 8),
    (('audio',), 9),
    (('audio', 'image', 'caption'), 9),
    (('image', 'caption'), 8),
    (('text',), None),
    (('text', 'caption'), None),
    (('text', 'image', 'caption'), None),
  ],
  ids=lambda value: '+'.join(value) if isinstance(value, tuple) else '',
)
def test_every_combination_of_inputs_makes_a_video_with_sound(made, files, tmp_path, given, frames):
  values = {'caption': WOMAN, 'seconds': 0.52, 'text': 'now', 'image': files.image, 'audio': files.audio}
  path = str(tmp_path / 'out.mp4')
  (count,) = micro.render(made, path, **{name: values[name] for name in given}).values()
  assert frames is None or count == frames
  assert read(path).shape == (count, 32, 32, 3)
  sound = audio.read_audio(path)
  assert abs(len(sound) - count * 640) <= 640 and np.abs(sound).max() > 1e-4
  if 'audio' in given:
    speech = audio.read_audio(files.audio)
    assert np.corrcoef(sound[: len(speech)], speech)[0, 1] > 0.9


def test_a_portrait_is_who_is_shown(made, files, tmp_path):
  micro.render(made, tmp_path / 'a.mp4', image=files.image)
  micro.render(made, tmp_path / 'b.mp4')
  assert np.abs(read(tmp_path / 'a.mp4') - read(tmp_path / 'b.mp4')).mean() > 5


@pytest.mark.slow
def test_pixels_make_a_video_too(puppets, tmp_path):
  pixels = make_pixels(puppets)
  (count,) = micro.render(pixels, tmp_path / 'out.mp4', caption=MAN, seconds=0.5).values()
  assert count == 8 and read(tmp_path / 'out.mp4').shape == (8, 12, 12, 3)
  assert video.probe(tmp_path / 'out.mp4').fps == 16


def test_inputs_that_cannot_be(made, drawn, files, tmp_path):
  render = lambda **inputs: micro.render(made, tmp_path / 'x.mp4', **inputs)
  with pytest.raises(UserError, match="--caption=A dog: the caption 'A dog' is not known .* 'A man is talking'"):
    render(caption='A dog')
  for text, sentence in (
    ('', '--text is empty'),
    ('?!', 'the text .* has no words'),
    ('a' * 10_000, 'has 10000 characters, and at most 2000'),
    ('привет', 'cannot speak .*: write it in Latin letters'),
  ):
    with pytest.raises(UserError, match=sentence):
      render(text=text)
  with pytest.raises(UsageError, match='^--text and --audio: both say what is heard'):
    render(text='hello', audio=files.audio)
  with pytest.raises(UsageError, match='^--seconds is the length of a video without speech'):
    render(seconds=2.0, audio=files.audio)
  picture.write(tmp_path / 'grey.png', np.full((64, 64, 3), 128, np.uint8))
  with pytest.raises(UserError, match='grey.png'):
    render(image=str(tmp_path / 'grey.png'))
  with pytest.raises(UserError, match='without a renderer, .* give --renderer=WORKDIR'):
    micro.render(make(drawn), tmp_path / 'x.mp4')
  with pytest.raises(UserError, match='nowhere is not a workdir'):
    micro.render(make(drawn, **{'others.renderer': 'nowhere'}), tmp_path / 'x.mp4')
  checkpoint.save_params(tmp_path / 'other', made.config, made.params, 1)
  with pytest.raises(UserError, match='is of joint_av, which has no renderer: give another workdir'):
    micro.render(make(drawn, **{'others.renderer': str(tmp_path / 'other')}), tmp_path / 'x.mp4')
  assert not (tmp_path / 'x.mp4').exists()


def test_a_message_makes_the_same_video(made, tmp_path):
  checkpoint.save_params(tmp_path / 'workdir', made.config, made.params, 1)
  arguments = ('talkjax.generate', f'--workdir={tmp_path}/workdir')
  message, sent, received = (f'{tmp_path}/{name}' for name in ('message.json', 'sent.mp4', 'received.mp4'))
  done = call(*arguments, f'--caption={MAN}', '--seed=3', '--steps=2', f'--output={sent}', f'--save_request={message}')
  assert 'bits per second of video' in done.stdout
  done = call(*arguments, f'--request={message}', f'--output={received}')
  assert 'other weights' not in done.stderr
  assert np.abs(read(sent) - read(received)).mean() < 0.5
  done = call(*arguments, f'--request={message}', f'--caption={MAN}', f'--output={received}', check=False)
  assert done.returncode == 2 and f'--request={message} says what is generated: leave out --caption' in done.stderr
  changed = {**made.params, 'network': jax.tree.map(lambda x: 1.01 * x, made.params['network'])}
  checkpoint.save_params(tmp_path / 'changed', made.config, changed, 1)
  done = call('talkjax.generate', f'--workdir={tmp_path}/changed', f'--request={message}', f'--output={received}')
  assert 'the message was made with other weights' in done.stderr
  assert np.abs(read(sent) - read(received)).mean() > 0.5

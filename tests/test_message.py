"""Messages: what a sender writes, a receiver generates from."""

import json
import os

import pytest

from talkjax import message
from talkjax.errors import UsageError, UserError
from talkjax.systems import joint_av

GIVEN = {'text': 'place blue at F nine now', 'caption': 'A woman is talking', 'steps': 4, 'guidance': 1.5}


@pytest.fixture
def path(tmp_path):
  return str(tmp_path / 'message.json')


def test_what_is_saved_is_loaded(path):
  text = message.encode(GIVEN, 3, 'abc', joint_av.OPTIONS)
  message.save(path, text)
  assert message.load(path, joint_av.OPTIONS) == (GIVEN, 3, 'abc')
  assert len(text) < 130
  assert message.load(path, joint_av.OPTIONS) == message.load(path, joint_av.OPTIONS)


def test_files_cannot_be_sent():
  with pytest.raises(UsageError, match='^--save_request: a message cannot hold --audio, --image, only caption, '):
    message.encode({**GIVEN, 'image': 'a.png', 'audio': 'a.wav'}, 0, 'abc', joint_av.OPTIONS)


@pytest.mark.parametrize(
  ('content', 'sentence'),
  [
    ('', 'is not a message of talkjax: write one with'),
    ('[1]', 'is not a message'),
    ('{"seed": 1}', 'is not a message'),
    ('[' * 100_000, 'is not a message'),
    ('{"weights": "a", "image": "/etc/passwd"}', "has 'image', which a message to this workdir cannot have"),
    ('{"weights": "a", "steps": "4"}', "has steps='4': expected a value of type int"),
    ('{"weights": "a", "steps": 0}', '--steps=0: expected 1 or more'),
    ('{"weights": "a", "seed": -1}', '--seed=-1: expected 0 or more'),
    ('{"weights": "a", "guidance": NaN}', '--guidance=nan: expected'),
    (f'{{"weights": "a", "guidance": 1{"0" * 400}}}', 'int too large to convert to float'),
    ('{"weights": "a", "no_wav2lip": 1}', 'has no_wav2lip=1: expected a value of type bool'),
  ],
)
def test_what_is_no_message(path, content, sentence):
  with open(path, 'w') as file:
    file.write(content)
  with pytest.raises(UserError, match=sentence) as error:
    message.load(path, joint_av.OPTIONS)
  assert str(error.value).startswith(f'--request={path}')


def test_a_message_is_plain_json():
  text = message.encode({'text': 'été'}, 0, 'abc', joint_av.OPTIONS)
  assert json.loads(text) == {'text': 'été', 'seed': 0, 'weights': 'abc'} and 'été' in text


def test_only_messages_are_replaced(tmp_path, path):
  message.save(path, message.encode(GIVEN, 0, 'abc', joint_av.OPTIONS))
  (tmp_path / 'other.json').write_text('{"weights": 3}')
  assert message.is_one(path) and not message.is_one(str(tmp_path / 'other.json'))
  os.mkfifo(tmp_path / 'fifo.json')
  with pytest.raises(UserError, match='is a FIFO'):
    message.load(str(tmp_path / 'fifo.json'), joint_av.OPTIONS)

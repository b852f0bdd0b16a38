"""Text of users as speech: voices by gender and seed, and what is refused."""

import sys
import types

import numpy as np
import pytest

from talkjax.errors import UsageError, UserError
from talkjax.media import speech, text_to_speech
from talkjax.media.text_to_speech import VOICES, check_text, gender_of, speak_text

TEXT = 'place blue at F nine now'


def test_a_gender_and_a_seed_are_a_voice():
  spoken = {voice: speech.speak(TEXT, voice).audio.tobytes() for voices in VOICES.values() for voice in voices}
  by_sound = {sound: voice for voice, sound in spoken.items()}
  heard = lambda gender, seed: by_sound[speak_text(TEXT, gender, seed).tobytes()]
  for gender in VOICES:
    assert {heard(gender, seed) for seed in range(12)} <= set(VOICES[gender])
    assert len({heard(gender, seed) for seed in range(12)}) > 2
  either = {heard('', seed) for seed in range(12)}
  assert either & set(VOICES['female']) and either & set(VOICES['male'])


def test_speech_is_16_khz_samples():
  sound = speak_text(TEXT)
  assert sound.dtype == np.float32 and sound.ndim == 1 and 0.05 < np.abs(sound).max() <= 1
  assert 1 < len(sound) / 16_000 < 4


def test_the_voice_of_a_caption():
  captions = {
    'A woman is talking': 'female',
    'A man is talking': 'male',
    'Two women': 'female',
    'A Female voice': 'female',
  }
  assert {caption: gender_of(caption) for caption in captions} == captions
  assert gender_of('') == gender_of('Somebody talks') == gender_of('A man and a woman') == gender_of('humankind') == ''


@pytest.mark.parametrize(
  ('text', 'sentence'),
  [
    ('', "the text '' has no words"),
    (' \n\t', "the text '' has no words"),
    ('?! ...', 'has no words'),
    ('a' * 10_000, 'the text has 10000 characters, and at most 2000'),
    ('привет', r'cannot speak \(в, е, и, п, р\): write it in Latin letters'),
    ('hello 世界', 'cannot speak'),
    ('hello γ', r'cannot speak \(γ\)'),
    ('call ٣', 'cannot speak'),
    ('a\0b', 'zero byte'),
    ('a\udcffb', 'not UTF-8'),
  ],
)
def test_what_cannot_be_spoken_is_said(text, sentence):
  with pytest.raises(UserError, match=sentence):
    speak_text(text)


def test_what_can_be_spoken():
  assert check_text('  naïve\ncafé, №5 — “so” ½ ') == 'naïve café, No5 — “so” 1⁄2'
  assert len(speak_text('a ' * 999 + 'b')) > 16_000


def test_unknown_engines_and_genders():
  with pytest.raises(UsageError, match="engine='festival' of speech: expected one of espeak, yourtts"):
    speak_text(TEXT, engine='festival')
  with pytest.raises(UsageError, match="gender='robot' of a voice: expected one of female, male"):
    speak_text(TEXT, 'robot')


@pytest.fixture
def unloaded():
  text_to_speech._load_yourtts.cache_clear()
  yield
  text_to_speech._load_yourtts.cache_clear()


def test_yourtts_without_its_package_says_how_to_install_it(monkeypatch, unloaded):
  monkeypatch.setattr(text_to_speech.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match='YourTTS needs the package coqui-tts: run `launch/setup.sh tts`'):
    speak_text(TEXT, engine='yourtts')


def test_yourtts_without_its_model_says_how_to_fetch_it(monkeypatch, tmp_path, unloaded):
  """With modules in place of the package where it is not installed; it is looked for where coqui-tts keeps it."""
  if text_to_speech.importlib.util.find_spec('TTS') is None:
    names = {'trainer': {}, 'trainer.io': {'get_user_data_dir': lambda name: tmp_path / name}, 'TTS': {}}
    for name, values in (names | {'TTS.api': {'TTS': None}}).items():
      made = types.ModuleType(name)
      made.__dict__.update(values, __spec__=types.SimpleNamespace(name=name))
      monkeypatch.setitem(sys.modules, name, made)
  monkeypatch.setenv('TTS_HOME', str(tmp_path))
  with pytest.raises(
    UserError, match=f'the model of YourTTS is not in {tmp_path}/tts/tts_models--multi.*fetch it with'
  ):
    speak_text(TEXT, engine='yourtts')

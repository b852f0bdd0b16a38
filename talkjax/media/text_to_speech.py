"""Text of users as speech: by espeak-ng, which comes with the package, or by YourTTS (`pip install .[tts]`)."""

import functools
import importlib.util
import re
import unicodedata

import numpy as np
import soxr

from talkjax.errors import UsageError, UserError
from talkjax.media import speech
from talkjax.media.segments import AUDIO_RATE

ENGINES = ('espeak', 'yourtts')
GENDERS = ('female', 'male')
MAX_LETTERS = 2000  # some two minutes of speech
# Voices of espeak-ng by gender: those of the puppets, whose speech our own speech encoder knows.
VOICES = {
  'female': tuple(f'en-us+f{i}' for i in range(1, 6)),
  'male': tuple(f'en-us+m{i}' for i in range(1, 8)),
}
YOURTTS = 'tts_models/multilingual/multi-dataset/your_tts'
LANGUAGE = 'en'  # language id of YourTTS
_NAMES = {'female': r'\b(wom[ae]n|female|girl|lady)\b', 'male': r'\b(m[ae]n|male|boy|gentleman)\b'}


def speak_text(text: str, gender: str = '', seed: int = 0, engine: str = 'espeak') -> np.ndarray:
  """Speaks English text.

  Args:
    text: with at least one word, of at most MAX_LETTERS characters in Latin script.
    gender: of the voice, one of GENDERS; '' for either. That of a caption is `gender_of`.
    seed: which voice of the gender speaks, and the noise of YourTTS: the same seed gives the same speech.
    engine: one of ENGINES.

  Returns:
    float32 [s] in [-1, 1], 16 kHz.

  Raises:
    UsageError: an unknown engine or gender.
    UserError: the text cannot be spoken, or YourTTS or its model is not installed.
  """
  if engine not in ENGINES:
    raise UsageError(f'engine={engine!r} of speech: expected one of {", ".join(ENGINES)}')
  if gender not in ('', *GENDERS):
    raise UsageError(f'gender={gender!r} of a voice: expected one of {", ".join(GENDERS)}, or none')
  text = check_text(text)
  if engine == 'yourtts':
    return _yourtts(text, gender, seed)
  return speech.speak(text, _draw(VOICES[gender] if gender else sum(VOICES.values(), ()), seed)).audio


def gender_of(caption: str) -> str:
  """'female' or 'male', as the words of a caption ("A woman is talking") say; '' where they say neither or both."""
  found = [gender for gender, names in _NAMES.items() if re.search(names, caption.lower())]
  return found[0] if len(found) == 1 else ''


def check_text(text: str) -> str:
  """The text with compatible characters in their plain form and single spaces.

  Raises:
    UserError: it has no word, is too long, or has letters or digits that an English voice cannot speak.
  """
  text = ' '.join(unicodedata.normalize('NFKC', text).split())
  if not any(c.isalnum() for c in text):
    raise UserError(f'the text {text[:40]!r} has no words: give a text with at least one word')
  if len(text) > MAX_LETTERS:
    raise UserError(f'the text has {len(text)} characters, and at most {MAX_LETTERS} are spoken at once: shorten it')
  if '\0' in text or any('\ud800' <= c <= '\udfff' for c in text):
    raise UserError('the text has a zero byte, or bytes that are not UTF-8: give plain text')
  foreign = sorted({c for c in text if c.isalnum() and not _is_latin(c)})
  if foreign:
    shown = ', '.join(foreign[:5])
    raise UserError(
      f'the text has characters that an English voice cannot speak ({shown}): write it in Latin letters and digits'
    )
  return text


def _is_latin(character: str) -> bool:
  return character in '0123456789' or unicodedata.name(character, '').startswith('LATIN')


def _draw(values: tuple[str, ...], seed: int) -> str:
  return values[int(np.random.default_rng(seed).integers(len(values)))]


def _yourtts(text: str, gender: str, seed: int) -> np.ndarray:
  model = _load_yourtts()
  import torch

  speakers = tuple(sorted(name for name in model.speakers if name.startswith(f'{gender}-{LANGUAGE}' if gender else '')))
  english = tuple(name for name in speakers if f'-{LANGUAGE}-' in name)
  if not english:
    found = ', '.join(name.strip() for name in model.speakers)
    raise UserError(
      f'the installed YourTTS has no {gender or "English"} speaker, only {found}: install its model again'
    )
  with torch.random.fork_rng():
    torch.manual_seed(seed)
    samples = model.tts(text, speaker=_draw(english, seed), language=LANGUAGE)
  rate = model.synthesizer.output_sample_rate
  sound = soxr.resample(np.asarray(samples, np.float32), rate, AUDIO_RATE, quality='HQ')
  return np.clip(sound, -1, 1).astype(np.float32)


@functools.cache
def _load_yourtts():
  """The model of YourTTS, which coqui-tts keeps in a folder of the user. Raises UserError where one is missing."""
  if importlib.util.find_spec('TTS') is None:
    raise UserError(
      'YourTTS needs the package coqui-tts: run `launch/setup.sh tts`, or leave the engine at espeak'
    )  # fmt: skip
  try:
    from trainer.io import get_user_data_dir
    from TTS.api import TTS
  except ImportError as error:
    raise UserError(f'coqui-tts cannot be loaded ({error}): run `launch/setup.sh tts`') from error
  folder = get_user_data_dir('tts') / YOURTTS.replace('/', '--')
  if not folder.is_dir():
    raise UserError(
      f'the model of YourTTS is not in {folder}: fetch it with `tts --model_name {YOURTTS} --text a --out_path a.wav` '
      'on a machine with network, or leave the engine at espeak'
    )
  return TTS(YOURTTS, progress_bar=False)

"""Offline text-to-speech with espeak-ng: deterministic audio, with the times of words and phonemes.

It is the bundled default, with clearly synthetic voices; it does not match the quality of neural text-to-speech.
"""

import atexit
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Sequence

import espeakng_loader
import numpy as np
import soxr

from talkjax.errors import UserError
from talkjax.media.segments import AUDIO_RATE, Segment


@dataclasses.dataclass(frozen=True)
class Request:
  """A text and how to speak it. A voice is an espeak-ng language with an optional variant ('en-us', 'en-us+f2')."""

  text: str
  voice: str = 'en-us'
  rate_wpm: int = 175  # words per minute, 80 to 450
  pitch: int = 50  # 0 to 99
  pitch_range: int = 50  # 0 (monotone) to 99


@dataclasses.dataclass(frozen=True)
class Speech:
  """Synthesised speech. Segment times are in seconds from the first sample; phonemes are IPA with stress marks."""

  audio: np.ndarray  # [s] float32, 16 kHz mono, in [-1, 1]
  words: tuple[Segment, ...]
  phonemes: tuple[Segment, ...]  # pauses have no segment


def speak(text: str, voice: str = 'en-us', rate_wpm: int = 175, pitch: int = 50, pitch_range: int = 50) -> Speech:
  """Synthesises `text`. The output depends only on the arguments, not on earlier requests.

  Raises:
    UserError: the voice is unknown, the text has no words, a number is out of range, or the synthesiser fails.
  """
  return _synthesise(Request(text, voice, rate_wpm, pitch, pitch_range))


def speak_all(requests: Sequence[Request], workers: int | None = None) -> list[Speech]:
  """Synthesises requests in parallel in `workers` threads (default: one per core); the output does not depend on it."""
  with concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count()) as pool:
    return list(pool.map(_synthesise, requests))


def voices() -> tuple[list[str], list[str]]:
  """The languages and the variants that a voice name can be composed of."""
  data = pathlib.Path(espeakng_loader.get_data_path())
  languages = sorted(p.name.lower() for p in (data / 'lang').rglob('*') if p.is_file())
  return languages, sorted(p.name for p in (data / 'voices' / '!v').iterdir())


class _Server:
  """One synthesiser process (see espeak.py) and the pipe to it."""

  def __init__(self):
    script = pathlib.Path(__file__).with_name('espeak.py')
    self.owner = os.getpid()
    self.process = subprocess.Popen(
      [
        sys.executable,
        *('-I', '-S', str(script)),  # standard library only: starts in 30 ms
        *(espeakng_loader.get_library_path(), espeakng_loader.get_data_path()),
      ],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
    )

  def ask(self, request: dict) -> tuple[dict, bytes]:
    pipe = self.process.stdout
    try:
      self.process.stdin.write(json.dumps(request).encode() + b'\n')
      self.process.stdin.flush()
      line = pipe.readline()
      header = json.loads(line) if line.strip() else None
      sound = pipe.read(header['bytes']) if header else b''
      terminator = pipe.readline() if header else line
    except BrokenPipeError:
      header, terminator = None, b''
    if header is None or not terminator:
      raise UserError(f'the speech synthesiser stopped while speaking {request["text"]!r}: use shorter sentences')
    return header, sound

  def close(self):
    self.process.stdin.close()
    self.process.stdout.close()
    self.process.wait()


_idle: list[_Server] = []  # servers of this process that have no request
_lock = threading.Lock()


def _synthesise(request: Request) -> Speech:
  _check(request)
  with _lock:
    server = _idle.pop() if _idle else None
  if server is None or server.owner != os.getpid():  # a forked child must not share its parent's pipes
    server = _Server()
  try:
    header, sound = server.ask(
      {
        'text': request.text,
        'voice': request.voice,
        'rate': request.rate_wpm,
        'pitch': request.pitch,
        'range': request.pitch_range,
      }
    )
  except BaseException:
    server.process.kill()
    server.close()
    raise
  with _lock:
    _idle.append(server)
  if header['status'] == 'voice':
    raise _no_voice(request.voice)
  if header['status'] != 'ok':
    raise UserError(f'the speech synthesiser could not speak {request.text!r}: {header["status"]}')
  return _speech(request.text, np.frombuffer(sound, np.int16), header['rate'], header['events'])


@atexit.register
def _close():
  while _idle:
    server = _idle.pop()
    if server.owner == os.getpid():
      server.close()


def _check(request: Request):
  if not any(c.isalnum() for c in request.text) or '\0' in request.text:
    raise UserError(f'the text {request.text!r} has no words: give a text with at least one word')
  for name, low, high in (('rate_wpm', 80, 450), ('pitch', 0, 99), ('pitch_range', 0, 99)):
    if not low <= getattr(request, name) <= high:
      raise UserError(f'{name} of speech is {getattr(request, name)}: expected {low} to {high}')
  # espeak-ng silently ignores unknown variants, so they are checked here.
  _, plus, variant = request.voice.partition('+')
  if plus and variant not in voices()[1]:
    raise _no_voice(request.voice)


def _no_voice(voice: str) -> UserError:
  languages, variants = voices()
  plain = [v for v in variants if v[0] in 'fm' and v[1:].isdigit()]
  english = ', '.join(v for v in languages if v.startswith('en'))
  return UserError(
    f'no voice {voice!r}: expected LANGUAGE or LANGUAGE+VARIANT with a language of {english} '
    f'(or one of {len(languages)} others, such as de, fr, es) and a variant of {", ".join(plain)} '
    f'(or one of {len(variants) - len(plain)} others, such as klatt, whisper)'
  )


def _speech(text: str, pcm: np.ndarray, rate: int, events: list) -> Speech:
  audio = soxr.resample(pcm.astype(np.float32) / 32768, rate, AUDIO_RATE, quality='HQ')
  total = len(pcm) / rate
  words, phonemes = [], []  # [text, start, end]; a segment ends where the next event starts
  word_start = None

  def close(segments, time):
    if segments and segments[-1][2] is None:
      segments[-1][2] = max(time, segments[-1][1])

  for kind, sample, position, length, symbol in events:
    time = min(sample / rate, total)
    if kind == 'word':
      close(words, time)
      close(phonemes, time)
      words.append([text[position - 1 : position - 1 + length], time, None])
      word_start = time
    elif kind == 'end' or not symbol.strip():  # the end of a clause, or a pause
      close(words, time)
      close(phonemes, time)
    else:
      close(phonemes, time)
      # The event of a stop is at its burst: the closure before the first phoneme of a word belongs to that phoneme.
      phonemes.append([symbol, time if word_start is None else word_start, None])
      word_start = None
  close(words, total)
  close(phonemes, total)
  make = lambda segments: tuple(Segment(*s) for s in segments if s[2] > s[1])  # noqa: E731
  return Speech(np.clip(audio, -1, 1).astype(np.float32), make(words), make(phonemes))

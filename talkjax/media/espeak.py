"""Speech synthesis process: reads requests from stdin, synthesises each in a new fork and writes it to stdout.

`talkjax.media.speech` runs this file as a script. It imports only the standard library and so starts in about 30 ms.
espeak-ng keeps state between utterances (the same text sounds slightly different the second time). Therefore the
library is loaded once, and every utterance is synthesised in a fork that starts from the same state. A fork takes 1 ms.
The noise of breathy voices is seeded in the fork too.

A request is one JSON line {text, voice, rate, pitch, range}. A response is a JSON line {status, bytes, rate, events:
[[kind, sample, text_position, length, symbol], ...]}, then `bytes` bytes of int16 PCM, then an empty line. The status
'voice' means that espeak-ng has no such voice.
"""

import ctypes
import json
import os
import sys

_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: samples are passed to the callback
_PHONEME_EVENTS, _PHONEMES_IPA, _DONT_EXIT = 1, 2, 0x8000
_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER
_KINDS = {1: 'word', 5: 'end', 7: 'phoneme'}  # espeak_EVENT_TYPE


class _Id(ctypes.Union):
  _fields_ = [('number', ctypes.c_int), ('name', ctypes.c_char_p), ('string', ctypes.c_char * 8)]


class _Event(ctypes.Structure):
  _fields_ = [
    ('type', ctypes.c_int),
    ('unique_identifier', ctypes.c_uint),
    ('text_position', ctypes.c_int),
    ('length', ctypes.c_int),
    ('audio_position', ctypes.c_int),
    ('sample', ctypes.c_int),
    ('user_data', ctypes.c_void_p),
    ('id', _Id),
  ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def _speak(library, rate: int, request: dict) -> tuple[dict, bytes]:
  library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # otherwise the noise of breathy voices is seeded by the time of day
  if library.espeak_SetVoiceByName(request['voice'].encode()) != 0:
    return {'status': 'voice', 'bytes': 0}, b''
  for parameter, name in ((_RATE, 'rate'), (_PITCH, 'pitch'), (_RANGE, 'range')):
    library.espeak_SetParameter(parameter, int(request[name]), 0)

  sound, events = bytearray(), []

  def receive(samples, count, event):
    if count > 0 and samples:
      sound.extend(ctypes.string_at(samples, 2 * count))
    i = 0
    while event[i].type:
      e = event[i]
      if e.type in _KINDS:
        symbol = e.id.string.decode('utf-8', 'ignore') if e.type == 7 else ''
        events.append([_KINDS[e.type], e.sample, e.text_position, e.length, symbol])
      i += 1
    return 0

  callback = _CALLBACK(receive)
  library.espeak_SetSynthCallback(callback)
  text = request['text'].encode() + b'\0'
  failed = library.espeak_Synth(text, len(text), 0, 1, 0, _UTF8, None, None) or library.espeak_Synchronize()
  status = f'espeak-ng error {failed}' if failed else 'ok'
  return {'status': status, 'bytes': len(sound), 'rate': rate, 'events': events}, bytes(sound)


def main(library_path: str, data_path: str):
  library = ctypes.CDLL(library_path)
  rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data_path.encode(), _PHONEME_EVENTS | _PHONEMES_IPA | _DONT_EXIT)
  if rate <= 0:
    sys.exit(f'espeak-ng did not start with data at {data_path}')
  for line in sys.stdin.buffer:
    child = os.fork()
    if child == 0:
      try:
        header, sound = _speak(library, rate, json.loads(line))
        sys.stdout.buffer.write(json.dumps(header).encode() + b'\n' + sound)
        sys.stdout.buffer.flush()
      finally:
        os._exit(0)
    os.waitpid(child, 0)
    sys.stdout.buffer.write(b'\n')  # ends each response; an empty line alone means that the fork died
    sys.stdout.buffer.flush()


if __name__ == '__main__':
  main(*sys.argv[1:3])

import time

import numpy as np
import pytest

from talkjax.errors import UserError
from talkjax.media import speech
from talkjax.media.segments import AUDIO_RATE

TEXT = 'Bin blue at F two, now. The moon is up!'


def test_words_and_phonemes_cover_the_speech():
  said = speech.speak(TEXT, 'en-us+f2')
  duration = len(said.audio) / AUDIO_RATE
  assert said.audio.dtype == np.float32
  assert 1.5 < duration < 5
  assert 0.05 < np.abs(said.audio).max() <= 1
  assert [w.text for w in said.words] == ['Bin', 'blue', 'at', 'F', 'two', 'now', 'The', 'moon', 'is', 'up']
  for segments in (said.words, said.phonemes):
    starts, ends = np.array([(s.start, s.end) for s in segments]).T
    assert (ends > starts).all()
    assert (starts[1:] >= ends[:-1] - 1e-9).all()
    assert starts[0] >= 0 and ends[-1] <= duration + 1e-9
  assert said.phonemes[0].text == 'b'
  assert 'uː' in said.phonemes[5].text or 'uː' in ''.join(p.text for p in said.phonemes)
  assert all(p.text.strip() for p in said.phonemes)


def test_pauses_are_gaps_and_sound_is_quiet_there():
  said = speech.speak('Stop. Go.', 'en-us')
  stop, go = said.words
  assert go.start - stop.end > 0.1
  a, b = int((stop.end + 0.05) * AUDIO_RATE), int(go.start * AUDIO_RATE)
  assert np.abs(said.audio[a:b]).max() < 0.02


def test_same_bytes_whatever_was_said_before_and_by_whichever_worker():
  first = speech.speak(TEXT, 'en-us+m3', rate_wpm=160, pitch=40)
  speech.speak('Something else, in between.', 'en-us+f5')
  requests = [speech.Request(TEXT, 'en-us+m3', 160, 40), speech.Request('Another one.')] * 2
  many = speech.speak_all(requests, workers=2)
  for said in (speech.speak(TEXT, 'en-us+m3', rate_wpm=160, pitch=40), many[0], many[2]):
    assert said.audio.tobytes() == first.audio.tobytes()
    assert said.phonemes == first.phonemes
  assert many[1].audio.tobytes() == many[3].audio.tobytes()


def test_same_bytes_from_another_synthesiser_at_another_time():
  breathy = [speech.speak(TEXT, 'en-us+f5')]
  speech._close()
  time.sleep(1.1)  # left alone, espeak-ng seeds a breathy voice's noise with the second it starts in
  breathy.append(speech.speak(TEXT, 'en-us+f5'))
  assert breathy[0].audio.tobytes() == breathy[1].audio.tobytes()


def test_voice_rate_and_pitch_matter():
  base = speech.speak(TEXT)
  assert len(speech.speak(TEXT, rate_wpm=120).audio) > 1.2 * len(base.audio)
  for other in (speech.speak(TEXT, pitch=80), speech.speak(TEXT, 'en-us+f3')):
    assert other.audio.tobytes() != base.audio.tobytes()


@pytest.mark.parametrize('voice', ['en-gb', 'zz', 'en-us+nobody'])
def test_unknown_voice_names_what_exists(voice):
  with pytest.raises(UserError, match=r'en-us.*f2.*m3') as error:
    speech.speak(TEXT, voice)
  assert repr(voice) in str(error.value)
  assert speech.speak(TEXT).words  # and the synthesiser goes on


@pytest.mark.parametrize('bad', [{'text': ' ... '}, {'text': TEXT, 'rate_wpm': 10}, {'text': TEXT, 'pitch': 100}])
def test_bad_requests_say_so(bad):
  with pytest.raises(UserError):
    speech.speak(**bad)

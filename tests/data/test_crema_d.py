import pathlib
import sys

import av
import numpy as np
import pytest
import soundfile

from talkjax import build
from talkjax.corpora import footage
from talkjax.errors import UserError
from talkjax.media import audio as sound
from talkjax.media import video

Builder = build.load(pathlib.Path(__file__).parents[2] / 'data/crema_d')
crema_d = sys.modules[Builder.__module__]

PEOPLE = """ActorID,Age,Sex,Race,Ethnicity
1001,51,Male,Caucasian,Not Hispanic
1015,32,Female,African American,Not Hispanic
"""


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'VideoFlash').mkdir()
  (tmp_path / 'AudioWAV').mkdir()
  (tmp_path / 'VideoDemographics.csv').write_text(PEOPLE)
  return tmp_path


def add(folder, *names):
  for name in names:
    (folder / name).touch()


def test_the_file_name_says_actor_sentence_emotion_and_level(folder):
  add(folder, 'VideoFlash/1001_DFA_ANG_XX.flv', 'VideoFlash/1015_IEO_HAP_HI.flv', 'AudioWAV/1001_DFA_ANG_XX.wav')
  first, second = crema_d.find_clips(folder)
  assert (first.id, first.speaker, first.gender) == ('1001_DFA_ANG_XX', '1001', 'male')
  assert first.transcript == "Don't forget a jacket" and first.audio.endswith('AudioWAV/1001_DFA_ANG_XX.wav')
  assert dict(first.attributes) == {
    'sentence': 'DFA', 'emotion': 'anger', 'level': 'unspecified', 'age': '51', 'race': 'Caucasian',
    'ethnicity': 'Not Hispanic',
  }  # fmt: skip
  assert second.gender == 'female' and second.transcript == "It's eleven o'clock" and second.audio == ''
  assert dict(second.attributes)['emotion'] == 'happiness' and dict(second.attributes)['level'] == 'high'


def test_names_that_say_nothing_are_skipped_with_the_reason(folder):
  add(folder, *(f'VideoFlash/{n}.flv' for n in ('holiday', '1001_XYZ_ANG_XX', '1001_DFA_JOY_XX', '1099_DFA_ANG_XX')))
  problems = {clip.id: clip.problem for clip in crema_d.find_clips(folder)}
  assert 'ACTOR_SENTENCE' in problems['holiday']
  assert problems['1001_XYZ_ANG_XX'].endswith('sentence: XYZ') and problems['1001_DFA_JOY_XX'].endswith('emotion: JOY')
  assert '1099' in problems['1099_DFA_ANG_XX']


def test_a_converted_video_is_preferred_to_the_shipped_one(folder):
  add(folder, 'VideoFlash/1001_DFA_ANG_XX.flv', 'VideoFlash/1001_DFA_ANG_XX.mp4')
  (clip,) = crema_d.find_clips(folder)
  assert clip.video.endswith('.mp4')


def test_what_is_missing_from_the_folder_is_named(folder):
  with pytest.raises(UserError, match='VideoFlash'):
    crema_d.find_clips(folder)
  add(folder, 'VideoFlash/1001_DFA_ANG_XX.flv')
  (folder / 'VideoDemographics.csv').write_text('name,age\n')
  with pytest.raises(UserError, match='ActorID'):
    crema_d.find_clips(folder)
  (folder / 'VideoDemographics.csv').unlink()
  with pytest.raises(UserError, match='VideoDemographics.csv'):
    crema_d.find_clips(folder)


def test_ten_actors_are_held_out_and_there_are_twelve_sentences():
  assert crema_d.HELD_OUT == ('1015', '1020', '1021', '1030', '1033', '1052', '1062', '1081', '1082', '1089')
  assert len(crema_d.SENTENCES) == 12 and len(crema_d.EMOTIONS) == 6


def test_a_flash_video_at_another_rate_becomes_a_record(samples, folder):
  source = sorted((samples / 'grid/s1').glob('*.mpg'))[0]
  path = folder / 'VideoFlash/1015_TSI_NEU_XX.flv'
  frames = list(video.read_frames(source, fps=30))[:60]
  waveform = sound.read_audio(source)[:32000]
  write_flv(path, frames, 30)
  soundfile.write(folder / 'AudioWAV/1015_TSI_NEU_XX.wav', waveform, 16000)
  (clip,) = crema_d.find_clips(folder)
  record = footage.talking_record(clip)
  assert len(record.frames) == 50 and record.transcript == 'The surface is slick' and record.attributes['age'] == '32'
  # The video has no sound: the file of its own is taken, to the sample.
  np.testing.assert_allclose(record.audio / 32767, waveform, atol=1e-4)


def write_flv(path, frames, fps):
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('flv1', rate=fps)
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt, stream.bit_rate = 'yuv420p', 2_000_000
    for rgb in frames:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format='rgb24')))
    container.mux(stream.encode())

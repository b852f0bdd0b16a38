import dataclasses
import pathlib
import re
import shutil
import sys

import cv2
import numpy as np
import pytest

from talkjax import build
from talkjax.corpora import building, footage, records
from talkjax.errors import UserError
from talkjax.media import audio as sound
from talkjax.media import video

Builder = build.load(pathlib.Path(__file__).parents[2] / 'data/hdtf')
hdtf = sys.modules[Builder.__module__]


def write_lists(folder, subset='WDA', times=(), crops=(), heights=()):
  (folder / 'HDTF_dataset').mkdir(exist_ok=True)
  for what, lines in (('annotion_time', times), ('crop_wh', crops), ('resolution', heights)):
    # The published lists begin now with a byte order mark, now without, and some lines end in a space.
    (folder / f'HDTF_dataset/{subset}_{what}.txt').write_text('\ufeff' + ' \n'.join([*lines, '']))


@pytest.fixture
def folder(tmp_path):
  write_lists(
    tmp_path,
    times=[
      'AdamSchiff.mp4 00:05-04:40',
      'AmyKlobuchar1.mp4 00:35-02:45 03:25-04:00',
      'AmyKlobuchar2.mp4 1:00:01-1:00:03',
    ],
    crops=['AdamSchiff_0.mp4 608 726 0 726', 'AmyKlobuchar1_1.mp4 521 1046 7 1046', 'AmyKlobuchar2_0.mp4 0 9 0 9'],
    heights=['AdamSchiff.mp4 1080', 'AmyKlobuchar1.mp4 720', 'AmyKlobuchar2.mp4 0'],
  )
  (tmp_path / 'videos').mkdir()
  for name in ('AmyKlobuchar1.mp4', 'WDA_AmyKlobuchar2.webm', 'AmyKlobuchar1_1.mp4'):
    (tmp_path / 'videos' / name).touch()
  return tmp_path


def test_lists_say_what_is_cut_from_where(folder):
  first, second, third, fourth = hdtf.find_clips(folder, size=64)
  assert [c.id for c in (first, second, third, fourth)] == [
    'WDA_AdamSchiff_0', 'WDA_AmyKlobuchar1_0', 'WDA_AmyKlobuchar1_1', 'WDA_AmyKlobuchar2_0',
  ]  # fmt: skip
  assert first.problem == 'its video is not in the folder' and first.speaker == 'AdamSchiff'
  assert second.problem == 'no crop is published for it'
  assert third.problem == fourth.problem == ''
  assert third.video == str(folder / 'videos/AmyKlobuchar1.mp4') and third.size == 64 and not third.silent_ok
  assert (third.start, third.end) == (205, 240)
  assert third.window == footage.Window(x=521, y=7, side=1046, height=720)
  assert third.speaker == 'AmyKlobuchar' and dict(third.attributes) == {'list': 'WDA', 'video': 'AmyKlobuchar1'}
  assert fourth.video.endswith('WDA_AmyKlobuchar2.webm') and (fourth.start, fourth.end) == (3601, 3603)
  assert fourth.window.height == 0 and fourth.speaker == 'AmyKlobuchar'


def test_a_tenth_of_the_people_is_held_out_whoever_is_there(tmp_path):
  people = [f'Person{chr(65 + i)}{chr(65 + k)}' for i in range(5) for k in range(10)]
  names = [f'{name}{i}' for name in people for i in (0, 1)]
  write_lists(tmp_path, times=[f'{name}.mp4 00:00-00:02 00:03-00:04' for name in names])
  write_lists(tmp_path, 'RD', times=[f'Radio{i}.mp4 00:00-00:02' for i in range(50)])
  clips = hdtf.find_clips(tmp_path)
  splits = hdtf.split_clips(clips)
  speakers = {split: {clip.speaker for clip in part.values()} for split, part in splits.items()}
  assert len(speakers['test']) == 10 and len(speakers['train']) == 90 and not speakers['test'] & speakers['train']
  assert {s[:5] for s in speakers['test']} == {'Perso', 'Radio'}
  assert sum(map(len, splits.values())) == 250
  assert hdtf.split_clips(clips[::-1])['test'] == splits['test']
  # As FD2Talk splits it: those who were held out still are.
  parts = hdtf.split_clips(clips, test=0.2, validation=0.1)
  by_split = {split: {clip.speaker for clip in part.values()} for split, part in parts.items()}
  assert {split: len(people) for split, people in by_split.items()} == {'train': 70, 'validation': 10, 'test': 20}
  assert len(set.union(*by_split.values())) == 100 and speakers['test'] < by_split['test']
  (tmp_path / f'{names[0]}.mp4').touch()
  assert set(hdtf.split_clips(hdtf.find_clips(tmp_path))['test']) == set(splits['test'])
  assert hdtf.identity_of('RD', 'Radio12') == 'Radio12' and hdtf.identity_of('WRA', 'TimScott') == 'TimScott'


@pytest.mark.parametrize(
  ('what', 'line', 'match'),
  [
    ('annotion_time', 'AmyKlobuchar1.mp4 00:35-2', "line 2: found '00:35-2', expected MM:SS-MM:SS"),
    ('annotion_time', 'AmyKlobuchar1.mp4', "line 2: found 'AmyKlobuchar1', expected NAME.mp4 MM:SS-MM:SS"),
    ('annotion_time', 'AmyKlobuchar1.mp4 00:35-00:35', 'line 2: .* expected an end after the start'),
    ('annotion_time', 'AdamSchiff.mp4 00:35-00:45', 'line 2: AdamSchiff is already in the list'),
    ('crop_wh', 'AmyKlobuchar1_1.mp4 521 1046 7', "line 2: found '521 1046 7', expected NAME_INDEX.mp4 LEFT"),
    ('crop_wh', 'AmyKlobuchar1_1.mp4 521 1046 7 100', 'line 2: .* expected a square'),
    ('crop_wh', 'AmyKlobuchar1_1.mp4 521 x 7 x', 'line 2: '),
    ('resolution', 'AmyKlobuchar1.mp4 720p', "line 2: found '720p', expected NAME.mp4 HEIGHT"),
  ],
)
def test_a_line_that_makes_no_sense_is_an_error_with_its_number(folder, what, line, match):
  path = folder / f'HDTF_dataset/WDA_{what}.txt'
  lines = path.read_text().splitlines()
  path.write_text('\n'.join([lines[0], line, *lines[2:]]))
  with pytest.raises(UserError, match=f'{re.escape(str(path))}, {match}'):
    hdtf.find_clips(folder)


def test_a_list_that_is_missing_or_there_twice_is_named(folder, tmp_path):
  shutil.copytree(folder / 'HDTF_dataset', folder / 'copy')
  with pytest.raises(UserError, match='WDA_AdamSchiff_0 a second time'):
    hdtf.find_clips(folder)
  shutil.rmtree(folder / 'copy')
  (folder / 'HDTF_dataset/WDA_crop_wh.txt').unlink()
  with pytest.raises(UserError, match='WDA_crop_wh.txt is missing'):
    hdtf.find_clips(folder)
  (folder / 'HDTF_dataset/WDA_annotion_time.txt').unlink()
  with pytest.raises(UserError, match='no list of HDTF: expected RD_annotion_time.txt'):
    hdtf.find_clips(folder)


def test_the_published_crop_to_scale_becomes_the_record(samples):
  source = samples / 'clips/talk_524_25fps.mp4'
  window = footage.Window(x=30, y=10, side=220, height=262)  # chosen in a picture half as high
  clip = footage.Clip('x', str(source), size=128, window=window, start=1.0, end=2.0)
  record = footage.talking_record(clip)
  assert len(record.frames) == 25 and record.size == (128, 128) and len(record.audio) == 25 * 640
  whole = sound.read_audio(source)
  np.testing.assert_allclose(record.audio / 32767, whole[16000:32000], atol=1e-4)
  frame = list(video.read_frames(source, fps=25))[25]
  theirs = cv2.resize(frame[20:460, 60:500], (128, 128), interpolation=cv2.INTER_AREA)
  assert np.abs(record.frame(0).astype(float) - theirs).mean() < 3  # JPEG's share
  # One scale and shift takes the landmarks of the whole picture to those of the record.
  full = footage.talking_record(footage.Clip('y', str(source), size=524, window=footage.Window(), start=1.0, end=2.0))
  np.testing.assert_allclose(record.landmarks, (full.landmarks - [60, 20]) * 128 / 440, atol=3.0)
  np.testing.assert_allclose(record.pose, full.pose, atol=6.0)
  # The head moves in the square; the square does not follow.
  assert record.landmarks[:, 30].std(0).max() > 0.2


@pytest.mark.parametrize(
  ('window', 'start', 'why'),
  [
    (footage.Window(x=300, side=240), 0.0, 'its crop reaches beyond the picture'),
    (footage.Window(y=100, side=240, height=262), 0.0, 'its crop reaches beyond the picture'),
    (footage.Window(side=240), 60.0, 'the video ends before the clip begins'),
  ],
)
def test_a_crop_or_a_time_outside_the_video_skips_the_clip(samples, window, start, why):
  source = str(samples / 'clips/talk_524_25fps.mp4')
  with pytest.raises(building.Skip, match=why):
    footage.talking_record(footage.Clip('x', source, size=64, window=window, start=start, end=start + 1))


def test_a_pixel_of_rounding_is_forgiven(samples):
  clip = footage.Clip('x', str(samples / 'clips/talk_524_25fps.mp4'), size=64, end=0.1)
  for window in (footage.Window(x=2, y=1, side=523, height=523), footage.Window(x=1, side=524)):
    frame = next(footage.read_frames(dataclasses.replace(clip, window=window)))
    assert frame.shape == (64, 64, 3)


def test_the_command_builds_what_is_there_and_reports_what_is_not(samples, tmp_path, capsys):
  folder = tmp_path / 'HDTF'
  folder.mkdir()
  write_lists(
    folder,
    'WRA',
    times=[
      'OnePerson0.mp4 00:01-00:03',
      'OnePerson1.mp4 00:00-00:04',
      'AnotherOne.mp4 00:00-00:02',
      'Gone.mp4 00:01-00:02',
    ],
    crops=['OnePerson0_0.mp4 10 500 5 500', 'OnePerson1_0.mp4 0 256 0 256', 'AnotherOne_0.mp4 9 900 0 900'],
    heights=['OnePerson0.mp4 524', 'OnePerson1.mp4 256', 'AnotherOne.mp4 844', 'Gone.mp4 720'],
  )
  shutil.copy(samples / 'clips/talk_524_25fps.mp4', folder / 'OnePerson0.mp4')
  shutil.copy(samples / 'clips/talk_844_25fps.mp4', folder / 'AnotherOne.mp4')
  faces = [footage.Clip('', str(samples / f'clips/{n}'), size=256, window=footage.Window(), end=1.2)
           for n in ('talk_524_25fps.mp4', 'talk_844_25fps.mp4')]  # fmt: skip
  waveform = sound.read_audio(samples / 'clips/talk_524_25fps.mp4')[: 16000 * 60 // 25]
  with video.VideoWriter(folder / 'OnePerson1.mp4', 25, (256, 256), waveform, 16000) as writer:
    for face in faces:
      for frame in footage.read_frames(face):
        writer.write(frame)
  source = pathlib.Path(__file__).parents[2] / 'data/hdtf'
  command = ['build', str(source), f'--manual_dir={folder}', f'--data_dir={tmp_path / "datasets"}', '--workers=0']
  build.build([*command, '--config={"name": "mini", "size": 64, "max_seconds": 1.5}'])
  out = capsys.readouterr().out
  assert '1 x its video is not in the folder' in out and '1 x its crop reaches beyond the picture' in out
  builder = Builder(data_dir=tmp_path / 'datasets', config=hdtf.HdtfConfig(name='mini', size=64, max_seconds=1.5))
  made = {
    record.id: record
    for split in builder.info.splits
    for record in map(records.from_example, builder.as_data_source(split))
  }
  assert {name: len(record.frames) for name, record in made.items()} == {
    'WRA_OnePerson0_0#1': 25, 'WRA_OnePerson0_0#2': 25,  # for length
    'WRA_OnePerson1_0#1': 30, 'WRA_OnePerson1_0#2': 30,  # at the cut
  }  # fmt: skip
  assert made['WRA_OnePerson1_0#2'].attributes['shot'] == '2' and 'shot' not in made['WRA_OnePerson0_0#2'].attributes
  for record in made.values():
    assert record.speaker == 'OnePerson' and record.fps == 25 and record.size == (64, 64)
    assert len(record.audio) == len(record.frames) * 640 and record.audio.any()
    assert np.isfinite(record.pose).all() and len(record.pose) == len(record.frames)
    assert ((record.landmarks > -16) & (record.landmarks < 80)).all()

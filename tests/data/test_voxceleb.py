import dataclasses
import pathlib
import re
import sys

import cv2
import numpy as np
import pytest
import soundfile

from talkjax import build
from talkjax.corpora import building, footage, records
from talkjax.errors import UserError
from talkjax.media import audio as sound
from talkjax.media import video

Builder = build.load(pathlib.Path(__file__).parents[2] / 'data/voxceleb')
voxceleb = sys.modules[Builder.__module__]

VIDEO = '5r0dWxy17C8'
HEADER = (
  'Identity  : \tid10270\nReference : \t5r0dWxy17C8\nOffset    : \t-1\nFV Conf   : \t20.4\t(1)\nASD Conf  : \t4.4\n\n'
)


def touch(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()


def write_list(path, *rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  lines = ['\t'.join(map(str, (f'{frame:06}', *box))) for frame, *box in rows]
  path.write_text(f'{HEADER}FRAME \tX \tY \tW \tH \n' + '\n'.join([*lines, '']))


def test_clips_have_their_sound_and_downloaded_videos_their_lists(tmp_path):
  touch(
    tmp_path,
    'vox2/dev/mp4/id00012/21Uxsk56VDQ/00001.mp4',
    'vox2/dev/aac/id00012/21Uxsk56VDQ/00001.m4a',
    f'{VIDEO}.webm',
    'other/holiday.mp4',
  )
  write_list(tmp_path / f'txt/id10270/{VIDEO}/00001.txt', (375, 100, 60, 90, 90), (376, 102, 58, 92, 94))
  write_list(tmp_path / f'txt/id10270/{VIDEO}/00002.txt', (50, 0.25, 0.2, 0.1, 0.2), (149, 0.3, 0.2, 0.1, 0.2))
  write_list(tmp_path / 'txt/id10001/7w0IBEWc9Qw/00001.txt', (0, 1, 1, 9, 9))
  (tmp_path / f'txt/id10270/{VIDEO}/00003.txt').write_text(HEADER)
  write_list(tmp_path / 'txt/id00012/21Uxsk56VDQ/00001.txt', (0, 1, 1, 9, 9))  # the clip itself is there
  splits = voxceleb.find_clips(tmp_path, size=64)
  assert {split: list(clips) for split, clips in splits.items()} == {
    'train': ['id00012+21Uxsk56VDQ+00001', 'id10001+7w0IBEWc9Qw+00001'],
    'test': [f'id10270+{VIDEO}+0000{i}' for i in (1, 2, 3)],
  }
  own, gone = splits['train'].values()
  assert own.video.endswith('mp4/id00012/21Uxsk56VDQ/00001.mp4') and own.audio.endswith('.m4a') and own.end is None
  assert own.speaker == 'id00012' and own.size == 64 and own.window == footage.FaceWindow() and own.region is None
  assert dict(own.attributes) == {'clip': '00001', 'video': '21Uxsk56VDQ'}
  assert gone.problem == 'its video is not in the folder'
  first, second, third = splits['test'].values()
  assert first.video == second.video == str(tmp_path / f'{VIDEO}.webm') and not first.problem + second.problem
  assert (first.start, first.end) == (15, 377 / 25) and (second.start, second.end) == (2, 6)
  # Half a side around all boxes: pixels of a picture 360 high, or fractions of it.
  assert first.region == footage.Region(54, 11, 240, 199, 360)
  assert second.region == footage.Region(*map(pytest.approx, (0.2, 0.1, 0.45, 0.5)), 0)
  assert third.problem == 'its list has no lines FRAME X Y W H'


def test_sets_are_those_of_the_lists_of_people_or_of_the_folders(tmp_path):
  names = ['test/mp4/id00017/a/00001.mp4', 'dev/mp4/id00012/a/00001.mp4', 'mp4/id10309/a/00001.mp4']
  touch(tmp_path, *names, 'mp4/id10310/a/00001.mp4', 'dev/mp4/id10271/a/00001.mp4')
  people = lambda: {
    split: [clip.speaker for clip in part.values()] for split, part in voxceleb.find_clips(tmp_path).items()
  }
  assert people() == {'train': ['id00012', 'id10271', 'id10310'], 'test': ['id00017', 'id10309']}
  (tmp_path / 'vox1_meta.csv').write_text(
    'VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\nid10310\tA_B\tf\tUK\ttest\nid10309\tC_D\tm\tUK\tdev\n\n'
  )
  (tmp_path / 'vox2_meta.csv').write_text('VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set\nid00012 ,n000012 ,m ,test \n')
  assert people() == {'train': ['id10271', 'id10309'], 'test': ['id00012', 'id00017', 'id10310']}
  splits = voxceleb.find_clips(tmp_path)
  assert [clip.gender for part in splits.values() for clip in part.values()] == ['', 'male', 'male', '', 'female']
  (tmp_path / 'vox2_meta.csv').write_text('id00012,m\n')
  with pytest.raises(UserError, match=r'vox2_meta.csv has the columns id00012, m: expected Gender and Set'):
    voxceleb.find_clips(tmp_path)


@pytest.mark.parametrize(
  'lines', ['', '000001 1 2 3', '000001 1 2 3 4 5', '000001 a b c d', '000001 1 2 3 4\n000002 1']
)
def test_a_list_without_boxes_is_no_list(tmp_path, lines):
  (tmp_path / 'a.txt').write_text(HEADER + lines)
  assert voxceleb.read_list(tmp_path / 'a.txt') is None


def test_a_folder_without_a_clip_is_an_error(tmp_path):
  touch(tmp_path, 'holiday.mp4', 'id10270/notes.txt', 'id1/a/00001.mp4')
  with pytest.raises(UserError, match=re.escape('no clip of VoxCeleb: expected PERSON/VIDEO/CLIP.mp4')):
    voxceleb.find_clips(tmp_path)


def write_film(path, frames, waveform=None):
  path.parent.mkdir(parents=True, exist_ok=True)
  with video.VideoWriter(path, 25, frames[0].shape[:2], waveform, 16000) as writer:
    for frame in frames:
      writer.write(frame)


def shown(samples, name, size, seconds):
  clip = footage.Clip('x', str(samples / 'clips' / name), size=size, window=footage.Window(), end=seconds)
  return list(footage.read_frames(clip))


def test_the_box_says_who_is_shown(samples, tmp_path):
  """Of two faces the smaller one, where the box is; the record is the crop around the face in that region."""
  large, small = (shown(samples, f'talk_{n}_25fps.mp4', s, 1.0) for n, s in ((844, 240), (524, 160)))
  frames = [np.concatenate([a, np.pad(b, ((0, 80), (0, 0), (0, 0)))], 1) for a, b in zip(large, small)]
  write_film(tmp_path / 'two.mp4', frames)
  clip = footage.Clip('x', str(tmp_path / 'two.mp4'), size=96, window=footage.FaceWindow(), silent_ok=True)
  region = footage.Region(0.6, 0, 1.2, 0.6667)
  record = footage.talking_record(dataclasses.replace(clip, region=region))
  write_film(tmp_path / 'one.mp4', small)
  alone = footage.talking_record(dataclasses.replace(clip, video=str(tmp_path / 'one.mp4')))
  gap = lambda a, b: np.abs(a.landmarks.mean((0, 1)) - b.landmarks.mean((0, 1))).max()
  assert gap(record, alone) < 2 and np.abs(record.frame(5).astype(float) - alone.frame(5)).mean() < 10
  everything = footage.talking_record(clip)
  assert np.abs(everything.frame(5).astype(float) - alone.frame(5)).mean() > 20
  pixels = footage.Region(0.6 * 400 / 2, 0, 1000, 80, height=120)  # of a picture half as high
  np.testing.assert_array_equal(pixels.cut(frames[0]), region.cut(frames[0]))
  with pytest.raises(building.Skip, match='outside of the picture'):
    footage.Region(1.1, 0, 1.2, 1).cut(frames[0])


def test_the_command_builds_clips_and_parts_of_videos(samples, tmp_path, capsys):
  folder = tmp_path / 'VoxCeleb'
  frames, waveform = (
    shown(samples, 'talk_524_25fps.mp4', 224, 2.4),
    sound.read_audio(samples / 'clips/talk_524_25fps.mp4'),
  )
  write_film(folder / 'mp4/id00012/21Uxsk56VDQ/00001.mp4', frames)  # as published, without sound
  audio = folder / 'aac/id00012/21Uxsk56VDQ/00001.wav'
  audio.parent.mkdir(parents=True)
  soundfile.write(audio, waveform[: 60 * 640], 16000)
  wide = [np.pad(cv2.resize(f, (180, 180)), ((0, 0), (140, 0), (0, 0))) for f in frames]
  write_film(folder / f'videos/{VIDEO}.mp4', wide, waveform[: 60 * 640])
  for number, first in ((1, 0), (2, 1000)):
    rows = [(first + i, 360, 80, 200, 200) for i in range(40)]
    write_list(folder / f'txt/id10270/{VIDEO}/0000{number}.txt', *rows)
  source = pathlib.Path(__file__).parents[2] / 'data/voxceleb'
  command = ['build', str(source), f'--manual_dir={folder}', f'--data_dir={tmp_path / "datasets"}', '--workers=0']
  build.build([*command, '--config={"name": "mini", "size": 64, "max_seconds": 1.5}'])
  assert '1 x the video ends before the clip begins' in capsys.readouterr().out
  builder = Builder(
    data_dir=tmp_path / 'datasets', config=voxceleb.VoxcelebConfig(name='mini', size=64, max_seconds=1.5)
  )
  made = {
    split: [records.from_example(example) for example in builder.as_data_source(split)] for split in builder.info.splits
  }
  lengths = {split: {record.id: len(record.frames) for record in part} for split, part in made.items()}
  assert lengths == {
    'train': {'id00012+21Uxsk56VDQ+00001#1': 30, 'id00012+21Uxsk56VDQ+00001#2': 30},
    'test': {f'id10270+{VIDEO}+00001#1': 20, f'id10270+{VIDEO}+00001#2': 20},
  }
  for record in (*made['train'], *made['test']):
    assert record.size == (64, 64) and len(record.audio) == len(record.frames) * 640
    assert ((record.landmarks > -8) & (record.landmarks < 72)).all()
  # The clip's separate sound file is cut where the clip is.
  parts = np.concatenate([record.audio for record in sorted(made['train'], key=lambda record: record.id)])
  np.testing.assert_allclose(parts / 32767, waveform[: 60 * 640], atol=1e-3)

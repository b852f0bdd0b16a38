import dataclasses
import pathlib
import sys

import numpy as np
import pytest

from talkjax import build
from talkjax.corpora import building, footage, records
from talkjax.errors import UserError
from talkjax.media import picture, video

Builder = build.load(pathlib.Path(__file__).parents[2] / 'data/vfhq')
vfhq = sys.modules[Builder.__module__]

NAME = 'Clip+G0DGRma_p48+P0+C0+F11208-11383'


def touch(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()


def write_pictures(folder, frames, ending='.png', first=1):
  for index, frame in enumerate(frames, first):
    picture.write(folder / f'{index:08}{ending}', frame)


def face_frames(samples, name='talk_524_25fps.mp4', size=256, seconds=1.0):
  clip = footage.Clip('x', str(samples / 'clips' / name), size=size, window=footage.Window(), end=seconds)
  return list(footage.read_frames(clip))


def test_folders_of_pictures_and_videos_are_clips_by_their_names(tmp_path):
  touch(
    tmp_path,
    f'a/{NAME}/00000001.png',
    f'a/{NAME}/00000002.png',
    'deep/er/Clip+-91nXXjrVo_+P2+C13+F1537-1825.mp4',
    'Clip+-91nXXjrVo_+P1+C0.mp4',
    'Clip+xyz+P0+C0+F1-9/0.JPG',
    'Clip+nothing+P0+C0+F1-9/readme.txt',
  )
  clips = {clip.id: clip for clip in vfhq.find_clips(tmp_path, size=64)}
  assert list(clips) == [
    'Clip+-91nXXjrVo_+P1+C0', 'Clip+-91nXXjrVo_+P2+C13+F1537-1825', NAME, 'Clip+xyz+P0+C0+F1-9',
  ]  # fmt: skip
  clip = clips[NAME]
  assert clip.video == str(tmp_path / 'a' / NAME) and clip.fps == 25 and clip.size == 64
  assert clip.speaker == 'G0DGRma_p48+P0' and dict(clip.attributes) == {'youtube': 'G0DGRma_p48', 'clip': '0'}
  assert all(c.silent_ok and c.window == footage.Window() and not c.problem for c in clips.values())


def test_other_names_and_second_copies_are_reported_not_built(tmp_path):
  touch(tmp_path, f'GT/{NAME}/1.png', f'LR/{NAME}/1.png', f'{NAME}.mp4', 'holiday.mp4', 'pictures/1.jpg')
  problems = {clip.id: clip.problem for clip in vfhq.find_clips(tmp_path)}
  assert problems.pop(NAME) == ''
  assert problems == {
    f'LR/{NAME}': 'another folder or file has the same clip',
    f'{NAME}.mp4': 'another folder or file has the same clip',
    'holiday.mp4': 'its name is not Clip+ID+Pn+Cn+Fa-b',
    'pictures': 'its name is not Clip+ID+Pn+Cn+Fa-b',
  }
  splits = vfhq.split_clips(vfhq.find_clips(tmp_path))
  assert len(splits['train']) == 5 and not splits['test']


def test_a_folder_without_a_clip_is_an_error(tmp_path):
  with pytest.raises(UserError, match=r'no clip of VFHQ: .*Clip\+ID'):
    vfhq.find_clips(tmp_path)
  touch(tmp_path, 'holiday.mp4')
  with pytest.raises(UserError, match='no clip of VFHQ'):
    vfhq.find_clips(tmp_path)


def test_the_meta_file_says_the_frame_rate(tmp_path):
  touch(tmp_path, f'{NAME}/1.png', 'Clip+xyz+P0+C0+F1-9/1.png', 'requirements.txt')
  meta = tmp_path / f'meta_info/{NAME}.txt'
  meta.parent.mkdir()
  meta.write_text('H: 1080\nW: 1920\nFPS: 29.97\nCROP: 1 2 3 4\n')
  rates = {clip.id: clip.fps for clip in vfhq.find_clips(tmp_path, fps=24.0)}
  assert rates == {NAME: 29.97, 'Clip+xyz+P0+C0+F1-9': 24.0}
  for text in ('', 'FPS: fast', 'FPS: 0', 'FPS'):
    meta.write_text(text)
    with pytest.raises(UserError, match='expected a line with FPS and a number'):
      vfhq.find_clips(tmp_path)


def test_all_people_of_a_video_are_on_one_side_and_a_tenth_of_the_videos_is_held_out(tmp_path):
  for i in range(40):
    touch(tmp_path, *(f'Clip+youtube{i:02}+P{k}+C0+F1-9.mp4' for k in (0, 1, 2)))
  clips = vfhq.find_clips(tmp_path)
  splits = vfhq.split_clips(clips)
  sides = {split: {dict(c.attributes)['youtube'] for c in part.values()} for split, part in splits.items()}
  assert len(sides['test']) == 4 and len(sides['train']) == 36 and not sides['test'] & sides['train']
  assert vfhq.split_clips(clips[::-1])['test'] == splits['test']
  parts = vfhq.split_clips(clips, test=0.2, validation=0.1)
  videos = {split: {dict(c.attributes)['youtube'] for c in part.values()} for split, part in parts.items()}
  assert {split: len(v) for split, v in videos.items()} == {'train': 28, 'validation': 4, 'test': 8}
  assert len(set.union(*videos.values())) == 40 and sides['test'] < videos['test']


@pytest.mark.parametrize('ending', ['.png', '.jpg'])
def test_pictures_become_a_record_without_sound(samples, tmp_path, ending):
  frames = face_frames(samples)
  write_pictures(tmp_path / NAME, [np.pad(f, ((0, 0), (8, 8), (0, 0)), 'edge') for f in frames], ending)
  (clip,) = vfhq.find_clips(tmp_path, size=128)
  record = footage.talking_record(clip)
  assert record.id == NAME and len(record.frames) == 25 and record.fps == 25 and record.size == (128, 128)
  assert record.audio.shape == (0,) and record.audio.dtype == np.int16
  for name, shape in (('box', (25, 4)), ('landmarks', (25, 68, 2)), ('pose', (25, 3))):
    array = getattr(record, name)
    assert array.shape == shape and array.dtype == np.float32 and np.isfinite(array).all()
  # The square in the middle, first to last.
  for index in (0, 24):
    half = frames[index].reshape(128, 2, 128, 2, 3).mean((1, 3))
    assert np.abs(record.frame(index) - half).mean() < 4
  whole = footage.talking_record(dataclasses.replace(clip, size=256))
  np.testing.assert_allclose(record.landmarks, whole.landmarks / 2, atol=2.5)


def test_pictures_of_another_rate_become_25_a_second(tmp_path):
  frames = [np.full((16, 16, 3), 4 * i, np.uint8) for i in range(60)]
  write_pictures(tmp_path / NAME, frames, first=0)
  (clip,) = vfhq.find_clips(tmp_path, size=8, fps=50.0)
  shown = [int(frame.mean()) // 4 for frame in footage.read_frames(clip)]
  assert shown == list(range(0, 60, 2))
  part = dataclasses.replace(clip, start=0.4, end=0.8)
  assert [int(frame.mean()) // 4 for frame in footage.read_frames(part)] == shown[10:20]
  slow = dataclasses.replace(clip, fps=12.5)
  assert len(list(footage.read_frames(slow))) == 120


@pytest.mark.parametrize(('bad', 'why'), [('size', 'pictures of several sizes'), ('broken', 'not readable')])
def test_a_bad_picture_skips_the_clip(samples, tmp_path, bad, why):
  write_pictures(tmp_path / NAME, face_frames(samples, seconds=0.4))
  spoiled = tmp_path / NAME / '00000005.png'
  if bad == 'size':
    picture.write(spoiled, np.zeros((64, 64, 3), np.uint8))
  else:
    spoiled.write_bytes(b'not a picture')
  (clip,) = vfhq.find_clips(tmp_path, size=64)
  with pytest.raises(building.Skip, match=why) as skip:
    footage.talking_record(clip)
  assert NAME not in str(skip.value) and '00000005' not in str(skip.value)


def test_the_command_builds_pictures_and_videos_and_divides_at_a_cut(samples, tmp_path, capsys):
  folder = tmp_path / 'VFHQ'
  first, second = face_frames(samples, 'talk_524_25fps.mp4'), face_frames(samples, 'talk_844_25fps.mp4')
  write_pictures(folder / NAME, first + second)
  with video.VideoWriter(folder / 'Clip+silent+P1+C2+F10-35.mp4', 25, (256, 256)) as writer:
    for frame in second:
      writer.write(frame)
  (folder / 'Clip+broken+P0+C0+F1-9.mp4').write_bytes(b'broken' * 1000)
  source = pathlib.Path(__file__).parents[2] / 'data/vfhq'
  command = ['build', str(source), f'--manual_dir={folder}', f'--data_dir={tmp_path / "datasets"}', '--workers=1']
  build.build([*command, '--config={"name": "mini", "size": 64}'])
  out = capsys.readouterr().out
  assert '3 clips in' in out and '1 x the file is not a readable video' in out
  builder = Builder(data_dir=tmp_path / 'datasets', config=vfhq.VfhqConfig(name='mini', size=64))
  made = {
    record.id: record
    for split in builder.info.splits
    for record in map(records.from_example, builder.as_data_source(split))
  }
  assert sorted(made) == [f'{NAME}#1', f'{NAME}#2', 'Clip+silent+P1+C2+F10-35']
  assert [len(record.frames) for record in made.values()] == [25] * 3
  assert all(len(record.audio) == 0 and record.size == (64, 64) for record in made.values())

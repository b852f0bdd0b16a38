import dataclasses
import itertools
import os
import pathlib
import shutil
import sys

import cv2
import numpy as np
import pytest

from talkjax import build
from talkjax.corpora import building, footage
from talkjax.errors import UserError
from talkjax.faces import landmarks
from talkjax.media import picture, video

Builder = build.load(pathlib.Path(__file__).parents[2] / 'data/clips')
clips = sys.modules[Builder.__module__]


def touch(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()


def test_a_folder_without_a_table(tmp_path):
  touch(tmp_path, 'b.mp4', 'deep/er/a.MOV', 'c.webm', 'notes.txt', '.hidden.mp4')
  splits = clips.find_clips(tmp_path)
  assert list(splits['train']) == ['b.mp4', 'c.webm'] and list(splits['test']) == ['deep/er/a.MOV']
  clip = splits['train']['b.mp4']
  assert (clip.speaker, clip.gender, clip.caption, clip.transcript) == ('', '', 'A person is talking', '')


def test_linked_folders_are_followed_and_links_in_a_circle_end(tmp_path):
  touch(tmp_path, 'far/a.mp4', 'here/b.mp4')
  (tmp_path / 'here/more').symlink_to(tmp_path / 'far')
  (tmp_path / 'here/round').symlink_to(tmp_path / 'here')
  splits = clips.find_clips(tmp_path / 'here')
  assert sorted(splits['train'] | splits['test']) == ['b.mp4', 'more/a.mp4']


def test_a_table_says_who_and_what_and_adds_attributes(tmp_path):
  touch(tmp_path, 'x/1.mp4', 'x/2.mp4', '3.mp4')
  (tmp_path / 'about.csv').write_text(
    'file,speaker,gender,caption,transcript,mood\n'
    'x/1.mp4,ann,F,,"hello, you",glad\n'
    'x/2.mp4,bob,male,A man sings,la,\n'
    'gone.mp4,ann,female,,,\n'
  )
  splits = clips.find_clips(tmp_path)
  both = splits['train'] | splits['test']
  assert sorted(both) == ['3.mp4', 'gone.mp4', 'x/1.mp4', 'x/2.mp4']
  first = both['x/1.mp4']
  assert (first.speaker, first.gender, first.caption) == ('ann', 'female', 'A woman is talking')
  assert first.transcript == 'hello, you' and first.attributes == (('mood', 'glad'),)
  assert both['x/2.mp4'].caption == 'A man sings' and both['x/2.mp4'].attributes == ()
  assert 'no such file' in both['gone.mp4'].problem and both['3.mp4'].problem == ''


def test_speakers_stay_on_one_side_of_the_split_and_the_table_decides_where_it_speaks(tmp_path):
  lines = ['file,speaker,split']
  for i in range(40):
    touch(tmp_path, f'{i:02}.mp4')
    lines.append(f'{i:02}.mp4,s{i // 4},{"test" if i == 0 else ""}')
  (tmp_path / 'about.csv').write_text('\n'.join(lines))
  splits = clips.find_clips(tmp_path)
  assert list(splits['test']) == ['00.mp4', '36.mp4', '37.mp4', '38.mp4', '39.mp4']
  assert len(splits['train']) == 35


@pytest.mark.parametrize(
  ('table', 'match'),
  [
    ('name\nx.mp4\n', 'no column "file"'),
    ('file,split\nx.mp4,dev\n', "line 2: split is 'dev'"),
    ('file,gender\nx.mp4,?\n', "line 2: gender is '\\?'"),
    ('file\nx.mp4\nx.mp4\n', 'line 3: x.mp4 is already'),
  ],
)
def test_a_table_that_makes_no_sense_is_an_error_with_its_line(tmp_path, table, match):
  touch(tmp_path, 'x.mp4')
  (tmp_path / 'about.csv').write_text(table)
  with pytest.raises(UserError, match=match):
    clips.find_clips(tmp_path)


def test_two_tables_or_no_video_are_errors(tmp_path):
  with pytest.raises(UserError, match='no video'):
    clips.find_clips(tmp_path)
  touch(tmp_path, 'x.mp4', 'a.csv', 'b.csv')
  with pytest.raises(UserError, match='a.csv, b.csv'):
    clips.find_clips(tmp_path)


def test_a_config_chooses_the_crop(tmp_path):
  touch(tmp_path, 'x.mp4')
  of = lambda **values: clips.find_clips(tmp_path, **values)['train']['x.mp4']
  assert of().window == footage.FaceWindow() and of().size == 512
  assert of(crop='aligned', size=128).window is None
  with pytest.raises(UserError, match="crop is 'round': expected 'fixed' or 'aligned'"):
    of(crop='round')
  configs = {config.name: config for config in Builder.BUILDER_CONFIGS}
  assert [(c.size, c.crop, c.max_seconds) for c in (configs['full'], configs['small'], configs['aligned'])] == [
    (512, 'fixed', 10.0),
    (256, 'fixed', 10.0),
    (128, 'aligned', None),
  ]


def test_a_head_moves_in_a_fixed_window_as_it_does_in_the_video(samples):
  clip = footage.Clip('x', str(samples / 'clips/talk_650_2997fps.mp4'), size=96, window=footage.FaceWindow(), end=1.0)
  record = footage.talking_record(clip)
  frames = list(footage.read_frames(clip))
  track = landmarks.find_faces(frames)
  # One scale and one shift for all frames: neither roll nor motion is removed.
  window = footage.place_window(track.box, frames[0].shape[:2], 0.55)
  scale = 96 / window.side
  np.testing.assert_allclose(record.landmarks, (track.landmarks - [window.x, window.y]) * scale, atol=1e-3)
  np.testing.assert_allclose(record.box, (track.box - [window.x, window.y] * 2) * scale, atol=1e-3)
  np.testing.assert_array_equal(record.pose, track.pose)
  assert record.box.min() >= 0 and record.box.max() <= 96
  # The pictures are cropped likewise: a still background stays still, and the face is where its landmarks are.
  for i in (0, 24):
    square = frames[i][window.y : window.y + window.side, window.x : window.x + window.side]
    expected = cv2.resize(square, (96, 96), interpolation=cv2.INTER_AREA)
    assert np.abs(record.frame(i).astype(int) - expected).mean() < 3


def moving_boxes(start, end, side=100, frames=50):
  corner = np.linspace(start, end, frames)
  return np.concatenate([corner, corner + side], axis=1)


@pytest.mark.parametrize(
  ('boxes', 'window'),
  [
    # Centred on the face, a little above it; 100 / 0.55 pixels.
    (moving_boxes((500, 300), (500, 300)), footage.Window(460, 241, 181)),
    (moving_boxes((0, 0), (0, 0)), footage.Window(0, 0, 181)),
    (moving_boxes((1180, 620), (1180, 620)), footage.Window(1099, 539, 181)),
    (moving_boxes((300, 300), (500, 300)), footage.Window(262, 125, 375)),  # 1.25 times as wide as its way
    (moving_boxes((300, 10), (300, 10), side=700), footage.Window(290, 0, 720)),  # as high as the picture
  ],
)
def test_a_window_contains_the_face_of_every_frame_and_lies_in_the_picture(boxes, window):
  found = footage.place_window(boxes, (720, 1280), 0.55)
  assert found == window
  assert found.x >= 0 and found.x + found.side <= 1280 and found.y >= 0 and found.y + found.side <= 720
  assert (boxes.min(0)[:2] >= (found.x, found.y)).all()
  assert (boxes.max(0)[2:] <= (found.x + found.side, found.y + found.side)).all()


def test_a_face_that_crosses_the_picture_is_skipped():
  with pytest.raises(building.Skip, match='the face moves too far for a square crop'):
    footage.place_window(moving_boxes((0, 300), (1100, 300)), (720, 1280), 0.55)


def test_pieces_are_the_parts_of_the_whole(samples):
  path = samples / 'clips/emotion_m003_happy.mp4'
  whole = footage.Clip(id='whole', video=str(path), size=64)
  record = footage.talking_record(whole)
  half = len(record.frames) // 2
  piece = footage.talking_record(dataclasses.replace(whole, id='second', start=half / 25, end=len(record.frames) / 25))
  assert len(piece.frames) == len(record.frames) - half
  np.testing.assert_array_equal(piece.audio, record.audio[half * 640 :])
  # Smoothing sees less at the cut; further on the crops are the same pictures.
  np.testing.assert_allclose(piece.landmarks[8:], record.landmarks[half + 8 :], atol=2.0)


@pytest.mark.parametrize('name', ['clips/talk_650_2997fps.mp4', 'hard/variable_frame_rate.mp4'])
def test_any_frame_rate_becomes_25_and_sound_stays_as_long_as_the_frames(samples, name):
  clip = footage.Clip(id='clip', video=str(samples / name), size=96, end=2.0)
  record = footage.talking_record(clip)
  assert len(record.frames) == 50 and record.fps == 25 and record.size == (96, 96)
  assert len(record.audio) == 50 * 640 and record.audio.any()


def test_a_clip_without_sound_is_skipped_unless_that_is_allowed(samples):
  clip = footage.Clip(id='clip', video=str(samples / 'clips/silent_w009_happy.mp4'), size=64, end=1.0)
  with pytest.raises(building.Skip, match='no sound'):
    footage.talking_record(clip)
  record = footage.talking_record(dataclasses.replace(clip, silent_ok=True))
  assert len(record.frames) == 25 and len(record.audio) == 0


def test_reasons_name_no_file_so_that_they_can_be_counted(samples, tmp_path):
  broken = tmp_path / 'broken.mp4'
  broken.write_bytes(b'not a video at all' * 100)
  empty = tmp_path / 'empty.mp4'
  empty.touch()
  for path in (broken, empty, samples / 'hard/wav_named_mov.mov', tmp_path / 'absent.mp4'):
    with pytest.raises(building.Skip) as skip:
      footage.talking_record(footage.Clip(id='x', video=str(path)))
    assert str(path) not in str(skip.value) and path.name not in str(skip.value)


def test_reasons_call_what_is_no_regular_file_by_its_kind(tmp_path):
  os.mkfifo(tmp_path / 'fifo.mp4')
  (tmp_path / 'device.mp4').symlink_to('/dev/zero')
  (tmp_path / 'dangling.mp4').symlink_to('nowhere')
  (tmp_path / 'about.csv').write_text('file\nfifo.mp4\nabsent.mp4\n')
  found = clips.find_clips(tmp_path)
  reasons = {}
  for name, clip in (found['train'] | found['test']).items():
    with pytest.raises(building.Skip) as skip:
      footage.talking_record(clip)
    reasons[name] = str(skip.value)
  assert reasons == {
    'fifo.mp4': 'the file is a FIFO (named pipe)',
    'device.mp4': 'the file is a device',
    'dangling.mp4': 'the file is a link to nowhere, which does not exist',
    'absent.mp4': 'listed in the CSV, but there is no such file',
  }


def test_a_table_that_is_a_fifo_is_an_error(tmp_path):
  touch(tmp_path, 'x.mp4')
  os.mkfifo(tmp_path / 'about.csv')
  with pytest.raises(UserError, match='about.csv is a FIFO'):
    clips.find_clips(tmp_path)


def test_a_video_without_a_face_is_skipped(tmp_path):
  path = tmp_path / 'noise.mp4'
  rng = np.random.default_rng(0)
  with video.VideoWriter(path, 25, (96, 96), rng.uniform(-0.5, 0.5, 16000).astype(np.float32), 16000) as writer:
    for _ in range(25):
      writer.write(rng.integers(0, 256, (96, 96, 3), np.uint8))
  with pytest.raises(building.Skip, match='face'):
    footage.talking_record(footage.Clip(id='x', video=str(path)))


def joined(path, *sources):
  """One video of several with a cut between them, one second each."""
  with video.VideoWriter(
    path, 25, (128, 128), np.sin(np.arange(16000 * len(sources)) / 9).astype(np.float32), 16000
  ) as w:
    for source in sources:
      for frame in itertools.islice(video.read_frames(source, fps=25), 25):
        w.write(picture.fit_square(frame, 128))


def test_the_command_builds_a_folder_with_good_and_bad_videos(samples, tmp_path, capsys):
  folder = tmp_path / 'videos'
  folder.mkdir()
  for name in ('emotion_m003_happy.mp4', 'silent_w009_happy.mp4'):
    shutil.copy(samples / 'clips' / name, folder)
  joined(folder / 'joined.mp4', samples / 'clips/emotion_w036_happy.mp4', samples / 'clips/talk_524_25fps.mp4')
  (folder / 'broken.mp4').write_bytes(b'broken' * 1000)
  (folder / 'playlist.mp4').write_text('ffconcat version 1.0\nfile emotion_m003_happy.mp4\n')
  os.mkfifo(folder / 'fifo.mp4')
  source = pathlib.Path(__file__).parents[2] / 'data/clips'
  command = ['build', str(source), f'--manual_dir={folder}', f'--data_dir={tmp_path / "datasets"}', '--workers=0']
  build.build([*command, '--config={"name": "mine", "size": 32}'])
  out = capsys.readouterr().out
  assert 'no sound' in out and 'not a readable video' in out and 'the file is a FIFO' in out and '3 clips in' in out
  builder = Builder(data_dir=tmp_path / 'datasets', config=clips.ClipsConfig(name='mine', size=32))
  ids = {split: [e['id'].decode() for e in builder.as_data_source(split)] for split in builder.info.splits}
  assert sorted(sum(ids.values(), [])) == ['emotion_m003_happy.mp4', 'joined.mp4#1', 'joined.mp4#2']


def test_names_that_are_not_utf8_are_spelled_in_text(tmp_path):
  odd = os.fsdecode(b'\xff\xfe.mp4')
  touch(tmp_path, 'a.mp4', odd)
  found = {name: clip for split in clips.find_clips(tmp_path).values() for name, clip in split.items()}
  assert found.keys() == {'a.mp4', r'\xff\xfe.mp4'}
  clip = found[r'\xff\xfe.mp4']
  assert clip.id == r'\xff\xfe.mp4' and clip.video == str(tmp_path / odd) and not clip.problem


@pytest.mark.parametrize('table', [b'file\n\xff.mp4', b'file\n"' + b'a' * 200_000])
def test_a_table_that_is_no_csv(tmp_path, table):
  touch(tmp_path, 'a.mp4')
  (tmp_path / 'table.csv').write_bytes(table)
  with pytest.raises(UserError, match=r'table\.csv'):
    clips.find_clips(tmp_path)

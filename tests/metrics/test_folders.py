import json
import types

import numpy as np
import pytest

from talkjax.errors import UserError
from talkjax.media import video
from talkjax.metrics import folders, image, pairs
from talkjax.weights.scoring import Network


def write(path, frames, fps=25.0):
  with video.VideoWriter(path, fps, frames[0].shape[:2], None, 16_000, crf=10) as writer:
    for frame in frames:
      writer.write(frame)


def moving(num=8, size=(64, 80), shift=0):
  """Smooth colours that drift; `shift` makes another video of it."""
  y, x = np.mgrid[: size[0], : size[1]]
  waves = [np.sin((x + 3 * f + shift) / 9)[..., None] * [1, 0.5, -1] + np.cos(y / 7)[..., None] for f in range(num)]
  return [np.clip(128 + 50 * w, 0, 255).astype(np.uint8) for w in waves]


@pytest.fixture
def pair(tmp_path):
  made, true = tmp_path / 'made', tmp_path / 'true'
  for folder in (made, true):
    folder.mkdir()
  for name in ('one', 'two'):
    write(made / f'{name}.mp4', moving(shift=2))
    write(true / f'{name}.mp4', moving())
  return made, true


@pytest.fixture
def faces(monkeypatch):
  """Stands for the face finder: the mouth is as open as the mean brightness of a corner says."""

  def find(frames):
    return types.SimpleNamespace(landmarks=np.array([frame[:8, :8].mean() for frame in frames]))

  monkeypatch.setattr(folders.face_landmarks, 'find_faces', find)
  monkeypatch.setattr(folders.lips, 'real_opening', lambda brightness: brightness / 100)


def test_two_videos(pair, faces):
  made, true = pair
  row = folders.compare_videos(made / 'one.mp4', true / 'one.mp4')
  frames = [list(video.read_frames(folder / 'one.mp4')) for folder in (true, made)]
  assert row['psnr'] == pytest.approx(np.mean([image.psnr(a, b) for a, b in zip(*frames)]))
  assert row['ssim'] == pytest.approx(np.mean([image.ssim(a, b) for a, b in zip(*frames)]))
  a, b = ([f[:8, :8].mean() for f in stack] for stack in frames)
  assert row['lip_score'] == pytest.approx(np.corrcoef(a, b)[0, 1])
  assert (row['frames'], row['identical_frames'], row['notes']) == (8, 0, [])
  assert 0 <= row['cpbd'] <= 1


def test_a_video_against_itself(pair, faces):
  row = folders.compare_videos(pair[1] / 'one.mp4', pair[1] / 'one.mp4')
  assert (row['psnr'], row['ssim'], row['identical_frames']) == (image.PSNR_CAP, 1, 8)
  assert row['lip_score'] == pytest.approx(1)


def test_lengths_and_rates_that_differ_are_reported(pair, faces):
  made, true = pair
  write(made / 'one.mp4', moving(5))
  row = folders.compare_videos(made / 'one.mp4', true / 'one.mp4')
  assert (row['frames'], row['frames_generated'], row['frames_reference']) == (5, 5, 8)
  assert row['notes'] == ['has 5 frames, its reference 8: the first 5 are compared']
  write(made / 'two.mp4', [f for f in moving(8) for _ in range(2)], fps=50.0)
  row = folders.compare_videos(made / 'two.mp4', true / 'two.mp4')
  assert row['frames'] == 8
  assert 'resampled to the 25 frames/s of the reference' in row['notes'][0]
  assert row['psnr'] > 35


def test_without_a_face_the_other_scores_stay(pair, faces, monkeypatch):
  def nobody(frames):
    raise UserError('no face in any of 8 frames')

  monkeypatch.setattr(folders.face_landmarks, 'find_faces', nobody)
  row = folders.compare_videos(pair[0] / 'one.mp4', pair[1] / 'one.mp4')
  assert row['lip_score'] is None
  assert row['psnr'] > 10
  assert row['notes'] == ['no lip score: one.mp4: no face in any of 8 frames']


def test_small_videos_have_no_cpbd(tmp_path, faces):
  for name in ('a.mp4', 'b.mp4'):
    write(tmp_path / name, moving(3, (48, 48)))
  row = folders.compare_videos(tmp_path / 'a.mp4', tmp_path / 'b.mp4')
  assert row['cpbd'] is None
  assert any('at least 64x64' in note for note in row['notes'])


def test_folders_by_name(pair, faces):
  made, true = pair
  (true / 'one.mp4').rename(true / 'one.MOV')
  (true / 'readme.txt').write_text('not a video')
  rows, means = folders.compare_folders(made, true)
  assert [row['name'] for row in rows] == ['one', 'two']
  for score in ('psnr', 'ssim', 'cpbd', 'lip_score', 'lip_score_other_speech'):
    assert means[score] == pytest.approx(np.mean([row[score] for row in rows]))
  assert (means['videos'], means['frames'], means['lip_score_videos']) == (2, 16, 2)
  assert json.loads(json.dumps([rows, means], allow_nan=False)) == [rows, means]


def test_table_has_straight_columns(pair, faces):
  (pair[0] / 'one.mp4').rename(pair[0] / 'a-longer-name.mp4')
  (pair[1] / 'one.mp4').rename(pair[1] / 'a-longer-name.mp4')
  rows, means = folders.compare_folders(*pair)
  rows[0]['cpbd'], rows[0]['notes'] = None, ['says why']
  lines = folders.table(rows, means).splitlines()
  assert len({len(line) for line in lines[:-1]}) == 1
  assert lines[0].split()[:5] == ['video', 'frames', 'psnr', 'psnr_identity', 'ssim']
  assert '  -  ' in lines[2]
  assert lines[-2].startswith('mean')
  assert lines[-1] == 'a-longer-name: says why'
  assert f'{means["psnr"]:.2f}' in lines[-2]


def test_errors_name_the_files(pair, tmp_path, faces):
  made, true = pair
  with pytest.raises(UserError, match='there is no folder .*nowhere'):
    folders.compare_folders(tmp_path / 'nowhere', true)
  (tmp_path / 'empty').mkdir()
  with pytest.raises(UserError, match='empty has no videos'):
    folders.compare_folders(made, tmp_path / 'empty')
  write(made / 'three.mp4', moving(2))
  with pytest.raises(UserError, match='1 of 3 videos have no counterpart .*true: three.mp4'):
    folders.compare_folders(made, true)
  with pytest.raises(UserError, match='1 of 3 videos have no counterpart .*true: three.mp4'):
    folders.compare_folders(true, made)
  write(true / 'three.mp4', moving(2, (64, 64)))
  with pytest.raises(UserError, match='80x64|64x64'):
    folders.compare_folders(made, true)
  write(true / 'one.mkv.mp4', moving(2))
  (true / 'one.mkv.mp4').rename(true / 'one.mkv')
  with pytest.raises(UserError, match='both one.mkv and one.mp4'):
    folders.compare_folders(made, true)


def test_lips_of_a_filmed_face(samples, tmp_path):
  pytest.importorskip('mediapipe')
  source = sorted((samples / 'grid' / 's1').glob('*.mpg'))[0]
  frames = list(video.read_frames(source))[8:58:2]
  write(tmp_path / 'true.mp4', frames)
  write(tmp_path / 'made.mp4', [np.roll(frame, 4, axis=(0, 1)) for frame in frames])
  write(tmp_path / 'backwards.mp4', frames[::-1])
  follows = folders.compare_videos(tmp_path / 'made.mp4', tmp_path / 'true.mp4')
  assert follows['lip_score'] > 0.95  # the face is elsewhere, its mouth moves the same
  assert (
    folders.compare_videos(tmp_path / 'backwards.mp4', tmp_path / 'true.mp4')['lip_score'] < follows['lip_score'] - 0.2
  )


def test_suites_of_folders(pair, tmp_path):
  """Networks see the frames as they are compared; features are kept, and used by the next run. Nobody has a face."""
  pytest.importorskip('mediapipe')
  made, true = pair
  write(made / 'two.mp4', [f for f in moving(8, shift=2) for _ in range(2)], fps=50.0)
  calls = []

  def features(frames):
    calls.append(len(frames))
    return frames.mean((1, 2)).astype(np.float32)

  networks = {'inception': Network('w', {'features': features})}
  image_alone = dict(faces=False, suites=[pairs.IMAGE], networks=networks)
  rows, means = folders.compare_folders(made, true, **image_alone)
  assert calls == [8] * 4 and means['fid'] >= 0 and means['lip_score'] is None
  assert 'fid' in folders.table(rows, means, ('psnr', 'fid')).splitlines()[0]
  again = folders.compare_folders(made, true, **image_alone)
  assert len(calls) == 4 and again[1]['fid'] == means['fid']
  assert {p.name for p in tmp_path.iterdir()} == {'made', 'true', 'made.features', 'true.features'}
  without, _ = folders.compare_folders(made, true, faces=False, pictures=False)
  assert 'psnr' not in without[0] and without[0]['frames'] == 8


def test_sets_need_neither_the_same_names_nor_numbers(pair, tmp_path):
  """Nobody has a face; of the sound there is a distance, and it does not depend on which clip is which."""
  pytest.importorskip('mediapipe')
  made, true = pair
  for path in list(made.iterdir()):
    path.unlink()
  tone = lambda hz, count: 0.2 * np.sin(2 * np.pi * hz * np.arange(count * 640) / 16_000).astype(np.float32)
  for folder, name, hz, size in ((made, 'a', 300, (32, 32)), (made, 'b', 320, (32, 32)), (made, 'c', 340, (32, 32))):
    with video.VideoWriter(folder / f'{name}.mp4', 25.0, size, tone(hz, 30), 16_000) as writer:
      for frame in moving(30, size):
        writer.write(frame)
  for i in range(2):
    with video.VideoWriter(true / f'{("one", "two")[i]}.mp4', 25.0, (64, 80), tone(900 + 40 * i, 40), 16_000) as writer:
      for frame in moving(40):
        writer.write(frame)
  rows, means = folders.compare_sets(made, true, [pairs.JOINT])
  assert [row['name'] for row in rows] == ['made/a', 'made/b', 'made/c', 'true/one', 'true/two']
  assert (means['videos'], means['videos_reference'], means['frames']) == (3, 2, 170)
  assert means['face_found'] == 0 and rows[0]['loudness_mouth'] is None and 'loudness_mouth' not in rows[3]
  _, same = folders.compare_sets(true, true, [pairs.JOINT])
  assert means['fad_log_mel'] > 1 > abs(same['fad_log_mel'])
  folders.table(rows, means, pairs.JOINT.scores)
  with pytest.raises(UserError, match='there is no folder .*nowhere'):
    folders.compare_sets(tmp_path / 'nowhere', true, [pairs.JOINT])


def test_folders_without_a_common_name(pair):
  made, true = pair
  for path in list(made.iterdir()):
    path.rename(made / f'made-{path.name}')
  with pytest.raises(UserError, match='no name of a video is in both folders: .*made has made-.*need the same name'):
    folders.compare_folders(made, true)

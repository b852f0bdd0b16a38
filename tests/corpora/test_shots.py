"""Cuts divide clips, and nothing else does: drawn scenes first, then real ones."""

import itertools
import time
import types

import cv2
import numpy as np
import pytest
from etils import epath

from talkjax.corpora import building, footage, shots
from talkjax.media import video


def scene(seed: int, size: int = 96) -> np.ndarray:
  """A picture of soft coloured shapes, uint8 [size, 2 size, 3]."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(40, 200, (6, 12, 3)).astype(np.uint8)
  return cv2.resize(coarse, (2 * size, size), interpolation=cv2.INTER_CUBIC)


def shot(seed: int, frames: int, speed: float = 0.0) -> list[np.ndarray]:
  """A scene with a disc that nods before it, under a camera that pans `speed` pixels a frame; with noise."""
  picture, rng = scene(seed), np.random.default_rng(seed + 100)
  made = []
  for t in range(frames):
    frame = np.roll(picture, round(speed * t), 1)[:, :96].copy()
    cv2.circle(frame, (48, 40 + round(6 * np.sin(t))), 20, (220, 180, 160), -1)
    made.append(np.clip(frame + rng.normal(0, 3, frame.shape), 0, 255).astype(np.uint8))
  return made


def brighter(frames, gains):
  return [np.clip(f * g + 10 * (g - 1), 0, 255).astype(np.uint8) for f, g in zip(frames, gains)]


@pytest.mark.parametrize('speed', [0.0, 3.0])
def test_a_cut_is_found_at_its_frame(speed):
  frames = shot(1, 30, speed) + shot(2, 12, speed) + shot(3, 20, speed)
  assert shots.find_cuts(frames) == (62, [30, 42])


def test_a_cut_through_a_blended_frame_is_one_cut():
  first, second = shot(1, 20), shot(2, 20)
  between = cv2.addWeighted(first[-1], 0.5, second[0], 0.5, 0)
  count, found = shots.find_cuts([*first, between, *second])
  assert count == 41 and found in ([20], [21])


def test_back_and_forth_between_two_cameras_is_every_time_a_cut():
  a, b = shot(1, 40), shot(2, 40)
  assert shots.find_cuts(a[:15] + b[:15] + a[15:30] + b[15:30]) == (60, [15, 30, 45])


@pytest.mark.parametrize(
  'frames',
  [
    shot(1, 40),
    shot(1, 40, speed=20.0),  # a fifth of the picture a frame
    shot(1, 15) + [np.roll(f, 5 * t, 1) for t, f in enumerate(shot(1, 15))],  # a start from rest
    brighter(shot(1, 40), np.linspace(0.3, 1.6, 40)),
    brighter(shot(1, 40), [0.6] * 20 + [1.3] * 20),  # the light goes on
    brighter(shot(1, 40), [1.0] * 20 + [4.0, 2.5] + [1.0] * 18),  # a flash
    [cv2.addWeighted(a, 1 - t / 24, b, t / 24, 0) for t, (a, b) in enumerate(zip(shot(1, 25), shot(2, 25)))],
    [np.zeros((96, 96, 3), np.uint8)] * 20,
    brighter(shot(1, 30), np.clip(np.linspace(-0.3, 1.2, 30), 0, 1)),  # from black
    list(np.random.default_rng(0).integers(0, 256, (30, 48, 48, 3), np.uint8)),
    shot(1, 3) + shot(2, 3),  # too short to tell
    [],
  ],
  ids=['still', 'pan', 'start', 'ramp', 'light', 'flash', 'dissolve', 'black', 'fade in', 'noise', 'short', 'empty'],
)
def test_what_is_no_cut(frames):
  assert shots.find_cuts(frames) == (len(frames), [])


def test_real_clips_are_divided_where_they_were_joined_and_only_there(samples):
  names = ('emotion_m024_surprised.mp4', 'talk_524_25fps.mp4', 'talk_844_25fps.mp4', 'talk_700_30fps.mp4')
  window = footage.Window()
  clips = [footage.Clip(name, str(samples / 'clips' / name), size=128, window=window, end=2.0) for name in names]
  frames = [footage.read_frames(clip) for clip in clips]
  assert shots.find_cuts(itertools.chain(*frames)) == (200, [50, 100, 150])


def test_a_clip_becomes_the_clips_between_its_cuts_none_too_long(tmp_path):
  path = tmp_path / 'cut.mp4'
  with video.VideoWriter(path, 25, (96, 96)) as writer:
    for frame in shot(4, 10) + shot(1, 20) + shot(2, 45) + shot(3, 25):
      writer.write(frame)
  clips = {
    'whole': footage.Clip('whole', str(path), end=0.4, transcript='hello'),
    'cut': footage.Clip('cut', str(path), start=0.4, end=3.0, transcript='hello', attributes=(('mood', 'glad'),)),
    'absent': footage.Clip('absent', str(tmp_path / 'none.mp4')),
    'known': footage.Clip('known', '', problem='its video is not in the folder'),
  }
  builder = types.SimpleNamespace(
    data_dir_root=epath.Path(tmp_path / 'datasets'), info=types.SimpleNamespace(full_name='toy/full/2.0.0')
  )
  with building.options(workers=0):
    found = shots.split(builder, {'train': clips, 'test': {}}, max_seconds=1.0)
  assert list(found['train']) == ['whole', 'cut#1', 'cut#2', 'cut#3', 'absent', 'known'] and found['test'] == {}
  assert [found['train'][n] for n in ('whole', 'absent', 'known')] == [clips[n] for n in ('whole', 'absent', 'known')]
  parts = [found['train'][f'cut#{i}'] for i in (1, 2, 3)]
  assert [(round(p.start * 25), round(p.end * 25)) for p in parts] == [(10, 30), (30, 52), (52, 75)]
  assert [dict(p.attributes) for p in parts] == [
    {'mood': 'glad', 'piece': '1', 'shot': '1'},
    {'mood': 'glad', 'piece': '2', 'shot': '2'},
    {'mood': 'glad', 'piece': '3', 'shot': '2'},
  ]
  assert {p.transcript for p in parts} == {''}
  # What was found is kept for a build that goes on: nothing is read again.
  waiting = list((building.partial_folder(builder) / 'cuts').iterdir())
  assert len(waiting) == 2 and all(note.suffix == '.json' for note in waiting)
  for note in waiting:
    note.write_text('[1000, []]')
  with building.options(workers=0):
    assert len(shots.split(builder, {'train': clips}, max_seconds=10.0)['train']) == 4 + 4 + 2
  # What is damaged is found again.
  for note, text in zip(waiting, ('', '[3]')):
    note.write_text(text)
  with building.options(workers=0):
    assert list(shots.split(builder, {'train': clips}, max_seconds=1.0)['train']) == list(found['train'])
  with building.options(workers=0, limit=1):
    assert list(shots.split(builder, {'train': clips})['train']) == ['whole']


def stuck_scan(folder, clip):
  time.sleep(600)


def test_a_clip_that_takes_too_long_to_look_at_is_skipped(tmp_path, monkeypatch):
  monkeypatch.setattr(shots, '_scan', stuck_scan)
  monkeypatch.setattr(building, 'partial_folder', lambda builder: epath.Path(tmp_path))
  builder = types.SimpleNamespace(info=types.SimpleNamespace(full_name='toy/1.0.0'))
  with building.options(workers=1, clip_timeout=1):
    found = shots.split(builder, {'train': {'a': footage.Clip(id='a', video='a.mp4')}})
  assert found['train']['a'].problem == 'took longer than --clip_timeout=1 s'

"""Videos in memory and in files, and the features kept of them."""

import logging

import numpy as np
import pytest

from talkjax.metrics import footage
from tests.metrics.test_folders import moving, write


def test_frames_in_memory_at_another_rate():
  frames = [np.full((2, 2, 3), i, np.uint8) for i in range(10)]
  video = footage.from_frames('v', frames, 50.0, None)
  assert [f[0, 0, 0] for f in video.frames(25)] == [0, 2, 4, 6, 8]
  assert [f[0, 0, 0] for f in footage.from_frames('v', frames[:3], 10.0, None).frames(20)] == [0, 0, 1, 2, 2, 2]
  assert len(list(video.frames(50.2))) == 10 and video.sound() is None
  assert [len(c) for c in footage.chunks(frames, 4)] == [4, 4, 2]


@pytest.fixture
def folder(tmp_path):
  made = tmp_path / 'made'
  made.mkdir()
  write(made / 'a.mp4', moving(6))
  return made


def counted(calls):
  def compute():
    calls.append(1)
    return {'x': np.arange(3, dtype=np.float32), 'y': np.zeros(0)}

  return compute


def test_features_are_computed_once_per_video_and_weights(folder):
  calls = []
  get = lambda key, fps=None: footage.from_file(folder / 'a.mp4', fps, footage.Cache(folder)).features(
    'x', key, counted(calls)
  )
  first = get('w1')
  np.testing.assert_array_equal(get('w1')['x'], first['x'])
  assert len(calls) == 1 and (folder.parent / 'made.features' / 'a.mp4-x.npz').is_file()
  get('w2')
  get('w2')
  assert len(calls) == 2
  get('w2', 12.5)  # other frames
  assert len(calls) == 3
  assert [p.name for p in (folder.parent / 'made.features').iterdir()] == ['a.mp4-x.npz']


def test_another_video_of_that_name_and_a_damaged_file_are_computed_again(folder):
  calls = []
  get = lambda: footage.Cache(folder)('a.mp4', 'x', 'w', counted(calls))
  get()
  write(folder / 'a.mp4', moving(6, shift=5))
  get()
  assert len(calls) == 2
  path = folder.parent / 'made.features' / 'a.mp4-x.npz'
  path.write_bytes(path.read_bytes()[:40])
  np.testing.assert_array_equal(get()['x'], [0, 1, 2])
  assert len(calls) == 3


def test_features_that_cannot_be_kept(folder, caplog):
  (folder.parent / 'made.features').write_text('a file where the folder would be')
  with caplog.at_level(logging.WARNING):
    made = footage.Cache(folder)('a.mp4', 'x', 'w', counted([]))
  assert list(made['x']) == [0, 1, 2] and 'features are not kept' in caplog.text

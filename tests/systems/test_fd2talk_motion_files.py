"""Motion in files: what is written is read again, and what does not fit is refused in one sentence."""

import dataclasses

import numpy as np
import pytest

from talkjax.errors import UserError
from talkjax.systems.fd2talk import motion_files
from talkjax.systems.fd2talk.motion_files import FIELDS, Motion

OWN = {'model': 'mesh_pca', 'fingerprint': 'abc'}


def motion(frames: int = 6) -> Motion:
  generator = np.random.default_rng(0)
  return Motion(*(generator.normal(size=(frames, d)).astype(np.float32) for d in (4, 3, 3)), 25.0)


@pytest.fixture
def path(tmp_path) -> str:
  path = str(tmp_path / 'new' / 'm.npz')
  motion_files.write(path, motion(), **OWN)
  return path


def read(path: str, frames: int = 6, **changes) -> Motion:
  return motion_files.read(path, **{**OWN, 'expressions': 4, 'fps': 25.0, 'frames': frames, **changes})


def edit(path: str, **changes) -> str:
  with np.load(path) as file:
    values = {**file, **changes}
  np.savez(path, **{k: v for k, v in values.items() if v is not None})
  return path


def test_what_is_written_is_read_again(path):
  for name, value in dataclasses.asdict(read(path)).items():
    np.testing.assert_array_equal(value, getattr(motion(), name))
  np.testing.assert_array_equal(read(path, frames=4).angles, motion().angles[:4])
  with np.load(path) as file:
    assert set(file.files) == set(FIELDS) and str(file['model']) == 'mesh_pca' and float(file['fps']) == 25


def test_motion_moves_with_the_portrait():
  """The rows of one portrait and of another differ in identity and place, not in expression and angles."""
  generator = np.random.default_rng(1)
  portraits = generator.normal(size=(2, 5 + 4 + 6)).astype(np.float32)
  one, other = (motion().rows(p) for p in portraits)
  np.testing.assert_array_equal(one[:, 5:12], other[:, 5:12])
  np.testing.assert_array_equal(one[:, :5], np.broadcast_to(portraits[0, :5], (6, 5)))
  moved = one[:, 12:] - other[:, 12:] - (portraits[0] - portraits[1])[12:]
  np.testing.assert_allclose(moved, 0, atol=1e-6)
  again = motion_files.of_rows(one, portraits[0], 4, 25.0)
  np.testing.assert_allclose(again.translation, motion().translation, atol=1e-6)
  np.testing.assert_array_equal(again.expression, motion().expression)


@pytest.mark.parametrize(
  ('changes', 'settings', 'sentence'),
  [
    ({}, {'fingerprint': 'other'}, 'is of the morphable model mesh_pca abc, and this workdir has mesh_pca other'),
    ({}, {'model': 'bfm'}, 'is of the morphable model mesh_pca abc, and this workdir has bfm abc'),
    ({}, {'frames': 7}, 'has 6 frames, and the sound lasts 7: extend the motion'),
    ({}, {'fps': 30.0}, r'has 25 frames/s, and this workdir generates 30'),
    ({}, {'expressions': 5}, r'has expression \[6, 4\], .*: expected \[frames, 5\]'),
    ({'angles': np.zeros((5, 3))}, {}, r'angles \[5, 3\]'),
    ({'angles': np.full((6, 3), 'x')}, {}, 'values of angles that are not finite numbers: correct'),
    ({'expression': np.where(np.arange(6) == 3, np.nan, 0)[:, None] + np.zeros(4)}, {}, 'finite numbers in frame 3'),
    ({'fingerprint': None, 'fps': None}, {}, 'has no fps, fingerprint: write one with'),
  ],
)
def test_motion_that_does_not_fit(path, changes, settings, sentence):
  with pytest.raises(UserError, match=f'^--motion={path} .*{sentence}'):
    read(edit(path, **changes), **settings)


def test_a_file_that_is_none(tmp_path):
  (tmp_path / 'm.npz').write_text('no')
  for name, sentence in (('m.npz', 'cannot be read as an .npz file .*save_motion'), ('absent.npz', '^no file ')):
    with pytest.raises(UserError, match=sentence):
      read(str(tmp_path / name))


@pytest.mark.parametrize('rate', [np.ones(3), np.array('x'), np.complex64(25), np.float32(np.nan)], ids=str)
def test_a_frame_rate_is_one_number(path, rate):
  with pytest.raises(UserError, match=' frames/s, and this workdir generates 25'):
    read(edit(path, fps=rate))


def test_a_file_cannot_control_the_terminal(path):
  with pytest.raises(UserError) as caught:
    read(edit(path, model=np.array('\x1b[2J' * 500)))
  assert '\x1b' not in str(caught.value) and len(str(caught.value)) < 600


def test_what_a_motion_file_may_replace(path, tmp_path):
  np.savez(tmp_path / 'other.npz', expression=np.zeros(3))
  (tmp_path / 'text.npz').write_text('mine')
  assert motion_files.is_one(path)
  assert not any(motion_files.is_one(str(tmp_path / name)) for name in ('other.npz', 'text.npz', 'absent.npz'))

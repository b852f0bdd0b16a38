import resource
import tempfile

import numpy as np
import pytest

from talkjax.errors import UserError
from talkjax.systems.revoicing import back_and_forth

NOISE = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


@pytest.mark.parametrize('count', [2, 3, 8])
def test_frames_of_a_short_video_are_played_back_and_forth(count):
  played = list(back_and_forth(lambda: iter(NOISE[: min(count, 3)]), 3, count))
  assert [i for i, _ in played] == [0, 1, 2, 1, 0, 1, 2, 1][:count]
  assert all(np.array_equal(frame, NOISE[i]) for i, frame in played)


def test_a_full_disk_is_said_and_nothing_is_left(tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  with pytest.raises(UserError, match='cannot write frames of the video to .*: check the space left on the disk'):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
      list(back_and_forth(lambda: iter(NOISE), 3, 8))
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert not list(tmp_path.iterdir())

import numpy as np
import pytest

from talkjax.metrics import sync


@pytest.mark.parametrize('late', [-4, 0, 3])
def test_the_shift_of_the_sound_is_found(late):
  r = np.random.default_rng(0)
  walk = r.normal(size=(80, 16)) * 3
  lip, speech = walk[20:60], walk[20 - late : 60 - late]  # the sound of frame i comes `late` frames after it
  made = sync.score(lip, speech)
  assert made.offset == -late
  assert made.distance < 10 and made.confidence > 5
  # Shift k compares frame i with sound i + k - SHIFTS, zero outside the clip.
  k = 4
  wanted = [
    np.linalg.norm(lip[i] - (speech[i + k - 15] if 0 <= i + k - 15 < 40 else 0) + 1e-6) for i in range(len(lip))
  ]
  np.testing.assert_allclose(made.distances[:, k], wanted)


def test_one_frame_is_enough_and_none_is_not():
  x = np.ones((1, 4))
  assert sync.score(x, x).distance == pytest.approx(2e-6)
  with pytest.raises(ValueError, match='no embeddings'):
    sync.score(x[:0], x[:0])

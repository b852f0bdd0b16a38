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


@pytest.mark.parametrize('late', [-4, 0, 3])
def test_a_lip_expert_judges_the_frames_that_have_a_sound(late):
  r = np.random.default_rng(0)
  walk = r.normal(size=(80, 16))
  lip, speech = walk[20:60] * 3, walk[20 - late : 60 - late] * r.uniform(1, 2, (40, 1))  # lengths do not matter
  made = sync.agreement(lip, speech)
  assert made.offset == -late and made.confidence > 0.8
  cosine = lambda i, k: lip[i] @ speech[k] / np.linalg.norm(lip[i]) / np.linalg.norm(speech[k])
  means = [np.mean([cosine(i, i + k) for i in range(40) if 0 <= i + k < 40]) for k in range(-15, 16)]
  assert made.in_sync == pytest.approx(means[15])
  assert made.confidence == pytest.approx(1 - np.median(means))
  alone = sync.agreement(lip[:1], lip[:1])
  assert (alone.in_sync, alone.confidence, alone.offset) == (pytest.approx(1), 0, 0)

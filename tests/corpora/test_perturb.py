"""Noise in the sound of records, the same in whatever order they are read."""

import ml_collections
import numpy as np

from talkjax.corpora import perturb
from talkjax.training import input_pipeline


def test_noise_has_the_level_asked_for(puppets):
  data = ml_collections.ConfigDict({'dir': str(puppets), 'corpus': 'puppets/tiny'})
  (clip,) = input_pipeline.eval_records(data, 'test', 1)
  noisy = perturb.with_noise(clip, 10.0, np.random.default_rng(0))
  sound, difference = clip.audio.astype(float), noisy.audio.astype(float) - clip.audio
  assert abs(10 * np.log10(np.mean(sound**2) / np.mean(difference**2)) - 10) < 0.3
  assert noisy.audio.dtype == np.int16 and noisy.id == clip.id


def test_noise_is_that_of_reading_all_clips_in_order(puppets):
  data = ml_collections.ConfigDict({'dir': str(puppets), 'corpus': 'puppets/tiny'})
  clips = list(input_pipeline.eval_records(data, 'test', 3))
  generator = np.random.default_rng(7)
  expected = [perturb.with_noise(clip, 20.0, generator).audio for clip in clips]
  noisy = perturb.NoisyClips(clips, 20.0, 7)
  for i in (2, 0, 1, 2):
    np.testing.assert_array_equal(noisy[i].audio, expected[i])
  assert len(noisy) == 3

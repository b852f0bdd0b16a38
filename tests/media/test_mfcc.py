"""Cepstra against their definition, one frame at a time."""

import numpy as np
import pytest

from talkjax.media import mel, mfcc


def noise(count, seed=0):
  return (np.random.default_rng(seed).normal(size=count) * 3000).astype(np.int16)


def one_frame(samples, first):
  """The cepstra of the 400 samples from `first` on, written out."""
  x = samples.astype(float)
  frame = np.array([x[n] - (0.97 * x[n - 1] if n else 0) if n < len(x) else 0 for n in range(first, first + 400)])
  n = np.arange(512)[:400]
  power = np.array([abs((frame * np.exp(-2j * np.pi * k * n / 512)).sum()) ** 2 / 512 for k in range(257)])
  mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 28)
  edges = [int(513 * 700 * (10 ** (m / 2595) - 1) / 16000) for m in mels]
  logs = []
  for low, centre, high in zip(edges, edges[1:], edges[2:]):
    total = sum(power[i] * (i - low) / (centre - low) for i in range(low, centre))
    logs.append(np.log(total + sum(power[i] * (high - i) / (high - centre) for i in range(centre, high))))
  angles = np.pi * (2 * np.arange(26) + 1) / 52
  cepstra = np.array([np.sqrt((1 if k == 0 else 2) / 26) * (logs * np.cos(k * angles)).sum() for k in range(13)])
  cepstra *= 1 + 11 * np.sin(np.pi * np.arange(13) / 22)
  cepstra[0] = np.log(power.sum())
  return cepstra


@pytest.mark.parametrize('count', [400, 401, 2000])
def test_every_column(count):
  samples = noise(count)
  made = mfcc.mfcc(samples)
  assert made.shape == (13, 1 + -(-(count - 400) // 160))
  for column in {0, made.shape[1] - 1}:
    np.testing.assert_allclose(made[:, column], one_frame(samples, 160 * column), rtol=1e-8)


def test_silence_and_very_short_sounds_are_finite():
  assert np.isfinite(mfcc.mfcc(np.zeros(1600, np.int16))).all()
  assert mfcc.mfcc(noise(10)).shape == (13, 1)


def test_windows_begin_at_frames():
  cepstra = np.arange(13 * 50, dtype=float).reshape(13, 50)
  made = mfcc.windows(cepstra)
  assert made.shape == (8, 13, 20)
  np.testing.assert_array_equal(made[3], cepstra[:, 12:32])
  assert len(mfcc.windows(cepstra[:, :19])) == 0


def test_windows_of_wav2lip():
  spectrogram = mel.wav2lip_mel(noise(8000).astype(np.float32) / 32768)
  assert spectrogram.shape == (80, 41) and -4 <= spectrogram.min() < spectrogram.max() <= 4
  made, starts = mel.wav2lip_windows(spectrogram)
  assert starts.tolist() == [0, 3, 6, 9, 12, 16, 19, 22, 25, 25]  # the last as published
  np.testing.assert_array_equal(made[-1], spectrogram[:, 25:])
  with pytest.raises(ValueError, match='15 columns'):
    mel.wav2lip_windows(spectrogram[:, :15])

"""The spectrogram from which sound is made again."""

import numpy as np
import pytest

from talkjax.media import vocoder


def tone(frequency: float, seconds: float = 1.0) -> np.ndarray:
  return (0.3 * np.sin(2 * np.pi * frequency * np.arange(round(16_000 * seconds)) / 16_000)).astype(np.float32)


def test_a_column_is_centred_on_its_20_ms():
  click = np.zeros(3200, np.float32)
  click[1000] = 1  # in column 3, [960, 1280), nearer to its beginning
  columns = vocoder.spectrogram(click, 10)
  assert columns.shape == (10, vocoder.BANDS) and columns.dtype == np.float32
  assert columns.sum(1).argmax() == 3 and columns[2].sum() > columns[4].sum()
  assert not columns[[0, 8, 9]].any()  # silence is 0


def test_frames_have_the_columns_of_their_time():
  sound = np.concatenate([np.zeros(640 * 3, np.float32), tone(440, 0.08)])
  rows = vocoder.spectrogram_of_frames(sound, 5, 25.0)
  assert rows.shape == (5, 2 * vocoder.BANDS)
  np.testing.assert_array_equal(rows.reshape(10, -1), vocoder.spectrogram(sound, 10))
  assert rows[4].sum() > 2 * rows[1].sum()
  with pytest.raises(ValueError, match='^16 frames/s: expected a divisor of 50'):
    vocoder.columns_per_frame(16.0)


def test_sound_made_again_has_the_spectrogram():
  generator = np.random.default_rng(0)
  sound = tone(220) * np.linspace(0.1, 1, 16_000, dtype=np.float32) + tone(1760) / 2
  sound += 0.01 * generator.standard_normal(16_000).astype(np.float32)
  columns = vocoder.spectrogram(sound, 50)
  made = vocoder.waveform(columns)
  assert made.shape == (16_000,) and np.abs(made).max() <= 1
  again = vocoder.spectrogram(made, 50)
  assert np.corrcoef(columns.ravel(), again.ravel())[0, 1] > 0.8  # between the tones there is little
  loudness = lambda x: np.sqrt(np.square(x.reshape(10, 1600)).mean(1))
  assert np.corrcoef(loudness(sound), loudness(made))[0, 1] > 0.95
  spectrum = np.abs(np.fft.rfft(made))
  assert abs(spectrum[:500].argmax() - 220) <= 15 and abs(1000 + spectrum[1000:].argmax() - 1760) <= 100
  np.testing.assert_array_equal(made, vocoder.waveform(columns))  # phases depend on the seed alone


def test_silence_stays_silent():
  assert not np.abs(vocoder.waveform(np.zeros((10, vocoder.BANDS), np.float32))).max() > 1e-6

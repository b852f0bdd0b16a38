"""Corpus records as training examples of the speech encoder: a spectrogram, and the curves to be predicted from it."""

import numpy as np
import scipy.fft
import soxr

from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.faces import measures
from talkjax.media import mel
from talkjax.media.segments import AUDIO_RATE

FPS = 25  # of the targets in training: two columns of the spectrogram are a frame
OPENING_SCALE = 10.0  # brings an opening in face heights to the range of the coefficients, about 0 to 1


def read(record: Record, generator: np.random.Generator, *, config, context: int) -> dict[str, np.ndarray]:
  """Random segments of a record, with gain, noise and speed varied; `data.examples_per_record` along axis 0.

  Args:
    record: with sound.
    generator: of the segments.
    config: of the system.
    context: columns of the spectrogram that the network needs on each side.

  Returns:
    spectrogram [k, 2 f + 2 context, bands]; targets [k, f, curves];
    valid [k, f], 0 where the clip has ended; id [k].

  Raises:
    UserError: the record has no sound, or lacks the coefficients that the config names.
  """
  waveform = record.audio.astype(np.float32) / 32768
  if not len(waveform):
    raise UserError(
      f'clip {record.id} has no sound, which the speech encoder learns from: rebuild the corpus without it'
    )
  curves = record_curves(record, config)
  augment, f = config.augment, config.frames
  examples = []
  for _ in range(config.data.examples_per_record):
    speed = (1 + augment.speed) ** generator.uniform(-1, 1)
    # Seconds of the record that the segment's frames cover, and its random start.
    duration = f / FPS * speed
    start = generator.uniform(0, max(0.0, len(curves) / record.fps - duration))
    before = context * mel.HOP / AUDIO_RATE * speed
    sound = _cut(waveform, start - before, duration + 2 * before)
    sound = soxr.resample(sound, AUDIO_RATE * speed, AUDIO_RATE, quality='LQ') if speed != 1 else sound
    sound = augment_sound(sound, generator, augment)
    columns = 2 * f + 2 * context
    sound = np.pad(sound[: columns * mel.HOP], (0, max(0, columns * mel.HOP - len(sound))))
    times = start + (np.arange(f) + 0.5) / FPS * speed
    examples.append(
      {
        'spectrogram': mel.speech_spectrogram(sound, config.bands),
        'targets': curves_at(curves, times, record.fps),
        'valid': (times < len(curves) / record.fps).astype(np.float32),
        'id': record.id,
      }
    )
  return {k: np.stack([e[k] for e in examples]) for k in examples[0]}


def record_curves(record: Record, config) -> np.ndarray:
  """The curves that a record is regressed on, in the order of `curve_names`: float32 [f, n].

  Raises:
    UserError: the record lacks the coefficients that the config names.
  """
  shape = measures.mouth_shape(record.landmarks)
  if config.per_clip:  # faces differ, and their landmarks are noisy: what remains is how the mouth moves
    return (shape - shape.mean(0)) / np.maximum(shape.std(0), 1e-4)
  count = len(config.coefficients)
  if record.coefficients.shape[-1] < count:
    raise UserError(
      f'clip {record.id} has {record.coefficients.shape[-1]} expression coefficients, fewer than the {count} of '
      'config.coefficients: use the size `landmarks`, which needs none'
    )
  return np.concatenate([shape[:, :1] * OPENING_SCALE, record.coefficients[:, :count]], axis=1).astype(np.float32)


def curve_names(config) -> tuple[str, ...]:
  """The names of the curves."""
  return ('opening', 'width', 'protrusion') if config.per_clip else ('opening', *config.coefficients)


def curves_at(curves: np.ndarray, times: np.ndarray, fps: float) -> np.ndarray:
  """Curves [f, n], measured at the middle of each frame, at `times` [k] in seconds: [k, n]; the ends are held."""
  position = times * fps - 0.5
  return np.stack([np.interp(position, np.arange(len(curves)), c) for c in curves.T], axis=1).astype(np.float32)


def augment_sound(sound: np.ndarray, generator: np.random.Generator, settings) -> np.ndarray:
  """A waveform [s] at another gain, and in a share of examples with coloured noise.

  Args:
    sound: float32.
    generator: of this example.
    settings: `gain`, the largest change in dB; `noise`, the share of examples with noise; `snr`, its range in dB below
      the sound's mean power.
  """
  sound = sound * np.float32(10 ** (generator.uniform(-1, 1) * settings.gain / 20))
  if generator.random() >= settings.noise:
    return sound
  # White to brown: the power falls with frequency to the power of 0 to 2.
  spectrum = scipy.fft.rfft(generator.standard_normal(scipy.fft.next_fast_len(len(sound), real=True), np.float32))
  spectrum *= np.maximum(np.arange(len(spectrum), dtype=np.float32), 4) ** np.float32(-generator.uniform(0, 1))
  noise = scipy.fft.irfft(spectrum)[: len(sound)]
  power = np.mean(sound**2) * 10 ** (-generator.uniform(*settings.snr) / 10)
  return sound + noise * np.float32(np.sqrt(power / np.maximum(np.mean(noise**2), 1e-12)))


def _cut(waveform: np.ndarray, start: float, duration: float) -> np.ndarray:
  """`duration` seconds of a waveform from `start` on, silent outside it."""
  first, count = round(start * AUDIO_RATE), round(duration * AUDIO_RATE)
  inside = waveform[max(0, first) : max(0, first + count)]
  before = min(count, max(0, -first))
  return np.pad(inside, (before, count - before - len(inside)))

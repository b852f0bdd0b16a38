"""What emo reads: records as training examples and as inputs of generation (EMO sections 3.2 and 3.3)."""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from talkjax.cli import UserError
from talkjax.faces import landmarks
from talkjax.media import audio
from talkjax.media.picture import to_float
from talkjax.records import AUDIO_RATE, Record

SAMPLES = AUDIO_RATE // 25  # of a frame


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What generation reads, batched over videos of equal length.

  Attributes:
    reference: [b, h, w, 3] float32 in [-1, 1], the portrait.
    region: [b, h, w, 1] float32, 1 where the face may be.
    audio: [b, f, d] float32, what each frame hears; f is the length of the video.
    speed: [b, f] float32, rotation of the head, degrees/s.
    truth: per video its frames, uint8; empty when there is nothing to compare with.
    masks: none: whole frames are generated.
    landmarks: per video [f, 68, 2] in pixels of those frames.
  """

  reference: np.ndarray
  region: np.ndarray
  audio: np.ndarray
  speed: np.ndarray
  truth: Sequence[Sequence[np.ndarray]] = ()
  masks: Sequence[Sequence[np.ndarray]] = ()
  landmarks: Sequence[np.ndarray] = ()


def read(record: Record, generator: np.random.Generator, *, config) -> dict[str, np.ndarray]:
  """Random clips of a record as training examples, `data.examples_per_record` along axis 0.

  Returns:
    target [k, f, h, w, 3] and motion [k, n, h, w, 3], float32 in [-1, 1], the clip and the frames before it; has_motion
    [k] float32, 0 where the clip begins before frame n (and motion is empty); reference [k, h, w, 3], another frame of
    the record, no further than `data.reference_within` from the clip; region [k, h, w, 1]; speed [k, f + 2m], with
    margins on both sides; audio [k, f + 2 (m + context), d], with the context that the encoder of sound wants; id [k].
    Where `mouth_weight` is not 1 also weight of the loss, [k, f, h', w', 1] at the latents' size.
  """
  n, f, m = config.motion_frames if config.frames > 1 else 0, config.frames, config.margin
  reach = m + config.audio.context
  count = len(record.frames)
  if count < f:
    raise UserError(f'clip {record.id} has {count} frames, fewer than config.frames={f}: rebuild the corpus without it')
  sound, speeds = sound_features(record, config), landmarks.head_speed(record.pose, record.fps)
  examples = []
  for _ in range(config.data.examples_per_record):
    start = int(generator.integers(0, count - f + 1))
    within = config.data.reference_within or count
    other = int(generator.integers(max(0, start - within), min(count, start + f + within)))
    has_motion = n > 0 and start >= n
    around = np.arange(start - m, start + f + m)
    clip = np.stack([picture(record, i, config.size) for i in range(start, start + f)])
    before = [picture(record, i, config.size) for i in range(start - n, start)] if has_motion else []
    examples.append(
      {
        'target': to_float(clip),
        'motion': to_float(np.stack(before)) if before else np.zeros((n, *clip.shape[1:]), np.float32),
        'has_motion': np.float32(has_motion),
        'reference': to_float(picture(record, other, config.size)),
        'region': face_region(record, seen_span(start, start + f, count, generator, config), config.size),
        'audio': padded(sound, np.arange(start - reach, start + f + reach), config.audio),
        'speed': speeds[np.clip(around, 0, count - 1)],
        'id': record.id,
      }
    )
    if config.mouth_weight != 1:
      examples[-1]['weight'] = mouth_weights(record, range(start, start + f), config)
  return {k: np.stack([e[k] for e in examples]) for k in examples[0]}


def picture(record: Record, index: int, size: int) -> np.ndarray:
  """A frame as uint8 [size, size, 3]; frames that are not square lose their longer sides' ends."""
  return fit_square(record.frame(index), size)


def fit_square(frame: np.ndarray, size: int) -> np.ndarray:
  """The middle square of a picture, resized: uint8 [h, w, 3] -> uint8 [size, size, 3]."""
  height, width = frame.shape[:2]
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  square = frame[top : top + side, left : left + side]
  if side == size:
    return square
  how = cv2.INTER_AREA if size < side else cv2.INTER_CUBIC
  return cv2.resize(square, (size, size), interpolation=how)


def to_square(points: np.ndarray, shape: tuple[int, int], size: int) -> np.ndarray:
  """Points [..., 2] of a frame of `shape` (h, w) in pixels of `fit_square`'s picture."""
  side = min(shape)
  corner = np.array([(shape[1] - side) // 2, (shape[0] - side) // 2], np.float32)
  return (np.asarray(points, np.float32) - corner) * (size / side)


def face_region(record: Record, frames: Sequence[int], size: int) -> np.ndarray:
  """[size, size, 1] float32, 1 in the union of the face's boxes in `frames` (M of section 3.2)."""
  corners = to_square(record.box[list(frames)].reshape(-1, 2, 2), record.size, size)
  return box_region((*corners[:, 0].min(0), *corners[:, 1].max(0)), size)


def mouth_weights(record: Record, frames: Sequence[int], config) -> np.ndarray:
  """[f, h', w', 1] float32 at the latents' size: `mouth_weight` in twice the lips' box, 1 elsewhere."""
  size = config.size // latent_factor(config.latents)
  lips = to_square(record.landmarks[list(frames), 48:], record.size, size)
  low, high = lips.min(1), lips.max(1)
  middle, half = (low + high) / 2, high - low
  boxes = np.concatenate([np.floor(middle - half), np.ceil(middle + half)], axis=1)
  return 1 + (config.mouth_weight - 1) * np.stack([box_region(box, size) for box in boxes])


def latent_factor(latents) -> int:
  """How many pixels wide a latent is."""
  return latents.patch if latents.kind == 'fold' else 2 ** (len(latents.widths) - 1)


def seen_span(start: int, end: int, count: int, generator: np.random.Generator, config) -> range:
  """The clip's frames and up to `augment.region_frames` more on either side: a region may have room to spare."""
  before, after = generator.integers(0, config.augment.region_frames + 1, size=2)
  return range(max(0, start - int(before)), min(count, end + int(after)))


def box_region(box: Sequence[float], size: int) -> np.ndarray:
  """[size, size, 1] float32, 1 inside x0, y0, x1, y1, given in pixels."""
  x0, y0, x1, y1 = (int(np.clip(round(float(v)), 0, size)) for v in box)
  region = np.zeros((size, size, 1), np.float32)
  region[y0:y1, x0:x1] = 1
  return region


def sound_features(record: Record, config) -> np.ndarray:
  """What each frame of a record hears, [f, d]."""
  if not record.audio.size and config.audio.kind != 'none':
    raise UserError(
      f'clip {record.id} has no sound: this stage learns from sound, name a talking corpus with --config.data.corpus'
    )
  return speech_features(record.audio.astype(np.float32) / 32768, len(record.frames), record.fps, config.audio)


def speech_features(waveform: np.ndarray, count: int, fps: float, settings) -> np.ndarray:
  """What each of `count` frames hears of a 16 kHz waveform: float32 [count, d].

  `settings.kind`: 'mel' (the embedded default), `settings.columns` columns of a log-mel spectrogram of
  `settings.bands` bands over the frame's time; 'wav2vec2', its 640 samples, of the waveform normalised as that encoder
  wants it (which runs in the model); 'none' for stages without sound: one zero.

  Raises:
    UserError: of a kind that is not known, or columns that do not divide a frame.
  """
  if settings.kind == 'wav2vec2':
    start = np.round(np.arange(count) * (AUDIO_RATE / fps)).astype(int)
    waveform = audio.normalised(waveform) if len(waveform) else waveform
    return np.pad(waveform, (0, SAMPLES))[np.minimum(start[:, None], len(waveform)) + np.arange(SAMPLES)]
  if settings.kind not in ('mel', 'none'):
    raise UserError(f'config.audio.kind={settings.kind!r} is not one of mel, wav2vec2, none')
  if settings.kind == 'none':
    return np.zeros((count, 1), np.float32)
  columns = settings.columns
  hop = AUDIO_RATE / (25 * columns)
  if hop != int(hop):
    raise UserError(f'config.audio.columns={columns}: 640 samples a frame do not divide by it')
  power = audio.mel_power(waveform, n_fft=1024, window=512, hop=int(hop), bands=settings.bands)
  decibel = (np.log10(np.maximum(power, 1e-6)) + 3) / 2  # about [-1.5, 1.5] for speech
  centres = (np.arange(count)[:, None] * (25 / fps) * columns + np.arange(columns)).round().astype(int)
  return decibel.T[np.clip(centres, 0, decibel.shape[1] - 1)].reshape(count, -1).astype(np.float32)


def padded(features: np.ndarray, index: np.ndarray, settings) -> np.ndarray:
  """features[index] of [f, d]; where the index lies outside, silence: in a spectrogram the smallest value, else 0."""
  inside = (index >= 0) & (index < len(features))
  taken = features[np.clip(index, 0, len(features) - 1)]
  silence = features.min(initial=0) if settings.kind == 'mel' else 0
  return np.where(inside[:, None], taken, silence).astype(np.float32)


def record_inputs(
  clips: Sequence[Record], *, config, speech: Sequence[Record] | None = None, num_frames: int | None = None
) -> Inputs:
  """Corpus records as inputs: each one's first frame is the portrait, its own sound or another record's drives it.

  Args:
    clips: who is shown.
    config: the system's.
    speech: as many records whose sound is spoken instead; silent after its end.
    num_frames: make only so many frames; by default as many as the longest clip has.
  """
  count = num_frames or max(len(r.frames) for r in clips)
  index = np.arange(count)
  size = config.size
  sounds = [padded(sound_features(voice, config), index, config.audio) for voice in speech or clips]
  speeds = [landmarks.head_speed(c.pose, c.fps)[np.clip(index, 0, len(c.frames) - 1)] for c in clips]
  shown = [range(min(count, len(c.frames))) for c in clips]
  return Inputs(
    reference=to_float(np.stack([picture(c, 0, size) for c in clips])),
    region=np.stack([face_region(c, r, size) for c, r in zip(clips, shown)]),
    audio=np.stack(sounds),
    speed=np.stack(speeds),
    truth=[[picture(c, i, size) for i in r] for c, r in zip(clips, shown)],
    landmarks=[to_square(c.landmarks[: len(r)], c.size, size) for c, r in zip(clips, shown)],
  )

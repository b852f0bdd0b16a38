"""What speech_edit reads: records as training examples and as inputs of generation (sections 3.2 and 3.3)."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.faces import align, mask
from talkjax.media import audio
from talkjax.media.picture import to_float
from talkjax.media.segments import AUDIO_RATE


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What generation reads, batched over videos.

  Attributes:
    identity: [b, h, w, 3] float32 in [-1, 1], the frame that says who speaks.
    frames: one dict per frame of `clean` [b, h, w, 3], `mask` [b, h, w, 1] and `audio` [b, d]; it may be endless.
    truth: per video its aligned frames, uint8; empty when there is nothing to compare with.
    masks: per video and frame of `truth`, [h, w, 1], what is generated.
    landmarks: per video [f, 68, 2] in pixels of the aligned frames.
  """

  identity: np.ndarray
  frames: Iterable[dict[str, np.ndarray]]
  truth: Sequence[Sequence[np.ndarray]] = ()
  masks: Sequence[Sequence[np.ndarray]] = ()
  landmarks: Sequence[np.ndarray] = ()


def read(record: Record, generator: np.random.Generator, *, config) -> dict[str, np.ndarray]:
  """Random frames of a record as training examples, `data.examples_per_record` along axis 0.

  Returns:
    target, previous, identity [k, h, w, 3] float32 in [-1, 1]; mask [k, h, w, 1] float32; audio [k, d]; id [k].
  """
  k, size = config.data.examples_per_record, config.size
  numbers = generator.integers(0, len(record.frames), k)
  transforms = frame_transforms(record, config)
  picture = functools.cache(lambda i: align.crop(record.frame(i), transforms[i], size))
  masks = [jaw_mask(record, transforms, i, config) for i in numbers]
  # Frame 0 has no frame before it: as published it is its own.
  previous = [augment(picture(max(i - 1, 0)), generator, config.augment) for i in numbers]
  return {
    'target': to_float(np.stack([picture(i) for i in numbers])),
    'previous': np.stack(previous),
    'identity': np.repeat(to_float(picture(0))[None], k, 0),
    'mask': np.stack(masks),
    'audio': audio_features(record_mel(record), numbers, record.fps, config.audio),
    'id': np.full(k, record.id),
  }


def frame_transforms(record: Record, config) -> np.ndarray:
  """[f, 2, 3] from pixels of the record's frames to pixels of the network's picture (section 3.3.3)."""
  if config.data.align:
    return align.canonical_transforms(record.landmarks, config.size)
  scale = np.array([[config.size / record.size[1], 0, 0], [0, config.size / record.size[0], 0]], np.float32)
  scale[:, 2] = (np.diag(scale) - 1) / 2  # pixel centres, not corners, are what scales
  return np.repeat(scale[None], len(record.frames), 0)


def jaw_mask(record: Record, transforms: np.ndarray, number: int, config) -> np.ndarray:
  """[h, w, 1] float32, 1 where frame `number` is repainted."""
  points = align.transform_points(record.landmarks[number], transforms[number])
  return mask.jaw_mask(points, config.size, kind=config.mask)


def record_mel(record: Record) -> np.ndarray:
  """The mel spectrogram of a record's sound, [256, t]."""
  waveform = record.audio.astype(np.float32) / 32768
  if not waveform.size:
    raise UserError(
      f'clip {record.id} has no sound: speech_edit trains on talking clips, rebuild the corpus without silent ones'
    )
  return audio.log_mel(waveform, mel_frames(len(waveform)))


def mel_frames(samples: int) -> int:
  """25 fps frames that `samples` of 16 kHz sound last."""
  return max(1, -(-samples * 25 // AUDIO_RATE))


def audio_features(mel: np.ndarray, numbers: np.ndarray, fps: float, settings) -> np.ndarray:
  """[k, 1024], what frames `numbers` of a video hear: 120 ms around each (section 3.2), by time where fps is not 25.

  The dB values are shifted and scaled as the config says (published: neither).
  """
  windows = audio.frame_windows(mel, np.asarray(numbers) * (25 / fps))
  return ((windows + settings.offset) * settings.scale).astype(np.float32)


def augment(picture: np.ndarray, generator: np.random.Generator, settings) -> np.ndarray:
  """The previous frame as training sees it: warped and noised, so that the network learns to trust the identity frame.

  It is the paper's answer (section 4.4) to errors that pile up while frames are made from frames.

  Args:
    picture: uint8 [h, w, 3].
    generator: of this example.
    settings: `warp`, largest displacement as a share of the width, of a smooth 4 x 4 field; `noise`, largest standard
      deviation of Gaussian noise in units of [-1, 1]; both amplitudes are drawn uniformly from 0 up.

  Returns:
    float32 [h, w, 3] in [-1, 1].
  """
  h, w, _ = picture.shape
  if settings.warp:
    field = generator.uniform(-1, 1, (4, 4, 2)) * settings.warp * w * generator.uniform()
    field = cv2.resize(field.astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC)
    grid = np.stack(np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32)), -1)
    picture = cv2.remap(picture, grid + field, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
  x = to_float(picture)
  if settings.noise:
    x += generator.standard_normal(x.shape, np.float32) * np.float32(settings.noise * generator.uniform())
  return np.clip(x, -1, 1, out=x)


def record_inputs(
  clips: Sequence[Record], *, config, speech: Sequence[Record] | None = None, num_frames: int | None = None
) -> Inputs:
  """Corpus records as inputs: each video re-voiced with its own sound, or with that of another record.

  Args:
    clips: the videos.
    config: the system's.
    speech: as many records whose sound is spoken instead; cut or silent after its end.
    num_frames: make only so many frames of each; shorter clips hold their last frame.
  """
  count = num_frames or max(len(r.frames) for r in clips)
  videos = []
  for clip, voice in zip(clips, speech or clips, strict=True):
    number = np.minimum(np.arange(count), len(clip.frames) - 1)
    transforms = frame_transforms(clip, config)
    last = min(count, len(clip.frames))
    pictures = [align.crop(clip.frame(i), transforms[i], config.size) for i in range(last)]
    regions = [jaw_mask(clip, transforms, i, config) for i in range(last)]
    features = audio_features(record_mel(voice), np.arange(count), clip.fps, config.audio)
    points = np.stack([align.transform_points(clip.landmarks[i], transforms[i]) for i in range(last)])
    videos.append((number, pictures, regions, features, points))

  def frames():
    for f in range(count):
      yield {
        'clean': to_float(np.stack([pictures[number[f]] for number, pictures, *_ in videos])),
        'mask': np.stack([regions[number[f]] for number, _, regions, *_ in videos]),
        'audio': np.stack([features[f] for *_, features, _ in videos]),
      }

  return Inputs(
    identity=to_float(np.stack([pictures[0] for _, pictures, *_ in videos])),
    frames=frames(),
    truth=[pictures for _, pictures, *_ in videos],
    masks=[regions for _, _, regions, *_ in videos],
    landmarks=[points for *_, points in videos],
  )

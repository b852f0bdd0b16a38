"""What emo reads: records as training examples and as inputs of generation (EMO sections 3.2 and 3.3)."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from talkjax.cli import UserError
from talkjax.faces import landmarks
from talkjax.media.picture import to_float
from talkjax.records import Record
from talkjax.systems.portraits import face_region, mouth_weights, padded, picture, sound_features, to_square


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
    settings: by name (see `portraits.SETTINGS`), [b] float32: each video's own; the config's where absent.
  """

  reference: np.ndarray
  region: np.ndarray
  audio: np.ndarray
  speed: np.ndarray
  truth: Sequence[Sequence[np.ndarray]] = ()
  masks: Sequence[Sequence[np.ndarray]] = ()
  landmarks: Sequence[np.ndarray] = ()
  settings: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


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


def seen_span(start: int, end: int, count: int, generator: np.random.Generator, config) -> range:
  """The clip's frames and up to `augment.region_frames` more on either side: a region may have room to spare."""
  before, after = generator.integers(0, config.augment.region_frames + 1, size=2)
  return range(max(0, start - int(before)), min(count, end + int(after)))


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

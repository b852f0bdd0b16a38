"""What emo reads: records as training examples and as inputs of generation (EMO sections 3.2 and 3.3)."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.faces import landmarks
from talkjax.media.picture import to_float
from talkjax.nn.wav2vec2 import Wav2Vec2
from talkjax.systems.portraits import (
  face_region,
  frames_of,
  hears_states,
  mouth_weights,
  padded,
  picture,
  sound_features,
  to_square,
)


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
    Where `mouth_weight` is not 1 also weight of the loss, [k, f, h', w', 1] at the latents' size. With
    `data.encoded` pictures are moments of latents (see `portraits.frames_of`), and audio is what wav2vec 2.0 makes of
    the whole clip, [k, f + 2m, layers, d] float16.

  Raises:
    UserError: the record is too short, silent where sound is to be learned, or encoded otherwise than the config says.
  """
  n, f, m = config.motion_frames if config.frames > 1 else 0, config.frames, config.margin
  reach = m + config.audio.context
  count = len(record.frames)
  if count < f:
    raise UserError(f'clip {record.id} has {count} frames, fewer than config.frames={f}: rebuild the corpus without it')
  encoded, speeds = hears_states(record, config), landmarks.head_speed(record.pose, record.fps)
  sound = None if encoded else sound_features(record, config)
  examples = []
  for _ in range(config.data.examples_per_record):
    start = int(generator.integers(0, count - f + 1))
    within = config.data.reference_within or count
    other = int(generator.integers(max(0, start - within), min(count, start + f + within)))
    has_motion = n > 0 and start >= n
    around = np.arange(start - m, start + f + m)
    heard = np.arange(start - reach, start + f + reach)
    clip = frames_of(record, range(start, start + f), config)
    before = np.zeros((n, *clip.shape[1:]), clip.dtype)
    if has_motion:
      before = frames_of(record, range(start - n, start), config)
    examples.append(
      {
        'target': clip,
        'motion': before,
        'has_motion': np.float32(has_motion),
        'reference': frames_of(record, [other], config)[0],
        'region': face_region(record, seen_span(start, start + f, count, generator, config), config.size),
        'audio': states_of(record, around, config) if encoded else padded(sound, heard, config.audio),
        'speed': speeds[np.clip(around, 0, count - 1)],
        'id': record.id,
      }
    )
    if config.mouth_weight != 1:
      examples[-1]['weight'] = mouth_weights(record, range(start, start + f), config)
  return {k: np.stack([e[k] for e in examples]) for k in examples[0]}


def states_of(record: Record, frames: np.ndarray, config) -> np.ndarray:
  """What `model.hear` makes of a whole clip, float16 [f, layers, d]; outside it the first and last states stay."""
  layers = config.audio.encoder.get('layers', Wav2Vec2.layers)
  if record.speech.shape[1] != layers:
    raise UserError(
      f'config.data.encoded={config.data.encoded} has {record.speech.shape[1]} of the {layers} layers of wav2vec 2.0 '
      'that emo hears: encode the corpus with --speech_layers=all --encoded=ANOTHER_NAME'
    )
  # Fifty a second, two in a frame's time.
  index = np.round(frames * (50 / record.fps)).astype(int)[:, None] + np.arange(2)
  states = record.speech[np.clip(index, 0, len(record.speech) - 1)]
  return states.astype(np.float32).mean(1).astype(np.float16)


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

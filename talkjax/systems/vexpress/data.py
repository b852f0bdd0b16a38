"""What vexpress reads: records as training examples and as inputs of generation (V-Express sections 2.2 and 2.4)."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.faces import keypoints
from talkjax.media.picture import to_float
from talkjax.media.segments import AUDIO_RATE
from talkjax.nn.guider import two_a_frame
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
  """What generation reads, for each video of a batch its own length.

  Attributes:
    reference: [b, h, w, 3] float32 in [-1, 1], the portraits.
    keypoints: per video [f, 3, 2] float32 in pixels of its portrait, one of each frame to be made.
    sound: per video its waveform, float32 at 16 kHz, which lasts as long as the frames.
    fps: per video its frames a second.
    truth: per video its frames, uint8; empty when there is nothing to compare with.
    masks: none: whole frames are generated.
    landmarks: per video [f, 68, 2] in pixels of those frames.
    region: [b, h, w, 1] float32, 1 where the face is in the truth.
    settings: by name (see `portraits.SETTINGS`), [b] float32: each video's own; the config's where absent.
  """

  reference: np.ndarray
  keypoints: Sequence[np.ndarray]
  sound: Sequence[np.ndarray]
  fps: Sequence[float]
  truth: Sequence[Sequence[np.ndarray]] = ()
  masks: Sequence[Sequence[np.ndarray]] = ()
  landmarks: Sequence[np.ndarray] = ()
  region: np.ndarray | None = None
  settings: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def read(record: Record, generator: np.random.Generator, *, config) -> dict[str, np.ndarray]:
  """Random clips of a record as training examples, `data.examples_per_record` along axis 0.

  Returns:
    target [k, f, h, w, 3] and reference [k, h, w, 3], float32 in [-1, 1], the clip and another frame of the record, no
    further than `data.reference_within` from it; kps [k, f, h, w, 3] uint8, the V-Kps images; audio
    [k, f + 2 (m + context), d], with a margin of m frames on both sides and the context that the encoder of sound
    wants; id [k]. Where `mouth_weight` is not 1 also weight of the loss, [k, f, h', w', 1] at the latents' size. Of the
    examples a share of `augment.flip` is mirrored. With `data.encoded` pictures are moments of latents (see
    `portraits.frames_of`), and audio is what wav2vec 2.0 makes of the whole clip, [k, f + 2m, 2, d] float16.

  Raises:
    UserError: the record is too short, silent where sound is to be learned, or encoded otherwise than the config says.
  """
  f, reach = config.frames, config.margin + config.audio.context
  count = len(record.frames)
  if count < f:
    raise UserError(f'clip {record.id} has {count} frames, fewer than config.frames={f}: rebuild the corpus without it')
  if len(record.latents) and config.augment.flip:
    raise UserError(
      f'config.augment.flip={config.augment.flip} mirrors pictures, and config.data.encoded={config.data.encoded} has '
      'latents, which cannot be mirrored: set --config.augment.flip=0, or config.data.encoded to nothing'
    )
  encoded = hears_states(record, config)
  if encoded:  # as `windows.listen` does
    reach = config.margin
    sound = two_a_frame(record.speech[:, -1].astype(np.float32), count)
  else:
    sound = sound_features(record, config)
  points = face_points(record, config.size)
  examples = []
  for _ in range(config.data.examples_per_record):
    start = int(generator.integers(0, count - f + 1))
    within = config.data.reference_within or count
    other = int(generator.integers(max(0, start - within), min(count, start + f + within)))
    flip = generator.random() < config.augment.flip
    driven = points[start : start + f]
    example = {
      'target': frames_of(record, range(start, start + f), config),
      'reference': frames_of(record, [other], config)[0],
    }
    if config.mouth_weight != 1:
      example['weight'] = mouth_weights(record, range(start, start + f), config)
    if flip:
      driven = keypoints.mirrored(driven, config.size)
      example = {k: np.ascontiguousarray(v[..., ::-1, :]) for k, v in example.items()}
    example['kps'] = keypoints.draw_all(driven, config.size, config.kps_canvas or config.size)
    heard = padded(sound, np.arange(start - reach, start + f + reach), config.audio)
    example['audio'] = heard.reshape(len(heard), 2, -1).astype(np.float16) if encoded else heard
    examples.append({**example, 'id': record.id})
  return {k: np.stack([e[k] for e in examples]) for k in examples[0]}


def face_points(record: Record, size: int) -> np.ndarray:
  """The three keypoints of every frame of a record, [f, 3, 2], in pixels of its square pictures."""
  return to_square(keypoints.of_landmarks(record.landmarks), record.size, size)


def record_inputs(
  clips: Sequence[Record], *, config, speech: Sequence[Record] | None = None, num_frames: int | None = None
) -> Inputs:
  """Corpus records as inputs: the first frame is the portrait, the record's own keypoints and sound drive it.

  Args:
    clips: who is shown, and how heads move.
    config: the system's.
    speech: as many records whose sound is spoken instead; silent after its end.
    num_frames: make only so many frames; by default as many as each clip has.
  """
  size = config.size
  lengths = [min(num_frames or len(c.frames), len(c.frames)) for c in clips]
  return Inputs(
    reference=to_float(np.stack([picture(c, 0, size) for c in clips])),
    keypoints=[face_points(c, size)[:n] for c, n in zip(clips, lengths)],
    sound=[lasting(v.audio.astype(np.float32) / 32768, n / c.fps) for v, c, n in zip(speech or clips, clips, lengths)],
    fps=[c.fps for c in clips],
    truth=[[picture(c, i, size) for i in range(n)] for c, n in zip(clips, lengths)],
    landmarks=[to_square(c.landmarks[:n], c.size, size) for c, n in zip(clips, lengths)],
    region=np.stack([face_region(c, range(n), size) for c, n in zip(clips, lengths)]),
  )


def lasting(waveform: np.ndarray, seconds: float) -> np.ndarray:
  """A 16 kHz waveform [s] cut, or filled with silence, to so many seconds."""
  samples = round(seconds * AUDIO_RATE)
  return np.pad(waveform[:samples], (0, max(0, samples - len(waveform)))).astype(np.float32)

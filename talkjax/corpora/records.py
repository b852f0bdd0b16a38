"""The record that every corpus builds (see data/README.md), and its conversion to and from array_record.

In memory a record is a `Record`; on disk it is a TFDS example of features that need no TensorFlow. Frames are stored
as encoded images, so that a reader decodes only the frames it needs.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
import tensorflow_datasets as tfds

from talkjax.media.segments import Segment

LANDMARKS = 68  # iBUG 68-point layout, of every record


@dataclasses.dataclass(frozen=True)
class Record:
  """One clip of one talking person. Arrays that a corpus lacks are empty along axis 0, texts are ''."""

  id: str  # unique in the corpus
  speaker: str
  gender: str  # 'male', 'female' or ''
  caption: str
  transcript: str
  fps: float
  frames: tuple[bytes, ...]  # f encoded images (JPEG or PNG), all of the same size; b'' where only their number is read
  size: tuple[int, int]  # h, w of the frames
  audio: np.ndarray  # [s] int16, 16 kHz mono; sample 0 is at the start of frame 0
  box: np.ndarray  # [f, 4] float32, the face: x0, y0, x1, y1 in pixels of the frame
  landmarks: np.ndarray  # [f, 68, 2] float32, x, y in pixels of the frame
  pose: np.ndarray  # [f, 3] float32, yaw, pitch, roll of the head in degrees
  num_faces: int = 1  # most faces visible at once in the source; the record is of the largest
  coefficients: np.ndarray = dataclasses.field(
    default_factory=lambda: np.zeros((0, 0), np.float32)
  )  # [f, k] expression
  words: tuple[Segment, ...] = ()
  phonemes: tuple[Segment, ...] = ()
  attributes: dict[str, str] = dataclasses.field(default_factory=dict)  # specific to the corpus (emotion, level, ...)
  # Cached features by name (`talkjax.corpora.feature_cache`), not part of the record on disk. float16: `latents`
  # [f, h', w', 2 c], `speech` [n, layers, d], `coefficients` [f, k].
  features: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

  def frame(self, index: int) -> np.ndarray:
    """Frame `index` as uint8 [h, w, 3] RGB."""
    return decode_picture(self.frames[index])


def without_frames(record: Record) -> Record:
  """The record with b'' for each frame."""
  return dataclasses.replace(record, frames=(b'',) * len(record.frames))


def encode_picture(rgb: np.ndarray, quality: int = 95) -> bytes:
  """uint8 [h, w, 3] RGB -> JPEG bytes without chroma subsampling (lips are small and red)."""
  flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
  ok, data = cv2.imencode('.jpg', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), flags)
  assert ok
  return data.tobytes()


def decode_picture(data: bytes) -> np.ndarray:
  """Encoded image -> uint8 [h, w, 3] RGB."""
  return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def features() -> tfds.features.FeaturesDict:
  """The TFDS features of a record; the same for every corpus."""
  text, tensor = tfds.features.Text, tfds.features.Tensor
  segments = tfds.features.Sequence({'text': text(), 'start': np.float32, 'end': np.float32})
  return tfds.features.FeaturesDict(
    {
      'id': text(),
      'speaker': text(),
      'gender': text(),
      'caption': text(),
      'transcript': text(),
      'fps': np.float32,
      'frames': tfds.features.Sequence(text()),
      'size': tensor(shape=(2,), dtype=np.int32),
      'audio': text(),  # bytes of 16-bit little-endian samples, which read ten times faster than a list of numbers
      'box': tensor(shape=(None, 4), dtype=np.float32),
      'landmarks': tensor(shape=(None, LANDMARKS, 2), dtype=np.float32),
      'pose': tensor(shape=(None, 3), dtype=np.float32),
      'num_faces': np.int32,
      'coefficients': tensor(
        shape=(None,), dtype=np.float32
      ),  # flattened, because TFDS stores only one unknown axis plainly
      'words': segments,
      'phonemes': segments,
      'attributes': tfds.features.Sequence({'name': text(), 'value': text()}),
    }
  )


def to_example(record: Record) -> dict:
  """A record as the dict that a TFDS builder yields."""
  example = {f.name: getattr(record, f.name) for f in dataclasses.fields(Record) if f.name != 'features'}
  example['frames'] = list(record.frames)
  example['audio'] = record.audio.astype('<i2').tobytes()
  example['size'] = np.asarray(record.size, np.int32)
  example['coefficients'] = record.coefficients.ravel()
  for name in ('words', 'phonemes'):
    example[name] = [dataclasses.asdict(s) for s in getattr(record, name)]
  example['attributes'] = [{'name': k, 'value': v} for k, v in sorted(record.attributes.items())]
  return example


def from_example(example: dict) -> Record:
  """A record from one element of a TFDS data source (the inverse of `to_example`)."""
  values = dict(example)
  for name in ('id', 'speaker', 'gender', 'caption', 'transcript'):
    values[name] = _text(example[name])
  values['fps'] = float(example['fps'])
  values['num_faces'] = int(example['num_faces'])
  values['frames'] = tuple(bytes(f) for f in example['frames'])
  values['audio'] = np.frombuffer(example['audio'], '<i2').astype(np.int16)
  values['size'] = tuple(int(n) for n in example['size'])
  flat = example['coefficients']
  values['coefficients'] = flat.reshape(len(values['frames']), -1) if flat.size else np.zeros((0, 0), np.float32)
  for name in ('words', 'phonemes'):
    values[name] = tuple(
      Segment(_text(t), float(a), float(b)) for t, a, b in _columns(example[name], ('text', 'start', 'end'))
    )
  values['attributes'] = {_text(k): _text(v) for k, v in _columns(example['attributes'], ('name', 'value'))}
  return Record(**values)


def _columns(segments, names: Sequence[str]):
  # TFDS returns a sequence of dicts as a dict of sequences.
  return zip(*(segments[n] for n in names), strict=True)


def _text(value) -> str:
  return value.decode() if isinstance(value, bytes) else str(value)

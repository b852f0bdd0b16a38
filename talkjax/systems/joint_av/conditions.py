"""What joint_av generates from: corpus records, or texts, recordings, captions and portraits."""

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UsageError
from talkjax.media import audio, picture
from talkjax.media.segments import AUDIO_RATE
from talkjax.metrics.suites import Truth
from talkjax.systems import FileBatch, RecordBatch, Request, Video
from talkjax.systems.joint import label_of
from talkjax.systems.portrait import conditions as portraits
from talkjax.systems.portrait import framing


@dataclasses.dataclass(frozen=True)
class Conditions:
  """What generation starts from; each video of a batch has its own length.

  Attributes:
    captions: per video its label, see `joint.label_of`.
    sound: per video its speech, float32 [s] of 16 kHz, or None: generated.
    portraits: per video uint8 [h, w, 3] cropped to the face, or None: generated.
    lengths: frames of each video.
  """

  captions: tuple[int, ...]
  sound: Sequence[np.ndarray | None]
  portraits: Sequence[np.ndarray | None]
  lengths: tuple[int, ...]


def from_records(
  clips: Sequence[Record],
  *,
  config,
  space,
  speech: Sequence[Record] | None = None,
  num_frames: int | None = None,
  settings: Mapping[str, Sequence[float]] | None = None,
) -> RecordBatch:
  """Records as conditions: their captions and lengths; with `evaluation.speech` their sound and portraits too.

  Args:
    clips: who is shown.
    config: the system's.
    space: of the samples.
    speech: as many records whose sound is used instead.
    num_frames: longest length of the videos; by default that of each clip.
    settings: none can be swept.

  Raises:
    UserError: there is no renderer.
  """
  from talkjax.systems.joint_av import generation

  del settings
  size = config.space.size
  seconds = [len(c.frames) / c.fps for c in clips]
  lengths = tuple(min(num_frames or 10**9, math.floor(s * space.fps + 1e-6)) for s in seconds)
  spoken = config.evaluation.speech == 'record'
  voices = [v.audio.astype(np.float32) / 32768 if spoken else None for v in speech or clips]
  conditions = Conditions(
    captions=tuple(label_of(c.caption, config.captions, f'clip {c.id}') for c in clips),
    sound=voices,
    portraits=[framing.of_record(c).picture(c.frame(0), size) if spoken else None for c in clips],
    lengths=lengths,
  )
  side, crop = generation.output_frame(config)
  return RecordBatch(conditions, tuple(_truth(c, n, space.fps, side, crop) for c, n in zip(clips, lengths)))


def _truth(clip: Record, count: int, fps: float, size: int, crop: float) -> Truth:
  """The first `count` frames of a record at another frame rate, framed as those that are generated."""
  numbers = np.clip(((np.arange(count) + 0.5) / fps * clip.fps).astype(int), 0, len(clip.frames) - 1)
  window = framing.of_record(clip, crop)
  frames = [window.picture(clip.frame(int(i)), size) for i in numbers]
  return Truth(frames, window.points(clip.landmarks[numbers], size))


def from_files(params, request: Request, *, config, space) -> list[FileBatch]:
  """The video of a text, a recording, a caption, a portrait, or nothing.

  Raises:
    UsageError: options contradict each other.
    UserError: the text cannot be spoken, the caption is unknown, or a file cannot be read.
  """
  del params
  inputs = request.inputs
  label = label_of(inputs.get('caption', ''), config.captions, f'--caption={inputs.get("caption", "")}')
  sound = read_speech(inputs, config)
  if sound is None:
    length = round(inputs['seconds'] * space.fps) if 'seconds' in inputs else space.frames
  else:
    if 'seconds' in inputs:
      raise UsageError('--seconds is the length of a video without speech: leave it out, or --text and --audio')
    length = math.ceil(len(sound) / AUDIO_RATE * space.fps - 1e-3)
  portrait = None
  if 'image' in inputs:
    portrait = portraits.crop_portrait(picture.read(inputs['image']), config.space.size, inputs['image']).image
  conditions = Conditions(
    captions=(label,),
    sound=[sound],
    portraits=[portrait],
    lengths=(max(1, length),),
  )
  from talkjax.systems.joint_av import generation

  side, _ = generation.output_frame(config)
  video = Video(request.output, conditions.lengths[0], space.fps, (side, side))
  return [FileBatch((video,), 1, lambda: conditions)]


def read_speech(inputs: Mapping[str, str], config) -> np.ndarray | None:
  """The speech that is asked for, float32 [s] of 16 kHz, or None.

  Raises:
    UsageError: both text and a recording are given.
    UserError: the text cannot be spoken, or the recording cannot be read.
  """
  if 'text' in inputs and 'audio' in inputs:
    raise UsageError('--text and --audio: both say what is heard: leave one out')
  if 'audio' in inputs:
    return audio.read_audio(inputs['audio'])
  if 'text' not in inputs:
    return None
  from talkjax.media import text_to_speech

  text = inputs['text']
  # Without a caption the voice is any, the same for the same text (section IV.F).
  gender = text_to_speech.gender_of(inputs.get('caption', ''))
  engine = inputs.get('speech_engine', 'espeak')
  return text_to_speech.speak_text(
    text, gender=gender, seed=zlib.crc32(text.encode(errors='surrogatepass')), engine=engine
  )

"""What systems around a portrait read and write: square pictures and their faces, what each frame hears, videos."""

import collections
import contextlib
import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UsageError, UserError
from talkjax.faces import landmarks
from talkjax.media import audio, video
from talkjax.media import picture as pictures
from talkjax.media.segments import AUDIO_RATE

SAMPLES = AUDIO_RATE // 25  # of a frame
SETTINGS = ('guidance', 'reference_weight', 'audio_weight')  # that each video of a batch can have its own of


class Job(NamedTuple):
  """A video to be made: its portrait, its voice, and its value of the setting that is swept."""

  image: str
  voice: str
  value: float | None = None


def picture(record: Record, index: int, size: int) -> np.ndarray:
  """A frame as uint8 [size, size, 3]; frames that are not square lose their longer sides' ends."""
  return pictures.fit_square(record.frame(index), size)


def frames_of(record: Record, frames: Sequence[int], config) -> np.ndarray:
  """Frames of a record as training sees them.

  Returns:
    float32 [f, size, size, 3] in [-1, 1]; where the record has its latents (`config.data.encoded`) their moments
    instead, float16 [f, h', w', 2c], see `backbone.encode`.

  Raises:
    UserError: the latents are not of pictures as the config has them.
  """
  if not len(record.latents):
    return pictures.to_float(np.stack([picture(record, i, config.size) for i in frames]))
  where = f'config.data.encoded={config.data.encoded}'
  if config.latents.kind != 'vae':
    raise UserError(
      f'{where} has latents of an autoencoder, and config.latents.kind is {config.latents.kind!r}: set that to vae, or '
      'config.data.encoded to nothing'
    )
  if (size := record.latents.shape[1] * latent_factor(config.latents)) != config.size:
    raise UserError(
      f'{where} has latents of {size} x {size} pixels, and config.size is {config.size}: encode the corpus with '
      f'--size={config.size} --encoded=ANOTHER_NAME'
    )
  return record.latents[list(frames)]


def hears_states(record: Record, config) -> bool:
  """Whether the record has wav2vec 2.0's states, so that training reads them instead of samples."""
  return config.audio.kind == 'wav2vec2' and len(record.speech) > 0


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
  centres = (np.arange(count)[:, None] * (25 / fps) * columns + np.arange(columns)).round().astype(int)
  columns = _loudness(power).T
  return columns[np.clip(centres, 0, len(columns) - 1)].reshape(count, -1).astype(np.float32)


def silence(settings) -> float:
  """What `speech_features` are where there is no sound at all."""
  return _loudness(0.0) if settings.kind == 'mel' else 0.0


def _loudness(power: np.ndarray) -> np.ndarray:
  """Logarithms of mel power, about [-1.5, 1.5] for speech."""
  return (np.log10(np.maximum(power, 1e-6)) + 3) / 2


def padded(features: np.ndarray, index: np.ndarray, settings) -> np.ndarray:
  """features[index] of [f, d]; where the index lies outside, silence: in a spectrogram the smallest value, else 0."""
  inside = (index >= 0) & (index < len(features))
  taken = features[np.clip(index, 0, len(features) - 1)]
  silence = features.min(initial=0) if settings.kind == 'mel' else 0
  return np.where(inside[:, None], taken, silence).astype(np.float32)


def take(request, system: str, options: Sequence[str], settings: Sequence[str] = SETTINGS) -> dict[Job, str]:
  """The videos that a request (`talkjax.systems.Request`) asks a system for, and the file of each.

  Several lie in `output`, a folder, as PORTRAIT_VOICE.mp4; of a sweep as PORTRAIT_VOICE_SETTING=VALUE.mp4.

  Args:
    request: with a portrait and a voice or more.
    system: its name.
    options: that it takes beside these and `batch_size` and `sweep`.
    settings: that it can sweep.

  Raises:
    UsageError: something is missing or not for this system; two videos would be one file, or several lie in an .mp4.
  """
  request.takes(system, ('image', 'audio'), (*options, 'batch_size', 'sweep'))
  if request.batch_size is not None and request.batch_size < 1:
    raise UsageError(f'--batch_size={request.batch_size}: expected 1 or more')
  setting, values = request.sweep or (None, (None,))
  if request.sweep and setting not in settings:
    raise UsageError(f'--sweep={setting}: {system} sweeps one of {", ".join(settings)}')
  jobs = list(
    itertools.starmap(Job, itertools.product(dict.fromkeys(request.image), dict.fromkeys(request.audio), values))
  )
  if len(jobs) == 1:
    return {jobs[0]: request.output}
  if request.output.endswith('.mp4'):
    raise UsageError(f'--output={request.output}: {len(jobs)} videos are asked for: name a folder for them')
  names = {}
  for job in jobs:
    value = '' if job.value is None else f'_{setting}={job.value:g}'
    names[job] = f'{pathlib.Path(job.image).stem}_{pathlib.Path(job.voice).stem}{value}.mp4'
  count = collections.Counter(names.values())
  if twice := [name for name, n in count.items() if n > 1]:
    raise UsageError(f'--output={request.output}: two videos would be called {twice[0]}: rename an input')
  return {job: str(pathlib.Path(request.output) / name) for job, name in names.items()}


def with_setting(inputs, setting: str, values: np.ndarray):
  """Inputs of a system around a portrait whose videos have these values [b] of one of SETTINGS, or of `speed`."""
  values = np.asarray(values, np.float32)
  if setting == 'speed':
    return dataclasses.replace(inputs, speed=np.broadcast_to(values[:, None], inputs.speed.shape).copy())
  return dataclasses.replace(inputs, settings={**inputs.settings, setting: values})


def square_portrait(path: str, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """A portrait of any size, cut to a square around the face that is as large as the picture has room for.

  Returns:
    uint8 [size, size, 3], the face's box x0, y0, x1, y1 [4] and its landmarks [68, 2] in pixels of that.
  """
  shown = pictures.read(path)
  track = landmarks.find_faces([shown], name=path)
  x0, y0, x1, y1 = (float(v) for v in track.box[0])
  height, width = shown.shape[:2]
  side = min(height, width)
  corner = np.array(
    [int(np.clip((x0 + x1 - side) / 2, 0, width - side)), int(np.clip((y0 + y1 - side) / 2, 0, height - side))]
  )
  left, top = corner
  square = pictures.fit_square(np.ascontiguousarray(shown[top : top + side, left : left + side]), size)
  box = ((track.box[0].reshape(2, 2) - corner) * (size / side)).reshape(4)
  return square, box, (track.landmarks[0] - corner) * np.float32(size / side)


def write_videos(
  files: Mapping[str, tuple[str, int]],
  frames: Iterable[np.ndarray],
  fps: float,
  size: int,
  metadata: Mapping[str, str] | None,
  written: Callable[[int], None] = lambda number: None,
) -> None:
  """Writes a batch of videos as its frames come, each to its own length.

  Args:
    files: by path, in the batch's order, the file of its sound and how many frames it has.
    frames: uint8 [b, size, size, 3], one after the other.
    fps: frames a second.
    size: of the squares.
    metadata: of the files.
    written: called with the number of each frame that has been written.
  """
  with contextlib.ExitStack() as stack:
    writers = []
    for path, (voice, length) in files.items():
      sound, rate = audio.read_audio_native(voice)
      writer = video.VideoWriter(path, fps, (size, size), sound, rate, metadata)
      writers.append((stack.enter_context(writer), length))
    for number, made in enumerate(frames):
      for (writer, length), picture in zip(writers, made):
        if number < length:
          writer.write(picture)
      written(number)

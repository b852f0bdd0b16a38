"""A workdir that generates: from files or arrays, to files or arrays. `talkjax.load` returns a `Pipeline`."""

import contextlib
import dataclasses
import functools
import json
import numbers
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
import tqdm
from scipy.io import wavfile

from talkjax import options, systems
from talkjax.errors import UsageError, UserError
from talkjax.media import audio, picture, video
from talkjax.media.segments import AUDIO_RATE
from talkjax.options import Option
from talkjax.training import checkpoint, sharding
from talkjax.training.workdir import read_config

_KINDS = {int: numbers.Integral, float: numbers.Real, bool: (bool, np.bool_), str: str}


@dataclasses.dataclass(frozen=True)
class Result:
  """A generated video in memory.

  Attributes:
    frames: uint8 [f, h, w, 3].
    fps: frames per second.
    sound: float32 [s] or [s, channels] in [-1, 1], or None.
    sound_rate: samples per second.
  """

  frames: np.ndarray
  fps: float
  sound: np.ndarray | None
  sound_rate: int


class Pipeline:
  """A trained or converted workdir. Its weights are read when it first generates.

  Args:
    workdir: of talkjax.train or talkjax.convert.
    weights: 'ema', the averaged ones, or 'params', the last raw ones.

  Attributes:
    config: of the workdir.
    options: by name, what `generate` and `write` accept, as listed by `python -m talkjax.generate --help`.

  Raises:
    UserError: it is not a workdir, or its system is unknown.
  """

  def __init__(self, workdir: str | os.PathLike, weights: str = 'ema'):
    self.workdir, self.weights = os.fspath(workdir), weights
    self.config = read_config(workdir)
    self.options = {option.name: option for option in systems.module(self.config.system).OPTIONS}
    self._systems: dict[str, systems.System] = {}  # by config: each keeps what it has compiled

  def generate(self, *, seed: int = 0, **inputs: Any) -> Result:
    """Generates one video.

    Args:
      seed: of the noise: the same seed gives the same video.
      **inputs: the options of the system by name: `audio='speech.wav'`, `steps=10`. Where an option names a file, an
        array can be given: uint8 [h, w, 3] for a picture, (samples [s] or [s, channels] in [-1, 1], rate) for sound,
        (uint8 [f, h, w, 3], fps) for a video, [f, 3, 2] for keypoints.

    Raises:
      UsageError: an option that the system does not have, a value of another type, or a missing input.
      UserError: a file cannot be read, no face is found, the workdir has no checkpoint, or its system makes no video.
    """
    written = []

    def remember(file: systems.Video) -> _Memory:
      written.append(_Memory(file))
      return written[-1]

    with tempfile.TemporaryDirectory() as folder:
      inputs = {name: _as_file(name, value, pathlib.Path(folder)) for name, value in inputs.items()}
      several = {name for name, option in self.options.items() if option.several}
      inputs = {name: (value,) if name in several else value for name, value in inputs.items()}
      _, system, inputs = self._prepare(inputs)
      generate(system, self._checkpoint[0], systems.Request('', inputs), seed, remember)
    return written[0].result()

  def write(
    self, output: str, *, seed: int = 0, sweep: tuple[str, tuple[float, ...]] | None = None,
    batch_size: int | None = None, **inputs: Any,
  ) -> dict[str, int]:  # fmt: skip
    """Generates video files, frame by frame, so that memory does not grow with their length.

    Args:
      output: the MP4 to write; the folder of several videos.
      seed: as of `generate`.
      sweep: an option and its values: a video for each.
      batch_size: videos generated together.
      **inputs: the options of the system by name; files of options that can be several are tuples.

    Returns:
      The number of frames of each video, by its path.

    Raises:
      UsageError, UserError: as `generate`; or a file cannot be written.
    """
    config, system, inputs = self._prepare(inputs)
    params, step = self._checkpoint
    open_file = functools.partial(_open, metadata=provenance(config, step, seed))
    return generate(system, params, systems.Request(output, inputs, sweep, batch_size), seed, open_file)

  def _prepare(self, inputs: Mapping[str, Any]) -> tuple[ml_collections.ConfigDict, systems.System, dict[str, Any]]:
    """Checks options; returns the config with those that have a key, its system, and the others."""
    if self._system(self.config).generate is None:
      raise UserError(f'{self.workdir} makes no video: {self.config.system} only helps other systems')
    for name in inputs.keys() & self.options.keys():
      _check_kind(self.options[name], inputs[name])
    declared = tuple(self.options.values())
    options.check(self.config.system, declared, inputs)
    config, inputs = options.apply(self.config, declared, inputs)
    return config, self._system(config), inputs

  def _system(self, config: ml_collections.ConfigDict) -> systems.System:
    key = config.to_json()
    if key not in self._systems:
      self._systems[key] = systems.build(config)
    return self._systems[key]

  @functools.cached_property
  def _checkpoint(self) -> tuple[Any, int]:
    """(parameters, step)."""
    return checkpoint.load_params(self.workdir, self.weights)[1:]


def provenance(config: ml_collections.ConfigDict, step: int, seed: int) -> dict[str, str]:
  """Metadata of every generated file: that it is generated, and by what."""
  about = {
    'generated': True,
    'generator': 'talkjax',
    'system': config.system,
    'step': step,
    'seed': seed,
    'config': json.loads(config.to_json()),
  }
  return {'title': 'Generated by talkjax: not a recording', 'comment': json.dumps(about)}


def generate(
  system: systems.System, params, request: systems.Request, seed: int = 0, open_file: Callable | None = None
) -> dict[str, int]:
  """Generates what a request asks for and writes it.

  Frames are written as they are generated, so memory does not grow with the length. Every video has the same seed, so
  that it does not depend on the others.

  Args:
    system, params: what was trained.
    request: checked and read before the first video is generated.
    seed: of the noise.
    open_file: a `systems.Video` -> the context manager that its frames are written to; by default its file.

  Returns:
    the number of frames of each video, by its path.

  Raises:
    UsageError, UserError: the request lacks something, or a file cannot be read or written.
  """
  batches = system.from_files(params, request)
  params = sharding.replicate(params)
  lengths = [v.num_frames and v.num_frames / v.fps for batch in batches for v in batch.videos]
  counts = {}
  with tqdm.tqdm(total=None if None in lengths else round(sum(lengths), 2), unit='s of video') as bar:
    for batch in batches:
      seeds = np.full(batch.size, seed, np.uint32)
      counts |= _write(system, params, batch, seeds, open_file or _open, _Progress(bar, batch))
  return counts


def _write(system, params, batch: systems.FileBatch, seeds, open_file, progress: '_Progress') -> dict[str, int]:
  """Generates one batch; returns the number of frames of each of its videos."""
  counts, conditions = [0] * len(batch.videos), batch.conditions()
  with contextlib.ExitStack() as stack:
    writers = [stack.enter_context(open_file(file)) for file in batch.videos]
    for chunk in system.generate(params, conditions, seeds, progress.fraction):
      for i, (file, writer) in enumerate(zip(batch.videos, writers)):
        if file.sound is None and chunk.sound is not None:
          writer.append_audio(chunk.sound[i], chunk.sound_rate)
        wanted = chunk.frames.shape[1] if file.num_frames is None else max(0, file.num_frames - counts[i])
        for frame in chunk.frames[i, :wanted]:
          writer.write(file.compose(frame))
          counts[i] += 1
      progress.written(counts)
  return {file.path: count for file, count in zip(batch.videos, counts)}


def _open(file: systems.Video, metadata: Mapping[str, str] | None = None) -> video.VideoWriter:
  sound = audio.read_audio_native(file.sound) if file.sound else (None, AUDIO_RATE)
  return video.VideoWriter(file.path, file.fps, file.size, *sound, metadata, pixel_aspect=file.pixel_aspect)


class _Memory(contextlib.nullcontext):
  """Takes the frames and the sound of a video in place of its file."""

  def __init__(self, file: systems.Video):
    super().__init__(self)
    self._file, self._frames, self._sound, self._rate = file, [], [], AUDIO_RATE
    if file.sound:
      sound, self._rate = audio.read_audio_native(file.sound)
      self._sound = [sound]

  def write(self, frame: np.ndarray) -> None:
    self._frames.append(np.array(frame))

  def append_audio(self, samples: np.ndarray, rate: int) -> None:
    self._sound.append(samples)
    self._rate = rate

  def result(self) -> Result:
    sound = np.concatenate(self._sound) if self._sound else None
    return Result(np.stack(self._frames), self._file.fps, sound, self._rate)


class _Progress:
  """Moves the bar by what is generated of a batch: a fraction that the system reports, or the frames written."""

  def __init__(self, bar: tqdm.tqdm, batch: systems.FileBatch):
    self._bar, self._batch, self._start, self._done = bar, batch, bar.n, 0.0

  def fraction(self, value: float) -> None:
    self._move(value * sum((v.num_frames or 0) / v.fps for v in self._batch.videos))

  def written(self, counts: Sequence[int]) -> None:
    self._move(sum(count / v.fps for count, v in zip(counts, self._batch.videos)))

  def _move(self, seconds: float) -> None:
    if seconds > self._done:
      self._done = seconds
      n = round(self._start + seconds, 2)
      self._bar.n = n if self._bar.total is None else min(n, self._bar.total)  # rounded parts may exceed the whole
      self._bar.update(0)


def _check_kind(option: Option, value: Any) -> None:
  values = value if option.several and isinstance(value, tuple) else (value,)
  for each in values:
    if not isinstance(each, _KINDS[option.kind]) or (isinstance(each, bool) and option.kind is not bool):
      raise UsageError(f'{option.name}={each!r}: expected a value of type {option.kind.__name__}')


def _as_file(name: str, value: Any, folder: pathlib.Path) -> Any:
  """The path of a file that holds an array; paths become strings, and other values stay as they are.

  Raises:
    UsageError: the array is none of those that `Pipeline.generate` accepts.
  """
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  values, rate = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
  if not isinstance(values, np.ndarray):
    return value
  shape, path = values.shape, str(folder / name)
  if rate is None and values.dtype == np.uint8 and values.ndim == 3 and shape[2] == 3:
    picture.write(path + '.png', values)
    return path + '.png'
  if rate is None and values.ndim == 3 and shape[1] >= 3 and shape[2] == 2:
    np.save(path + '.npy', values)
    return path + '.npy'
  if rate is not None and values.dtype.kind == 'f' and values.ndim in (1, 2) and len(values):
    wavfile.write(path + '.wav', int(rate), values.astype(np.float32))
    return path + '.wav'
  if rate is not None and values.dtype == np.uint8 and values.ndim == 4 and shape[3] == 3 and len(values):
    with video.VideoWriter(path + '.mp4', rate, shape[1:3], crf=0) as writer:
      for frame in values:
        writer.write(frame)
    return path + '.mp4'
  raise UsageError(
    f'{name}: {values.dtype} {list(shape)} is not accepted: expected a file, uint8 [h, w, 3], (float [samples], rate), '
    '(uint8 [frames, h, w, 3], fps) or keypoints [frames, 3, 2]'
  )

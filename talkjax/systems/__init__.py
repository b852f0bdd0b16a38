"""The systems, one package per paper; what portrait systems share is in `portrait`.

A system is a value, not a base class: see `System`.
"""

import contextlib
import dataclasses
import fractions
import importlib
import itertools
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from flax.errors import FlaxError

from talkjax.errors import UserError
from talkjax.metrics.suites import Generated, Suite, Truth
from talkjax.options import Option
from talkjax.weights.speech import Encoder

# What Python, NumPy, JAX and Flax raise for numbers that do not go together.
CONTRADICTIONS = (
  *(LookupError, AttributeError, TypeError, ValueError, ArithmeticError, MemoryError),
  *(FlaxError, re.error),
)
LACKING = (AttributeError, KeyError)  # for what a config lacks
SHARED = ('portrait', 'joint')  # packages here that are no systems


@dataclasses.dataclass(frozen=True)
class Chunk:
  """Consecutive frames, sound or both, of every video of a batch.

  Attributes:
    frames: uint8 [b, f, h, w, 3], or None.
    sound: float32 [b, s] in [-1, 1], or None.
    fps: frames per second.
    sound_rate: samples per second.
    seams: for each video the frames of this chunk at which a separately generated clip begins, other than the first.
  """

  frames: np.ndarray | None = None
  sound: np.ndarray | None = None
  fps: float = dataclasses.field(kw_only=True)
  sound_rate: int = 16_000
  seams: tuple[tuple[int, ...], ...] = ()


def join(chunks: Iterable[Chunk]) -> Chunk:
  """All chunks of a generation as one."""
  chunks = list(chunks)
  lengths = [0 if c.frames is None else c.frames.shape[1] for c in chunks]
  starts = np.cumsum([0, *lengths]).tolist()
  concatenate = lambda parts: None if parts[0] is None else np.concatenate(parts, axis=1)
  seams = zip(*([[start + seam for seam in own] for own in c.seams] for start, c in zip(starts, chunks) if c.seams))
  return dataclasses.replace(
    chunks[0],
    frames=concatenate([c.frames for c in chunks]),
    sound=concatenate([c.sound for c in chunks]),
    seams=tuple(tuple(itertools.chain(*own)) for own in seams),
  )


@dataclasses.dataclass(frozen=True)
class RecordBatch:
  """Conditions made from corpus records, and for each its truth."""

  conditions: Any
  truth: tuple[Truth, ...]


@dataclasses.dataclass(frozen=True)
class Video:
  """A video file to be written, or a picture.

  Attributes:
    path: of the file; a picture (.png) has one frame and no sound.
    num_frames: its length; None: as long as what is generated.
    fps: frames per second.
    size: (h, w) of its frames.
    sound: a file whose sound it gets; None: the generated sound, if any.
    pixel_aspect: width over height of a pixel.
    compose: a generated frame -> the frame that is written; called once per frame, in order.
  """

  path: str
  num_frames: int | None
  fps: float
  size: tuple[int, int]
  sound: str | None = None
  pixel_aspect: fractions.Fraction = fractions.Fraction(1)
  compose: Callable[[np.ndarray], np.ndarray] = lambda frame: frame


@dataclasses.dataclass(frozen=True)
class FileBatch:
  """Videos that are generated together; a batch may have more entries than videos (padding)."""

  videos: tuple[Video, ...]
  size: int
  conditions: Callable[[], Any]  # called when the batch's turn comes; reads nothing that can be missing


@dataclasses.dataclass(frozen=True)
class Request:
  """What a user asks `talkjax.generate` for.

  Attributes:
    output: the video file (or picture); a folder where there are several videos.
    inputs: values of the system's options that have no config key, by name; files of `several` are tuples.
    sweep: an option and its values: one video for each.
    batch_size: videos generated together; None: the system's choice.
    overwrite: whether files that talkjax did not write may be replaced.
  """

  output: str
  inputs: Mapping[str, Any]
  sweep: tuple[str, tuple[float, ...]] | None = None
  batch_size: int | None = None
  overwrite: bool = False


@dataclasses.dataclass(frozen=True)
class System:
  """What the commands ask of a system. Helpers that generate nothing leave the optional fields out.

  Attributes:
    read: `(record, generator) -> example`: numpy arrays with training examples along axis 0; `id` names the clip.
    init: `(rng, batch) -> params`.
    loss: `(params, batch, rng, train) -> (loss, metrics)`.
    generate: `(params, conditions, seeds, progress=None) -> chunks`, compiled once per shape and never per length.
      It runs on the devices where the parameters are. `progress` is called with the fraction done, by systems whose
      chunks come late.
    from_records: `(records, speech=None, num_frames=None, settings={}) -> RecordBatch`: the conditions of corpus
      records. `speech` are the records whose sound is used instead; `settings` are values [b] of sweepable options.
      Systems with `oracle` also take `oracle=False`.
    pictures: `from_files` can also ask for pictures, see `Video`.
    true_conditions: what `from_records` always takes from the true video, besides portrait and sound.
    oracle: what it takes from the true video only with `oracle=True`; by default it is as `generate` has it.
    from_files: `(params, request) -> batches`: checks and reads all files of a request before the first is generated.
    options: what a user can give `generate`, `evaluate` and sweeps.
    scores: suites of `talkjax.metrics.suites` that say whether it works.
    frozen: branches of the parameters that never train: pretrained encoders.
    load: pretrained networks that it needs with this config, in the form of `config.load`, to which they are added.
    precompute: `caches -> caches`: feature caches of what an earlier stage predicts, which are written where they are
      missing, given those of `features` and `encoder`; or None.
    encoder: the speech encoder whose cached states `read` needs, or None.
    features: other cached features that `read` needs: `coefficients`, with whose morphable model's arrays training
      fills the frozen branch `morphable`.
    collect: `records -> arrays by path`: what is measured once on the training split (of the first corpus) and kept in
      a frozen branch.
    predict: of helpers that generate nothing: `(params, records, speech=None) -> (truths, predictions)`, which the
      suites compare.
    renderer: of a system that draws motion: `(params, portraits) -> draw`, `(motion, seeds) -> frames`. Portraits are
      uint8 [h, w, 3], motion is float32 [b, f, k] (expression, angles, translation from the portrait's own), and frames
      are uint8 [b, f, h, w, 3]. A frame depends on its motion, portrait and seed alone.
    lip_sync: of a system that moves lips to a sound: `(params, frames, sound, fps) -> frames`, an iterable of uint8
      [h, w, 3], float32 [s] of 16 kHz, and an iterator of as many frames, of which it holds few at once.
    embed_lips: of a lip expert: `(params, pictures, track, fps, sound) -> arrays`, the embeddings `lip` and `speech`
      [k, d] of all five frames at 25 a second. `pictures()` yields the frames uint8 [h, w, 3] in which the face was
      tracked; the sound is float32 [s] of 16 kHz. {} where they are shorter.
    classify: of a classifier of noisy samples: `(params, x, timestep) -> logits` [b, classes], differentiable in x.
    upscale: of a system that enlarges videos: `(params, frames, seed) -> frames`, uint8 [f, h, w, 3] to uint8
      [f, h', w', 3].
    cpu_options: XLA's options for the training step on CPUs.
  """

  read: Callable[[Any, np.random.Generator], dict[str, np.ndarray]]
  init: Callable[[Any, Mapping[str, Any]], Any]
  loss: Callable[[Any, Mapping[str, Any], Any, bool], tuple[Any, dict[str, Any]]]
  generate: Callable[..., Iterator[Chunk]] | None = None
  from_records: Callable[..., RecordBatch] | None = None
  from_files: Callable[[Any, Request], Sequence[FileBatch]] | None = None
  pictures: bool = False
  true_conditions: tuple[str, ...] = ()
  oracle: tuple[str, ...] = ()
  options: tuple[Option, ...] = ()
  scores: tuple[Suite, ...] = ()
  frozen: tuple[str, ...] = ()
  load: tuple[tuple[str, str, str, str], ...] = ()
  precompute: Callable[[Sequence[Any]], Sequence[Any]] | None = None
  encoder: Encoder | None = None
  features: tuple[str, ...] = ()
  collect: Callable[[Sequence[Any]], Mapping[str, np.ndarray]] | None = None
  predict: Callable[..., tuple[Sequence[Truth], Sequence[Generated]]] | None = None
  renderer: Callable[[Any, Sequence[np.ndarray]], Callable[..., np.ndarray]] | None = None
  lip_sync: Callable[[Any, Iterable[np.ndarray], np.ndarray, float], Iterator[np.ndarray]] | None = None
  embed_lips: Callable[[Any, Callable[[], Iterable[np.ndarray]], Any, float, np.ndarray], Any] | None = None
  classify: Callable[[Any, Any, Any], Any] | None = None
  upscale: Callable[[Any, np.ndarray, int], np.ndarray] | None = None
  cpu_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def deferred(name: str, made: Mapping[str, Callable[[], Any]] | None = None, **bound) -> Callable:
  """A function of this package that is imported when it is first called, as training does not need those of generation.

  Args:
    name: of the function, after that of its module: 'speech_edit.conditions.from_files'.
    made: functions without arguments that make keyword arguments, called for each call: of `functools.cache`, where one
      value is to serve all calls.
    bound: keyword arguments that it always gets.
  """
  module, _, function = name.rpartition('.')

  def call(*args, **keywords):
    values = {key: make() for key, make in (made or {}).items()}
    return getattr(importlib.import_module(f'{__name__}.{module}'), function)(*args, **bound, **values, **keywords)

  return call


def names() -> list[str]:
  """The systems of this package."""
  return [m.name for m in pkgutil.iter_modules(__path__) if m.ispkg and m.name not in SHARED]


def module(name: str) -> ModuleType:
  """The package of a system: one of `names`, or the dotted name of a module elsewhere.

  It has `build(config) -> System`, OPTIONS and, where published weights can be converted, SOURCES: for each name of
  `convert --source` the module that reads them.

  Raises:
    UserError: there is none of that name.
  """
  if name in names():
    return importlib.import_module(f'talkjax.systems.{name}')
  if '.' in name and all(part.isidentifier() for part in name.split('.')):
    with contextlib.suppress(ModuleNotFoundError):
      found = importlib.import_module(name)
      if hasattr(found, 'OPTIONS'):
        return found
  raise UserError(f'config.system={name!r} is not one of {", ".join(names())}, nor a module that can be imported')


def build(config) -> System:
  """The system that `config.system` names. Raises UserError if there is none, or the config contradicts itself."""
  found = module(config.system)
  with consistent(config):
    return found.build(config)


@contextlib.contextmanager
def consistent(config, errors: tuple[type[Exception], ...] = CONTRADICTIONS) -> Iterator[None]:
  """Raises UserError if the config turns out to contradict itself in the block, which builds or traces a system."""
  try:
    yield
  except errors as error:
    said = ' '.join(str(error).split())[:300]
    raise UserError(
      f'no {config.system} can be made of this config ({type(error).__name__}: {said}): compare it with the file in '
      'configs/ that it comes from; --debug shows where it fails'
    ) from error


def sources() -> dict[str, str]:
  """By name of `convert --source`, the module of the system that converts it."""
  return {source: path for name in names() for source, path in module(name).SOURCES.items()}

"""The systems, a folder per paper, and beside them what several share.

A system is a value, not a class to inherit from: see `System`.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable

import ml_collections

from talkjax.errors import UsageError, UserError


@dataclasses.dataclass(frozen=True)
class System:
  """What the training loop, `generate` and `evaluate` ask of a paper's system.

  Attributes:
    read: `(record, generator) -> example`: numpy arrays, training examples along axis 0; `id` names the clip.
    init: `(rng, batch) -> params`.
    loss: `(params, batch, rng, train) -> (loss, metrics)`.
    inputs: `(records, ...) -> inputs`: corpus records as what `generate` reads.
    generate: `(params, inputs, seeds) -> iterator of uint8 frames [b, h, w, 3]`; compiled once per shape.
    render: `(params, request) -> {file: its frames}`: files in, video files out.
  """

  read: Callable
  init: Callable
  loss: Callable
  inputs: Callable
  generate: Callable
  render: Callable


@dataclasses.dataclass(frozen=True)
class Request:
  """What a user asks `talkjax.generate` for: files in, files out. A system raises UsageError for what it lacks.

  Attributes:
    output: the video; a folder for them where there are several portraits or voices.
    image, audio: one file or more.
    batch_size: videos made at once; None: the system's choice.
    kps: keypoints that drive the portrait: a video, or an array in a file.
    retarget: how they are fitted to it.
    sweep: a setting and its values: a video for each, of every portrait with every voice.
    spread: see `talkjax.training.sharding.spread`.
    metadata: of the written files.
  """

  output: str
  image: tuple[str, ...] | None = None
  video: str | None = None
  audio: tuple[str, ...] | None = None
  identity: str | None = None
  face_box: str | None = None
  speed: float | None = None
  kps: str | None = None
  retarget: str | None = None
  sweep: tuple[str, tuple[float, ...]] | None = None
  seed: int = 0
  batch_size: int | None = None
  spread: Callable = lambda count: None
  metadata: dict[str, str] | None = None

  def takes(self, system: str, needed: tuple[str, ...], also: tuple[str, ...] = ()) -> None:
    """Raises UsageError unless every field in `needed` is given, and no other but those in `also`."""
    inputs = ('image', 'video', 'audio', 'identity', 'face_box', 'speed', 'kps', 'retarget', 'sweep', 'batch_size')
    given = [name for name in inputs if getattr(self, name) is not None]
    options = lambda names: ', '.join(f'--{n}' for n in names)
    if missing := [name for name in needed if name not in given]:
      raise UsageError(f'{system} needs {options(needed)}: {options(missing)} is missing')
    if unknown := [name for name in given if name not in (*needed, *also)]:
      raise UsageError(f'{system} does not take {options(unknown)}: it takes {options((*needed, *also))}')

  def one(self, name: str) -> str:
    """The only file of `image` or `audio`. Raises UsageError for several."""
    files = getattr(self, name)
    if len(files) > 1:
      raise UsageError(f'--{name}: {len(files)} files were given where this system takes one: {", ".join(files[:3])}')
    return files[0]


def build(config) -> System:
  """The system that `config.system` names.

  Raises:
    UserError: there is none of that name.
  """
  names = [m.name for m in pkgutil.iter_modules(__path__) if m.ispkg]
  if config.system not in names:
    raise UserError(f'config.system={config.system!r} is not one of {", ".join(names)}')
  return importlib.import_module(f'talkjax.systems.{config.system}').build(config)


def named_table(tables: dict[str, Callable], sampler):
  """The table of the sampler that a config names.

  Args:
    tables: by name, what makes it.
    sampler: `name` and `steps`.

  Raises:
    UserError: no sampler of that name, or it cannot take so many steps.
  """
  if sampler.name not in tables:
    raise UserError(f'sampler {sampler.name!r} is not one of {", ".join(tables)}')
  try:
    return tables[sampler.name]()
  except ValueError as error:
    raise UserError(f'sampler {sampler.name} cannot take {sampler.steps} steps: {error}') from error


def with_options(config, **options) -> ml_collections.ConfigDict:
  """A copy of the config with other settings of generation.

  Args:
    config: of a workdir.
    **options: of OPTIONS; None leaves what the config says.

  Raises:
    UsageError: a number that cannot be, or an option that the config's system does not have.
  """
  config = config.copy_and_resolve_references()
  for name, value in options.items():
    if value is None:
      continue
    if name == 'steps' and value < 1:
      raise UsageError(f'--steps={value}: expected 1 or more')
    *path, key = OPTIONS[name].split('.')
    node = config
    for part in path:
      node = node.get(part, {})
    if key not in node:
      raise UsageError(f'--{name}: {config.system} has no such setting')
    node[key] = value
  return config


# Options of `generate`, and the config keys they set.
OPTIONS = {
  'sampler': 'sampler.name',
  'steps': 'sampler.steps',
  'guidance': 'guidance',
  'reference_weight': 'weights.reference',
  'audio_weight': 'weights.audio',
  'motion_frames': 'use_motion_frames',
  'compat': 'compat',
  'window': 'windows.frames',
  'overlap': 'windows.overlap',
  'window_budget': 'windows.budget',
}

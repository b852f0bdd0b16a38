"""The systems, one file per paper. A system is a value, not a class to inherit from: see `System`."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable

import ml_collections

from talkjax.cli import UsageError, UserError


@dataclasses.dataclass(frozen=True)
class System:
  """What the training loop, `generate` and `evaluate` ask of a paper's system.

  Attributes:
    read: `(record, generator) -> example`: numpy arrays, training examples along axis 0; `id` names the clip.
    init: `(rng, batch) -> params`.
    loss: `(params, batch, rng, train) -> (loss, metrics)`.
    inputs: `(records, ...) -> inputs`: corpus records as what `generate` reads.
    generate: `(params, inputs, seeds) -> iterator of uint8 frames [b, h, w, 3]`; compiled once per shape.
    render: `(params, request) -> number of frames`: files in, a video file out.
  """

  read: Callable
  init: Callable
  loss: Callable
  inputs: Callable
  generate: Callable
  render: Callable


@dataclasses.dataclass(frozen=True)
class Request:
  """What a user asks `talkjax.generate` for: files in, a file out. A system raises UsageError for what it lacks."""

  output: str
  video: str | None = None
  audio: str | None = None
  identity: str | None = None
  seed: int = 0
  metadata: dict[str, str] | None = None  # of the written file


def build(config) -> System:
  """The system that `config.system` names.

  Raises:
    UserError: there is none of that name.
  """
  names = [m.name for m in pkgutil.iter_modules(__path__)]
  if config.system not in names:
    raise UserError(f'config.system={config.system!r} is not one of {", ".join(names)}')
  return importlib.import_module(f'talkjax.systems.{config.system}').build(config)


def with_sampler(config, sampler: str | None, steps: int | None) -> ml_collections.ConfigDict:
  """A copy of the config with another sampler or number of steps; None leaves it.

  Raises:
    UsageError: `steps` is not positive.
  """
  config = config.copy_and_resolve_references()
  if steps is not None:
    if steps < 1:
      raise UsageError(f'--steps={steps}: expected 1 or more')
    config.sampler.steps = steps
  if sampler is not None:
    config.sampler.name = sampler
  return config

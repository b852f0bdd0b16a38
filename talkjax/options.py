"""Options: what a user can give a command, each declared once.

Commands declare their own flags with them and systems what `generate`, `evaluate` and sweeps accept. Flags, checks,
config changes and help are all derived from the declaration.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from talkjax.errors import UsageError, UserError


@dataclasses.dataclass(frozen=True)
class Option:
  """One option.

  Attributes:
    name: of the flag.
    kind: str, int, float or bool.
    help: one line.
    default: of a command's own flag.
    key: the config key that it sets; '' for an input.
    required: an input that generation cannot do without.
    several: an input that may be several files: a comma-separated list or a pattern.
    sweep: each video of a batch can have its own value, so that --sweep accepts it.
    evaluate: `talkjax.evaluate` accepts it too.
    message: a message to a receiver can hold its value (`talkjax.message`); values that name files cannot.
    choices: the values allowed; () for any.
    minimum, maximum: the smallest and the largest number allowed.
  """

  name: str
  kind: type
  help: str
  default: Any = None
  key: str = ''
  required: bool = False
  several: bool = False
  sweep: bool = False
  evaluate: bool = False
  message: bool = False
  choices: tuple[str, ...] = ()
  minimum: float | None = None
  maximum: float | None = None

  def check(self, value: Any) -> None:
    """Raises UsageError for a value that is not allowed."""
    if self.choices and value not in self.choices:
      raise UsageError(f'--{self.name}={value}: expected one of {", ".join(self.choices)}')
    if self.minimum is not None and not value >= self.minimum:
      raise UsageError(f'--{self.name}={value}: expected {self.minimum} or more')
    if self.maximum is not None and not value <= self.maximum:
      raise UsageError(f'--{self.name}={value}: expected {self.maximum} or less')
    if self.kind is float and not math.isfinite(value):
      raise UsageError(f'--{self.name}={value}: expected a finite number')


CONFIG = Option('config', str, 'The config file with its arguments: FILE.py[:size[,key=value...]].')
MAX_SEED = 2**32 - 1
SAMPLER = (
  Option('sampler', str, "The sampler (default: the config's).", key='sampler.name', evaluate=True, message=True),
  Option(
    'steps', int, "Denoising steps (default: the config's).", key='sampler.steps', minimum=1, evaluate=True,
    message=True,
  ),
)  # fmt: skip


def required(arguments: Any, names: Iterable[str], example: str) -> None:
  """Raises UsageError, with an example, unless a command's `arguments` have a value of all of these options."""
  for name in names:
    if getattr(arguments, name) in (None, ''):
      raise UsageError(f'--{name} is missing: {example}')


def given(values: Mapping[str, Any]) -> dict[str, Any]:
  """The values that are not None."""
  return {name: value for name, value in values.items() if value is not None}


def check(system: str, options: Iterable[Option], values: Mapping[str, Any]) -> None:
  """Checks the values given against what a system accepts.

  Args:
    system: its name, for messages.
    options: its options.
    values: by name.

  Raises:
    UsageError: a value is not allowed or empty, a required input is missing, or the system has no such option.
  """
  known = {option.name: option for option in options}
  flags = lambda names: ', '.join(f'--{name}' for name in names)
  if unknown := [name for name in values if name not in known]:
    raise UsageError(f'{system} does not take {flags(unknown)}: it takes {flags(known)}')
  required = [name for name, option in known.items() if option.required]
  if missing := [name for name in required if name not in values]:
    raise UsageError(f'{system} needs {flags(required)}: {flags(missing)} is missing')
  for name, value in values.items():
    if isinstance(value, str) and not value:  # as of a shell variable that is not set
      raise UsageError(f'--{name} is empty: give it a value, or leave it out')
    known[name].check(value)


def apply(
  config: ml_collections.ConfigDict, options: Iterable[Option], values: Mapping[str, Any]
) -> tuple[ml_collections.ConfigDict, dict[str, Any]]:
  """Splits checked values into config changes and inputs.

  Returns:
    (a copy of the config with the values of options that have a key, the other values).

  Raises:
    UserError: the config has no such key, as in the workdir of an earlier version.
  """
  config = config.copy_and_resolve_references()
  keys = {option.name: option.key for option in options if option.key}
  for name in keys.keys() & values.keys():
    *parents, key = keys[name].split('.')
    node = config
    for parent in parents:
      node = node.get(parent, {})
    if key not in node:
      raise UserError(
        f'--{name} sets config.{keys[name]}, which the config of this workdir does not have: leave it out'
      )
    node[key] = values[name]
  return config, {name: value for name, value in values.items() if name not in keys}


def parse_sweep(text: str | None, system: str, options: Iterable[Option]) -> tuple[str, tuple[float, ...]] | None:
  """'audio_weight=0.5,1' -> ('audio_weight', (0.5, 1.0)); None stays None.

  Raises:
    UsageError: anything else, fewer than two different values, or an option that the system cannot sweep.
  """
  if text is None:
    return None
  name, _, values = text.partition('=')
  try:
    numbers = tuple(dict.fromkeys(float(v) for v in values.split(',')))
  except ValueError:
    numbers = ()
  if len(numbers) < 2 or not all(map(math.isfinite, numbers)):
    raise UsageError(f'--sweep={text}: expected an option and two numbers or more, such as audio_weight=0.5,1,2,3')
  known = {option.name: option for option in options if option.sweep}
  if name not in known:
    raise UsageError(f'--sweep={name}: {system} can sweep {", ".join(known) or "nothing"}')
  for number in numbers:
    known[name].check(number)
  return name, numbers

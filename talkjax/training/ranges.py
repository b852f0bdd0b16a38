"""The values that the keys of a config may have, in one table."""

import math
import re
from collections.abc import Callable

import ml_collections

from talkjax.errors import UsageError, UserError
from talkjax.training.workdir import flatten, read_system_config

_Range = tuple[str, Callable[[float], bool]]


def _at_least(least: int) -> _Range:
  return f'{least} or more', lambda x: x >= least


_POSITIVE: _Range = 'more than 0', lambda x: x > 0
_SHARE: _Range = '0 to 1', lambda x: 0 <= x <= 1
_DECAY: _Range = '0 or more, and less than 1', lambda x: 0 <= x < 1
# By key, or last part of a key: what is expected, and whether a value is allowed.
RANGES: dict[str, _Range] = {
  'seed': ('0 to 4294967295', lambda x: 0 <= x < 2**32),
  'batch_size': _at_least(1),
  'steps': _at_least(1),
  'log_every': _at_least(1),
  'checkpoint_every': _at_least(1),
  'keep_checkpoints': _at_least(1),
  'sample_every': _at_least(0),
  'sample_frames': _at_least(1),
  'frames': _at_least(1),
  'margin': _at_least(0),
  'size': ('8 to 65536', lambda x: 8 <= x <= 2**16),
  'fps': _POSITIVE,
  'sampler.steps': _at_least(1),
  'diffusion.steps': _at_least(1),
  'ema': _DECAY,
  'mesh.data': ('-1 for all devices, or 1 or more', lambda x: x == -1 or x >= 1),
  'mesh.fsdp': _at_least(1),
  'mesh.tensor': _at_least(1),
  'optimizer.learning_rate': _POSITIVE,
  'optimizer.warmup': _at_least(0),
  'optimizer.b1': _DECAY,
  'optimizer.b2': _DECAY,
  'optimizer.eps': _POSITIVE,
  'optimizer.weight_decay': _at_least(0),
  'optimizer.clip': _at_least(0),
  'optimizer.accumulate': _at_least(1),
  'data.examples_per_record': _at_least(1),
  'data.workers': _at_least(0),
  'data.threads': _at_least(1),
  'data.prefetch': _at_least(0),
  'sampler.eta': _at_least(0),
  'mouth_weight': _at_least(0),
  'dropout': _DECAY,
  'drop.all': _SHARE,
  'augment.flip': _SHARE,
  'augment.noise': _at_least(0),
  'loss.expression': _at_least(0),
  'loss.pose': _at_least(0),
  'loss.sync': _at_least(0),
  'model.multipliers': ('a level or more', bool),
  'model.num_res_blocks': _at_least(0),
  'model.radius': _at_least(0),
  'temperature.expression': _at_least(0),
  'temperature.pose': _at_least(0),
}
# By key whose entries are tuples: how long they are, and which of their values are regular expressions.
PATTERNS = {'train': (2, (0,)), 'rules': (2, (0,)), 'load': (4, (2, 3))}
DTYPES = ('float32', 'bfloat16', 'float16')


def check(config: ml_collections.ConfigDict) -> None:
  """Checks the numbers of a config, before anything is read or written.

  Raises:
    UsageError: a value is outside its range, or not finite.
  """
  for key, value in flatten(config.to_dict()).items():
    numbers = value if isinstance(value, (list, tuple)) else (value,)
    if any(isinstance(x, float) and not math.isfinite(x) for x in numbers):
      raise UsageError(f'config.{key}={value}: expected finite numbers')
    expected, allowed = RANGES.get(key) or RANGES.get(key.rpartition('.')[2]) or ('', None)
    if allowed and not _is_allowed(value, allowed):
      raise UsageError(f'config.{key}={value}: expected {expected}')
    if key in PATTERNS:
      _check_patterns(key, value, *PATTERNS[key])
  if (dtype := config.get('dtype', DTYPES[0])) not in DTYPES:
    raise UsageError(f'config.dtype={dtype!r} is not one of {", ".join(DTYPES)}')


def _is_allowed(value, allowed: Callable[[float], bool]) -> bool:
  if isinstance(value, (list, tuple)):  # sizes of several parts go by the name of one
    return bool(value)
  return isinstance(value, (int, float)) and allowed(value)


def read_config(workdir) -> ml_collections.ConfigDict:
  """The config of a system's workdir, checked.

  Raises:
    UserError: as `workdir.read_system_config`, or a value is not allowed: somebody has changed it.
  """
  config = read_system_config(workdir)
  try:
    check(config)
  except UsageError as error:
    raise UserError(f'{workdir}/config.json is damaged ({error}): restore it from a copy') from error
  return config


def _check_patterns(key: str, entries, length: int, places: tuple[int, ...]) -> None:
  """Raises UsageError unless every entry has such a length, and regular expressions at these places."""
  for entry in entries if isinstance(entries, (list, tuple)) else (entries,):
    if not isinstance(entry, (list, tuple)) or len(entry) != length:
      raise UsageError(f'config.{key}: expected tuples of {length} values, found {entry!r}')
    for place in places:
      try:
        re.compile(entry[place])
      except (TypeError, re.error) as error:
        raise UsageError(f'config.{key}: {entry[place]!r} in {entry!r} is no regular expression ({error})') from error

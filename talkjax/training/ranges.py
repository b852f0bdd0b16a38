"""The values that the keys of a config may have, in one table."""

import difflib
import math
import re
from collections.abc import Callable

import ml_collections

from talkjax.errors import UsageError, UserError
from talkjax.training.workdir import flatten, read_system_config

_Range = tuple[str, Callable[[float], bool]]


def _at_least(least: int) -> _Range:
  return f'{least} or more', lambda x: x >= least


_ANY: _Range = 'a number', lambda x: True
_POSITIVE: _Range = 'more than 0', lambda x: x > 0
_SHARE: _Range = '0 to 1', lambda x: 0 <= x <= 1
_DECAY: _Range = '0 or more, and less than 1', lambda x: 0 <= x < 1
_COUNT: _Range = '1 to 65536', lambda x: 1 <= x <= 2**16
# By key, or the last parts of one: what is expected, and whether a number is allowed. Of sequences every number counts.
# `*` is for the keys of a group that are not listed; there, values that are no numbers are not looked at.
RANGES: dict[str, _Range] = {
  'seed': ('0 to 4294967295', lambda x: 0 <= x < 2**32),
  'batch_size': _at_least(1),
  'steps': _at_least(1),
  'log_every': _at_least(1),
  'checkpoint_every': _at_least(1),
  'keep_checkpoints': _at_least(1),
  'sample_every': _at_least(0),
  'sample_frames': _at_least(1),
  'stage': _at_least(1),
  'frames': _at_least(1),
  'frames_at_once': _at_least(1),
  'motion_frames': _at_least(0),
  'clip': _at_least(0),
  'margin': _at_least(0),
  'size': ('8 to 65536', lambda x: 8 <= x <= 2**16),
  'framing': _at_least(0),
  'crop_size': ('0 to 65536', lambda x: 0 <= x <= 2**16),
  'kps_canvas': _at_least(0),
  'scale': _COUNT,
  'bands': _COUNT,
  'fps': _POSITIVE,
  'ema': _DECAY,
  'mesh.data': ('-1 for all devices, or 1 or more', lambda x: x == -1 or x >= 1),
  'mesh.*': _at_least(1),
  'optimizer.learning_rate': _POSITIVE,
  'optimizer.b1': _DECAY,
  'optimizer.b2': _DECAY,
  'optimizer.eps': _POSITIVE,
  'optimizer.accumulate': _at_least(1),
  'optimizer.*': _at_least(0),
  'data.examples_per_record': _at_least(1),
  'data.threads': _at_least(1),
  'data.*': _at_least(0),
  'sampler.steps': _at_least(1),
  'sampler.*': _at_least(0),
  'diffusion.steps': _at_least(1),
  'diffusion.start': _ANY,
  'diffusion.end': _ANY,
  'diffusion.*': _at_least(0),
  'mouth_weight': _at_least(0),
  'dropout': _DECAY,
  'model.dropout': _DECAY,
  'expert.dropout': _DECAY,
  'caption_dropout': _DECAY,
  'aids.hidden_mouth': _SHARE,
  'aids.*': _at_least(0),
  'drop.*': _SHARE,
  'augment.flip': _SHARE,
  'augment.region_frames': ('-1 or more', lambda x: x >= -1),
  'augment.snr': _ANY,
  'augment.*': _at_least(0),
  'loss.*': _at_least(0),
  'temperature.*': _at_least(0),
  'speed.*': _at_least(0),
  'windows.frames': _at_least(1),
  'windows.batch_size': _at_least(1),
  'windows.*': _at_least(0),
  'guidance.overlap': _at_least(0),
  'guidance.*': _ANY,
  'audio.offset': _ANY,
  'audio.scale': _ANY,
  'audio.*': _COUNT,
  'speech_encoder.*': _COUNT,
  'model.multipliers': ('numbers of 1 or more, a level at least', lambda x: x >= 1),
  'model.num_res_blocks': _at_least(0),
  'model.radius': _at_least(0),
  'model.*': _COUNT,
  'expert.*': _COUNT,
  'discriminator.*': _COUNT,
  'space.fps': _POSITIVE,
  'space.sound_scale': _POSITIVE,
  'space.size': ('8 to 65536', lambda x: 8 <= x <= 2**16),
  'space.*': _COUNT,
  'latents.scaling': _POSITIVE,
  'latents.*': ('0 to 65536', lambda x: 0 <= x <= 2**16),
  'morphable.*': ('0 to 1048576', lambda x: 0 <= x <= 2**20),
}
MAY_BE_NONE = ('model.radius', 'diffusion.start', 'diffusion.end')
# Keys that are groups of others, and keys of texts with how many there are at least.
GROUPS = {key.removesuffix('.*') for key in RANGES if key.endswith('.*')} | {'joined', 'others', 'pretrained'}
GROUPS -= {'guidance'}  # a number in portrait systems
TEXTS = {'joins': 0, 'captions': 1}
# By key whose entries are tuples: how long they are, and which of their values are regular expressions.
PATTERNS = {'train': (2, (0,)), 'rules': (2, (0,)), 'load': (4, (2, 3))}
# Texts of which there are few.
CHOICES = {
  'dtype': ('float32', 'bfloat16', 'float16'),
  'data.mouth': ('landmarks', 'pixels', 'found'),
  'data.segments': ('any', 'digit'),
  'guidance.caption_by': ('condition', 'classifier'),
  'guidance.speech': ('none', 'replacement', 'gradient'),
}


def check_key(config: ml_collections.ConfigDict, key: str, what: str) -> None:
  """Raises UsageError, with near names, unless the config has 'a.b.c'."""
  names = list(flatten(config.to_dict()))
  if key not in names and not any(n.startswith(key + '.') for n in names):
    near = difflib.get_close_matches(key, names, n=3) or [
      n for n in names if n.split('.')[-1] == key.rsplit('.', maxsplit=1)[-1]
    ]
    hint = (
      f'nearest: {", ".join(near)}' if near else f'its keys are {", ".join(sorted({n.split(".")[0] for n in names}))}'
    )
    raise UsageError(f'{what}: the config has no key {key!r} ({hint})')


def check(config: ml_collections.ConfigDict) -> None:
  """Checks the values of a config, before anything is read or written.

  Raises:
    UsageError: a value is outside its range, not finite, or of another kind.
  """
  for key, value in flatten(config.to_dict()).items():
    numbers = value if isinstance(value, (list, tuple)) else (value,)
    if any(isinstance(x, float) and not math.isfinite(x) for x in numbers):
      raise UsageError(f'config.{key}={value}: expected finite numbers')
    if expected := _outside(key, value):
      raise UsageError(f'config.{key}={value}: expected {expected}')
    if key in CHOICES and value not in CHOICES[key]:
      raise UsageError(f'config.{key}={value!r} is not one of {", ".join(CHOICES[key])}')
    if key in PATTERNS:
      _check_patterns(key, value, *PATTERNS[key])
  for key, value in config.to_dict().items():
    if key in GROUPS and not isinstance(value, dict):
      raise UsageError(f'config.{key}={value}: expected a group of keys')
    if key in TEXTS:
      are_texts = isinstance(value, (list, tuple)) and all(isinstance(x, str) and x for x in value)
      if not are_texts or len(value) < TEXTS[key]:
        raise UsageError(f'config.{key}={value}: expected texts, {TEXTS[key]} or more')


def _outside(key: str, value) -> str:
  """What is expected of a key, '' if its value is within its range."""
  parts = key.split('.')
  names = ['.'.join(parts[i:]) for i in range(len(parts))]
  name = next((n for n in (*names[:-1], '.'.join((*parts[-2:-1], '*')), names[-1]) if n in RANGES), '*')
  expected, allowed = RANGES.get(name, _ANY)
  values = value if isinstance(value, (list, tuple)) else (value,)
  is_number = lambda x: isinstance(x, (int, float)) and not isinstance(x, bool)
  if name.endswith('*'):
    values = filter(is_number, values)
  elif not values or not all(map(is_number, values)):
    return '' if value is None and name in MAY_BE_NONE else expected
  return '' if all(map(allowed, values)) else expected


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

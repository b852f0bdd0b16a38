"""Requests as messages: what a receiver with the same weights needs to generate a video, in a few bytes of JSON.

  {"text":"place blue at F nine now","caption":"A woman is talking","seed":3,"weights":"1f0c…"}

`talkjax.generate --save_request=FILE` writes one and `--request=FILE` generates from it. It holds the options that were
given, which must not name files, the seed, and the fingerprint of the weights.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from talkjax import options
from talkjax.errors import UsageError, UserError
from talkjax.media import files, outputs
from talkjax.options import Option

SEED, WEIGHTS = 'seed', 'weights'
_LIMIT = 100_000  # bytes of a message


def encode(given: Mapping[str, Any], seed: int, fingerprint: str, declared: Iterable[Option]) -> str:
  """The message of options that were given.

  Raises:
    UsageError: one of them is a file, or nothing that a message can hold.
  """
  allowed = {option.name for option in declared if option.message}
  if other := sorted(given.keys() - allowed):
    names = ', '.join(f'--{name}' for name in other)
    raise UsageError(f'--save_request: a message cannot hold {names}, only {", ".join(sorted(allowed)) or "nothing"}')
  return json.dumps({**given, SEED: seed, WEIGHTS: fingerprint}, ensure_ascii=False, separators=(',', ':'))


def save(path: str, text: str) -> None:
  """Writes a message atomically. Raises UserError where that is not possible."""
  outputs.write_text(path, text)


def is_one(path: str) -> bool:
  """Whether a file is a message."""
  return isinstance((_read(path) or {}).get(WEIGHTS), str)


def _read(path: str) -> dict[str, Any] | None:
  """The JSON object in a file, or None. Raises UserError if it cannot be read."""
  try:
    data = files.read_bytes(path, 'a message')
    values = json.loads(data.decode()) if len(data) <= _LIMIT else None
  except (ValueError, RecursionError):
    return None
  return values if isinstance(values, dict) else None


def load(path: str, declared: Iterable[Option]) -> tuple[dict[str, Any], int, str]:
  """(options by name, seed, fingerprint of the weights) of a message file.

  Raises:
    UserError: it cannot be read, is not a message, or has options or values that the system does not have.
  """
  remedy = 'write one with `python -m talkjax.generate --save_request=FILE`'
  values = _read(path)
  if values is None or not isinstance(values.get(WEIGHTS), str):
    raise UserError(f'--request={path} is not a message of talkjax: {remedy}')
  known = {option.name: option for option in declared if option.message}
  known[SEED] = Option(SEED, int, '', minimum=0, maximum=options.MAX_SEED)
  fingerprint = values.pop(WEIGHTS)
  for name, value in values.items():
    if name not in known:
      raise UserError(f'--request={path} has {name!r}, which a message to this workdir cannot have: {remedy}')
    kinds = (int, float) if known[name].kind is float else known[name].kind
    if not isinstance(value, kinds) or (isinstance(value, bool) and known[name].kind is not bool):
      raise UserError(f'--request={path} has {name}={value!r}: expected a value of type {known[name].kind.__name__}')
    try:
      known[name].check(float(value) if known[name].kind is float else value)
    except (UsageError, OverflowError) as error:
      raise UserError(f'--request={path}: {error}') from error
  seed = values.pop(SEED, 0)
  return values, seed, fingerprint

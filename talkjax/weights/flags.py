"""Settings of published networks that the shapes in a file do not determine: of released files, or in a config.json."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from talkjax.errors import UserError


def read_flags(
  file: pathlib.Path, released: Mapping[str, Mapping[str, Any]], names: Sequence[str], example: Mapping[str, Any]
) -> dict[str, Any]:
  """The flags that a file of weights was trained with: from config.json next to it, or those of its released name.

  Args:
    file: of weights.
    released: flags by name of the released file.
    names: of the flags that matter.
    example: of flags, for error messages.

  Raises:
    UserError: the flags are not known, or config.json does not have them.
  """
  path = file.parent / 'config.json'
  if path.is_file():
    try:
      config = dict(json.loads(path.read_text()))
    except (ValueError, TypeError):
      raise UserError(f'{path} is not a JSON object: expected flags such as {json.dumps(example)}') from None
    found = {name: config[name] for name in names if name in config}
    if not found:
      raise UserError(f'{path} has none of the flags {", ".join(names)}: expected flags such as {json.dumps(example)}')
    return found
  if file.name in released:
    return dict(released[file.name])
  raise UserError(
    f'not all settings of {file} are in its shapes: write a config.json next to it with the flags it was trained with, '
    f'such as {json.dumps(example)}, or give it the name of the released file that it is ({", ".join(released)})'
  )

"""The workdir of a run and its config.json.

A workdir holds `config.json`, `metrics.jsonl`, `checkpoints/`, `samples/` and TensorBoard's files.
"""

import json

import ml_collections
from etils import epath

from talkjax.errors import UserError

# What a resumed run may change: how long it trains and how often it reports.
FREE_KEYS = ('steps', 'log_every', 'checkpoint_every', 'sample_every', 'keep_checkpoints')


def write_config(workdir: epath.Path, config: ml_collections.ConfigDict) -> None:
  """Writes config.json, or checks that the one already there says the same.

  Raises:
    UserError: the workdir belongs to another config; the sentence names the keys that differ.
  """
  path = workdir / 'config.json'
  new = json.loads(config.to_json())
  if path.exists():
    old, now = flatten(json.loads(path.read_text())), flatten(new)
    keys = sorted(k for k in old.keys() | now.keys() if old.get(k) != now.get(k) and k not in FREE_KEYS)
    if keys:
      shown = ', '.join(f'{k} ({old.get(k, "absent")} there, {now.get(k, "absent")} here)' for k in keys[:6])
      more = f' and {len(keys) - 6} more' if len(keys) > 6 else ''
      raise UserError(
        f'workdir {workdir} belongs to another config, these keys differ: {shown}{more}; '
        'choose another --workdir or set the keys back'
      )
  workdir.mkdir(parents=True, exist_ok=True)
  temporary = workdir / 'config.json.tmp'
  temporary.write_text(json.dumps(new, indent=2, sort_keys=True) + '\n')
  temporary.replace(path)


def read_config(workdir) -> ml_collections.ConfigDict:
  """The resolved config of a workdir.

  Raises:
    UserError: there is no workdir, or it has no config.
  """
  path = epath.Path(workdir) / 'config.json'
  if not path.exists():
    raise UserError(
      f'{workdir} is not a workdir (it has no config.json): give the --workdir of a training or a conversion'
    )
  return ml_collections.ConfigDict(json.loads(path.read_text()))


def flatten(tree: dict, prefix: str = '') -> dict:
  """{'a': {'b': 1}} -> {'a.b': 1}."""
  flat = {}
  for key, value in tree.items():
    flat.update(flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value})
  return flat

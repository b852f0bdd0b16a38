"""Workdirs of other systems that a system uses, opened through the fields of `System`: no system imports another.

A config lists in `joins` its keys that name such workdirs. Training keeps what they learned in the frozen branch
`joined` and their configs in `config.joined`, so that its own workdir generates by itself. A generation can open
another workdir in place of one of them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax.traverse_util import unflatten_dict

from talkjax import systems
from talkjax.errors import UserError
from talkjax.training import checkpoint
from talkjax.training.ranges import read_config
from talkjax.training.workdir import is_workdir

BRANCH = 'joined'  # of the parameters
# The keys that can name a workdir, and the field of `System` that it must have.
FIELDS = {
  'renderer': 'renderer',
  'wav2lip': 'lip_sync',
  'super_resolution': 'upscale',
  'caption_classifier': 'classify',
}


@dataclasses.dataclass(frozen=True)
class Joined:
  """Another system, what it learned, and its config."""

  system: systems.System
  params: Any
  config: ml_collections.ConfigDict


def names(config) -> tuple[str, ...]:
  """The keys of `config.joins` that name a workdir. Raises UserError for what is no such key."""
  joins = tuple(config.get('joins', ()))
  if not set(joins) <= FIELDS.keys():
    raise UserError(f'config.joins={joins}: expected names of {", ".join(FIELDS)}')
  return tuple(name for name in joins if is_workdir(config[name]))


def with_configs(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The config with those of the workdirs that it joins, as `config.joined`.

  Raises:
    UserError: one of them cannot be joined, see `config_of`.
  """
  if not names(config):
    return config
  config = ml_collections.ConfigDict(config).copy_and_resolve_references()
  with config.unlocked():
    config.joined = {
      name: _with_tuples(config_of(name, config, FIELDS[name], config[name]).to_dict()) for name in names(config)
    }
  return config


def _with_tuples(value: Any) -> Any:
  """A config as read from JSON with tuples for its lists, as configs have them: nested lists cannot be frozen."""
  if isinstance(value, dict):
    return {key: _with_tuples(each) for key, each in value.items()}
  return tuple(map(_with_tuples, value)) if isinstance(value, (list, tuple)) else value


def fresh(config) -> dict[str, Any]:
  """The frozen branch in the shapes of the joined workdirs, {} without any; training fills it.

  Raises:
    UserError: a workdir has no checkpoint.
  """
  shapes = {name: checkpoint.saved_shapes(config[name]) for name in names(config)}
  trees = {
    name: unflatten_dict({k: jnp.zeros(x.shape, x.dtype) for k, x in tree.items()}, '/')
    for name, tree in shapes.items()
  }
  return {BRANCH: trees} if trees else {}


def load(config) -> tuple[tuple[str, str, str, str], ...]:
  """What `System.load` says of the joined workdirs."""
  return tuple((name, f'{BRANCH}/{name}', '', '') for name in names(config))


def open_joined(name: str, params, config, field: str, workdir: str = '') -> Joined | None:
  """A joined system, or None where the config joins none.

  Args:
    name: the key of the config, also the name of the option that opens another workdir.
    params: of the system that joins it; None: of no system, a workdir is given.
    config: of that system.
    field: of `System`, that it must have.
    workdir: opened in place of the one that training kept.

  Raises:
    UserError: the workdir cannot be read, or its system lacks the field.
  """
  own = config_of(name, config, field, workdir)
  if own is None:
    return None
  if not workdir:
    return Joined(systems.build(own), params[BRANCH][name], own)
  tree, first = checkpoint.load_params(workdir)[1], next(iter(jax.tree.leaves(params)), None)
  if isinstance(first, jax.Array):  # where the others are
    tree = jax.device_put(tree, first.sharding)
  return Joined(systems.build(own), tree, own)


def config_of(name: str, config, field: str, workdir: str = '') -> ml_collections.ConfigDict | None:
  """The config of a joined system, whose weights are not read; arguments and errors as of `open_joined`."""
  if not workdir and name not in config.joined:
    return None
  own = read_config(workdir) if workdir else ml_collections.ConfigDict(config.joined[name])
  where = f'{name}={workdir or config[name]}'
  if 'system' not in own:
    raise UserError(f'{where}: config.joined.{name} names no system: restore config.json from a copy')
  if getattr(systems.build(own), field) is None:
    stage = f' stage {own.stage}' if 'stage' in own else ''
    raise UserError(f'{where} is of {own.system}{stage}, which has no {field}: give another workdir')
  return own

"""The checkpoints of a run, written so that a kill at any moment loses nothing.

A checkpoint has the items `params`, `ema`, `training` (optimiser and step), `iterator` (position in the data) and
`run` (what must match on resumption); a converted one has the first two only, which is all that generation and
evaluation read.
"""

import difflib
import re
from collections.abc import Sequence
from typing import Any

import grain
import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from talkjax.errors import UserError
from talkjax.training.sharding import path_name
from talkjax.training.state import State
from talkjax.training.workdir import read_config, write_config

PyTree = Any


def has_checkpoint(workdir) -> bool:
  """Whether a run can go on from something in its workdir."""
  path = epath.Path(workdir) / 'checkpoints'
  return path.exists() and bool(ocp.utils.checkpoint_steps(path))


class Checkpoints:
  """The checkpoints of one workdir, saved asynchronously and atomically."""

  def __init__(self, workdir, keep: int = 3):
    self.path = epath.Path(workdir).resolve() / 'checkpoints'
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
    self._manager = _manager(self.path, options)

  @property
  def latest(self) -> int | None:
    return self._manager.latest_step()

  def save(self, state: State, iterator) -> None:
    """Starts to write `state` and the data iterator; returns before the writing is done."""
    step = int(state.step)
    if step == self.latest:
      return
    training = {'step': state.step, 'opt_state': _leaves(state.opt_state)}
    self._manager.save(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardSave(state.params),
        ema=ocp.args.StandardSave(state.ema),
        training=ocp.args.StandardSave(training),
        iterator=grain.checkpoint.CheckpointSave(iterator),
        run=ocp.args.JsonSave({'processes': jax.process_count()}),
      ),
    )

  def restore(self, state: State, iterator) -> State:
    """The latest checkpoint in the shapes and shardings of `state` (arrays or ShapeDtypeStructs); `iterator` is moved.

    Raises:
      UserError: the checkpoint was written by another number of processes, or its parameters do not fit.
    """
    step = self.latest
    run = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
    if run['processes'] != jax.process_count():
      raise UserError(
        f'checkpoint {self.path}/{step} was trained by {run["processes"]} processes, not {jax.process_count()}, and '
        f'the order of the data depends on it: resume with {run["processes"]}, or begin anew with --config.init_from'
      )
    check_fit(_saved_tree(self._manager, step, 'params'), state.params, f'checkpoint {self.path}/{step}')
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    training = {'step': abstract.step, 'opt_state': _leaves(abstract.opt_state)}
    got = self._manager.restore(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardRestore(abstract.params),
        ema=ocp.args.StandardRestore(abstract.ema),
        training=ocp.args.StandardRestore(training),
        iterator=grain.checkpoint.CheckpointRestore(iterator),
      ),
    )
    opt_state = jax.tree.unflatten(jax.tree.structure(state.opt_state), _from_leaves(got.training['opt_state']))
    return State(got.training['step'], got.params, got.ema, opt_state)

  def wait(self) -> None:
    self._manager.wait_until_finished()

  def close(self) -> None:
    self._manager.close()


# Optimiser states are tuples within tuples, which change their type on the way to disk and back: stored as a flat dict.
def _leaves(tree: PyTree) -> dict[str, Any]:
  return {f'{i:05}': x for i, x in enumerate(jax.tree.leaves(tree))}


def _from_leaves(leaves: dict[str, Any]) -> list:
  return [leaves[k] for k in sorted(leaves)]


def _manager(path: epath.Path, options: ocp.CheckpointManagerOptions | None = None) -> ocp.CheckpointManager:
  # With the handlers named, a manager can tell what a checkpoint holds before anything is restored.
  arrays = {item: ocp.StandardCheckpointHandler() for item in ('params', 'ema', 'training')}
  handlers = {**arrays, 'iterator': grain.checkpoint.CheckpointHandler(), 'run': ocp.JsonCheckpointHandler()}
  return ocp.CheckpointManager(path, options=options, item_handlers=handlers)


def _saved_tree(manager: ocp.CheckpointManager, step: int, item: str) -> PyTree:
  """Shapes and types of what a checkpoint holds."""
  return manager.item_metadata(step)[item].tree


def load_params(workdir, item: str = 'ema') -> tuple[ml_collections.ConfigDict, PyTree, int]:
  """(config, parameters, step) of a workdir's newest checkpoint, on the first device.

  Args:
    workdir: a training's or a conversion's.
    item: 'ema' (what generates best) or 'params'.

  Raises:
    UserError: no workdir, no checkpoint yet, or `item` is neither.
  """
  if item not in ('ema', 'params'):
    raise UserError(f'weights {item!r} are not in a checkpoint: ask for ema or params')
  config = read_config(workdir)
  no_checkpoint = (
    f'workdir {workdir} has no checkpoint yet: train on (config.checkpoint_every says how often one is saved)'
  )
  path = epath.Path(workdir).resolve() / 'checkpoints'
  if not path.exists():
    raise UserError(no_checkpoint)
  with _manager(path) as manager:
    step = manager.latest_step()
    if step is None:
      raise UserError(no_checkpoint)
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    saved = _saved_tree(manager, step, item)
    abstract = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=sharding), saved)
    params = manager.restore(step, args=ocp.args.Composite(**{item: ocp.args.StandardRestore(abstract)}))[item]
  return config, params, step


def load_part(
  workdir, wanted: PyTree, into: str, ignored: str = '', missing: Sequence[str] = ()
) -> dict[str, np.ndarray]:
  """A workdir's parameters for a part of a larger tree.

  Args:
    workdir: as `load_params`.
    wanted: the whole tree.
    into: the branch of it that they are ('' for all of it).
    ignored: a regex of paths of theirs that are left out ('' for none).
    missing: regexes of paths in the branch that the workdir need not have.

  Returns:
    by path in `wanted`.

  Raises:
    UserError: as `load_params`, or names or shapes differ otherwise.
  """
  _, saved, _ = load_params(workdir)
  for key in into.split('/') if into else ():
    wanted = wanted[key]
  leaves = {path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(saved)}
  leaves = {p: x for p, x in leaves.items() if not (ignored and re.search(ignored, p))}
  check_fit(leaves, {path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(wanted)}, str(workdir), missing)
  return {f'{into}/{p}' if into else p: x for p, x in leaves.items()}


def save_params(
  workdir, config: ml_collections.ConfigDict, params: PyTree, step: int, ema: PyTree | None = None
) -> None:
  """Makes a workdir of parameters that come from elsewhere; `generate` and `evaluate` take it as a trained one.

  Raises:
    UserError: the workdir already has a checkpoint.
  """
  workdir = epath.Path(workdir)
  if (workdir / 'checkpoints').exists():
    raise UserError(f'{workdir} already has checkpoints: name another --output, nothing is overwritten')
  write_config(workdir, config)
  with _manager(workdir.resolve() / 'checkpoints') as manager:
    manager.save(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardSave(params),
        ema=ocp.args.StandardSave(params if ema is None else ema),
      ),
    )
    manager.wait_until_finished()


def check_fit(saved: PyTree, wanted: PyTree, source: str, new: Sequence[str] = ()) -> None:
  """Raises UserError unless both trees have the same names and shapes; the sentence names the first that differ.

  Args:
    saved, wanted: trees of anything with a shape.
    source: where `saved` is from, for the sentence.
    new: regular expressions of paths that only `wanted` has.
  """
  shapes = lambda tree: {
    jax.tree_util.keystr(p, simple=True, separator='/'): tuple(x.shape)
    for p, x in jax.tree_util.tree_leaves_with_path(tree)
  }
  old, made = shapes(saved), shapes(wanted)
  for name in made:
    if name not in old and any(re.search(regex, name) for regex in new):
      continue
    if name not in old:
      near = difflib.get_close_matches(name, old, n=1)
      hint = f' (nearest: {near[0]})' if near else ''
      raise UserError(f'{source} lacks parameter {name}{hint}: it was made by another model config')
    if old[name] != made[name]:
      raise UserError(
        f'{source} has {name} of shape {old[name]}, the config makes {made[name]}: set config.model as it was'
      )
  extra = [n for n in old if n not in made]
  if extra:
    raise UserError(
      f'{source} has parameters the config does not make, {", ".join(extra[:3])}: set config.model as it was'
    )

"""The checkpoints of a run, written atomically: a kill at any moment leaves the previous checkpoint intact.

A checkpoint has the items `params`, `ema`, `training` (optimiser state and step), `iterator` (position in the data) and
`run` (settings that must match on resumption). Its files have digests (`talkjax.training.digests`). Generation and
evaluation read only the first two items. `ema` has trainable parameters only; checkpoints of earlier versions have it
of all. A converted checkpoint has `params`, and `ema` where it was published.
"""

import contextlib
import difflib
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from talkjax.corpora import feature_cache
from talkjax.errors import UserError
from talkjax.media import outputs
from talkjax.training import digests
from talkjax.training.sharding import path_name
from talkjax.training.state import State
from talkjax.training.workdir import read_config, write_config

PyTree = Any


def has_checkpoint(workdir) -> bool:
  """Whether the workdir has a checkpoint from which a run can resume."""
  path = epath.Path(workdir) / 'checkpoints'
  return path.exists() and bool(ocp.utils.checkpoint_steps(path))


def set_aside(workdir, step: int) -> None:
  """Moves the checkpoints after `step` to the folder `discarded` of the workdir, so that a run resumes from `step`.

  Raises:
    UserError: there is no checkpoint of that step.
  """
  workdir = epath.Path(workdir)
  path = workdir / 'checkpoints'
  steps = sorted(ocp.utils.checkpoint_steps(path)) if path.exists() else []
  if step not in steps:
    there = f'its checkpoints are of steps {", ".join(map(str, steps))}' if steps else 'it has no checkpoint'
    raise UserError(f'--resume_from={step}: workdir {workdir} has no checkpoint of that step: {there}')
  for later in steps[steps.index(step) + 1 :]:
    target = workdir / 'discarded' / str(later)
    number = next(n for n in itertools.count() if not target.with_name(f'{later}.{n}').exists())
    try:
      target.parent.mkdir(exist_ok=True)
      (path / str(later)).rename(target.with_name(f'{later}.{number}'))
    except OSError as error:
      raise UserError(
        f'cannot move checkpoint {later} to {target.parent} ({error.strerror}): make room there'
      ) from error


class Checkpoints:
  """The checkpoints of one workdir, saved asynchronously and atomically."""

  def __init__(self, workdir, keep: int = 3):
    self._workdir = epath.Path(workdir).resolve()
    self.path = self._workdir / 'checkpoints'
    self._saving = 0  # the step that is being saved
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep,
      cleanup_tmp_directories=True,
      async_options=ocp.AsyncOptions(post_finalization_callback=self._write_digests),
    )
    self._manager = _manager(self.path, options)

  def _write_digests(self) -> None:
    if jax.process_index() == 0:
      digests.write(self._workdir, self._saving)

  @property
  def latest(self) -> int | None:
    return self._manager.latest_step()

  def save(self, state: State, iterator) -> None:
    """Starts an asynchronous save of `state` and the data iterator.

    Raises:
      UserError: the disk has no room for it.
    """
    step = int(state.step)
    if step == self.latest:
      return
    self.wait()
    resumed = f'resumes from step {self.latest}' if self.latest is not None else 'starts again'
    needed, then = sum(x.nbytes for x in jax.tree.leaves(state)), f'; the same command then {resumed}'
    outputs.check_space(self.path, needed, f'the checkpoint of step {step} needs', then)
    self._saving = step
    training = {'step': state.step, 'opt_state': _leaves(state.opt_state)}
    self._manager.save(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardSave(state.params),
        ema=ocp.args.StandardSave(_without_none(state.ema)),
        training=ocp.args.StandardSave(training),
        iterator=grain.checkpoint.CheckpointSave(iterator),
        run=ocp.args.JsonSave({'processes': jax.process_count()}),
      ),
    )

  def restore(self, state: State, iterator) -> State:
    """Restores the latest checkpoint, and `iterator` in place.

    Shapes and shardings are those of `state` (arrays or ShapeDtypeStructs).

    Raises:
      UserError: the checkpoint is damaged, was written by a different number of processes, or its parameters do not
        fit.
    """
    step = self.latest
    with _refuse_damage(self._manager, self._workdir, step):
      return self._restore(step, state, iterator)

  def _restore(self, step: int, state: State, iterator) -> State:
    run = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
    if run['processes'] != jax.process_count():
      raise UserError(
        f'checkpoint {self.path}/{step} was trained by {run["processes"]} processes, not {jax.process_count()}, and '
        f'the order of the data depends on it: resume with {run["processes"]}, or start a '
        'new run with --config.init_from'
      )
    check_fit(_saved_tree(self._manager, step, 'params'), state.params, f'checkpoint {self.path}/{step}')
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    training = {'step': abstract.step, 'opt_state': _leaves(abstract.opt_state)}
    # Averages of frozen parameters, in a checkpoint of an earlier version, are not read.
    averages = flatten_dict(_without_none(abstract.ema))
    saved = flatten_dict(_saved_tree(self._manager, step, 'ema'))
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardRestore(abstract.params),
        ema=ocp.args.StandardRestore(unflatten_dict({p: averages.get(p) for p in saved})),
        training=ocp.args.StandardRestore(training),
        iterator=grain.checkpoint.CheckpointRestore(iterator),
      ),
    )
    read = flatten_dict(restored.ema)
    ema = jax.tree.leaves(unflatten_dict({p: read[p] for p in averages}))
    opt_state = _from_leaves(restored.training['opt_state'])
    return State(
      restored.training['step'],
      restored.params,
      jax.tree.unflatten(jax.tree.structure(state.ema), ema),
      jax.tree.unflatten(jax.tree.structure(state.opt_state), opt_state),
    )

  def wait(self) -> None:
    self._manager.wait_until_finished()

  def close(self) -> None:
    self._manager.close()


@contextlib.contextmanager
def _refuse_damage(
  manager: ocp.CheckpointManager, workdir: epath.Path, step: int, items: Sequence[str] = ()
) -> Iterator[None]:
  """Raises UserError, with the remedy, for a checkpoint whose files have changed or cannot be read in the block."""
  earlier = [s for s in sorted(manager.all_steps()) if s < step]
  remedy = 'restore it from a copy, or train or convert into another workdir'
  if earlier:
    remedy = (
      f'continue a training from the one before with --resume_from={earlier[-1]}; to generate with that one, move '
      f'{workdir}/checkpoints/{step} elsewhere'
    )
  what = f'checkpoint {workdir}/checkpoints/{step} is damaged'
  if problem := digests.damage(workdir, step, items):
    raise UserError(f'{what} ({problem}): {remedy}')
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # without digests, Orbax and its storage fail in many ways
    raise UserError(f'{what} ({type(error).__name__}: {str(error).splitlines()[0][:200]}): {remedy}') from error


# Optimiser states are nested tuples, whose types Orbax does not preserve: they are stored as a flat dict.
def _leaves(tree: PyTree) -> dict[str, Any]:
  return {f'{i:05}': x for i, x in enumerate(jax.tree.leaves(tree))}


def _without_none(tree: dict[str, Any]) -> dict[str, Any]:
  return unflatten_dict({path: x for path, x in flatten_dict(tree).items() if x is not None})


def _from_leaves(leaves: dict[str, Any]) -> list:
  return [leaves[k] for k in sorted(leaves)]


def _manager(path: epath.Path, options: ocp.CheckpointManagerOptions | None = None) -> ocp.CheckpointManager:
  # With explicit handlers, the manager can read a checkpoint's metadata before restoring anything.
  arrays = {item: ocp.StandardCheckpointHandler() for item in ('params', 'ema', 'training')}
  handlers = {**arrays, 'iterator': grain.checkpoint.CheckpointHandler(), 'run': ocp.JsonCheckpointHandler()}
  return ocp.CheckpointManager(path, options=options, item_handlers=handlers)


def _saved_tree(manager: ocp.CheckpointManager, step: int, item: str) -> PyTree:
  """Shapes and dtypes of an item of a checkpoint; {} if it lacks the item."""
  metadata = manager.item_metadata(step).get(item)
  return {} if metadata is None else metadata.tree


def load_params(workdir, item: str = 'ema') -> tuple[ml_collections.ConfigDict, PyTree, int]:
  """(config, parameters, step) of a workdir's newest checkpoint, on the first device.

  Args:
    workdir: of a training run or a conversion.
    item: 'ema' (generates best; parameters without an average are read from 'params') or 'params'.

  Raises:
    UserError: no workdir, no checkpoint yet, a damaged one, values that are not finite, or an unknown `item`.
  """
  if item not in ('ema', 'params'):
    raise UserError(f'unknown checkpoint weights {item!r}: expected ema or params')
  config = read_config(workdir)
  no_checkpoint = (
    f'workdir {workdir} has no checkpoint yet: train longer (config.checkpoint_every is the interval in steps)'
  )
  path = epath.Path(workdir).resolve() / 'checkpoints'
  if not path.exists():
    raise UserError(no_checkpoint)
  with _manager(path) as manager:
    step = manager.latest_step()
    if step is None:
      raise UserError(no_checkpoint)
    with _refuse_damage(manager, path.parent, step, ('params', item)):
      params = _read_params(manager, step, item)
  check_finite(params, f'checkpoint {path}/{step}')
  return config, unflatten_dict(params), step


def _read_params(manager: ocp.CheckpointManager, step: int, item: str) -> dict[tuple[str, ...], jax.Array]:
  """The parameters of `item` by path; those that it lacks are read from 'params'."""
  sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  if not _saved_tree(manager, step, 'params'):
    raise KeyError('it has no item params')
  wanted, params = {}, {}  # by path: the item that each parameter is read from, and what was read
  for name in ('params', item):
    wanted |= dict.fromkeys(flatten_dict(_saved_tree(manager, step, name)), name)
  for name in set(wanted.values()):
    abstract = {
      path: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=sharding) if wanted[path] == name else None
      for path, m in flatten_dict(_saved_tree(manager, step, name)).items()
    }
    args = ocp.args.Composite(**{name: ocp.args.StandardRestore(unflatten_dict(abstract))})
    read = flatten_dict(manager.restore(step, args=args)[name])
    params |= {path: x for path, x in read.items() if wanted[path] == name}
  return params


def check_finite(params: Mapping[tuple[str, ...], Any], source: str) -> None:
  """Raises UserError if a parameter, by path, has a value that is not a finite number; the message names it."""
  for path, x in params.items():
    values = np.asarray(x)
    with np.errstate(invalid='ignore'):  # the extremes are NaN if any value is, and need no temporary array
      extremes = [values.min(), values.max()] if values.size and values.dtype.kind not in 'biu' else [0]
    if not np.isfinite(extremes).all():
      raise UserError(
        f'{source} has {"/".join(path)} with values that are not finite: it is damaged, or was saved by a training '
        'that diverged; use another copy'
      )


def fingerprint(params: PyTree) -> str:
  """A digest of the names, shapes and values of parameters, 16 letters."""
  return feature_cache.fingerprint({path: np.asarray(x) for path, x in flatten_dict(params, sep='/').items()})


def saved_shapes(workdir) -> dict[str, Any]:
  """By path, `shape` and `dtype` of the parameters in a workdir's newest checkpoint; {} without a checkpoint."""
  path = epath.Path(workdir).resolve() / 'checkpoints'
  if not has_checkpoint(workdir):
    return {}
  with _manager(path) as manager:
    saved = _saved_tree(manager, manager.latest_step(), 'params')
  return {path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(saved)}


def saved_paths(workdir) -> tuple[str, ...]:
  """The paths of the parameters in a workdir's newest checkpoint; none without a checkpoint."""
  return tuple(saved_shapes(workdir))


def load_part(
  workdir, wanted: PyTree, into: str, ignored: str = '', missing: Sequence[str] = ()
) -> dict[str, np.ndarray]:
  """Loads a workdir's parameters as one branch of a larger tree.

  Args:
    workdir: as in `load_params`. Of a system that has this branch too, such as a helper network and the frozen encoder
      that it was trained on, only the branch is loaded.
    wanted: the whole tree.
    into: path of the branch ('' for the whole tree).
    ignored: a regex of paths in the workdir that are not loaded ('' for none).
    missing: regexes of paths in the branch that may be missing in the workdir.

  Returns:
    Parameters by path in `wanted`.

  Raises:
    UserError: as `load_params`, or other names or shapes differ.
  """
  config, saved, _ = load_params(workdir)
  if into and 'system' in config and into in saved:
    saved = saved[into]
  for key in into.split('/') if into else ():
    wanted = wanted[key]
  leaves = {path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(saved)}
  leaves = {p: x for p, x in leaves.items() if not (ignored and re.search(ignored, p))}
  check_fit(leaves, {path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(wanted)}, str(workdir), missing)
  return {f'{into}/{p}' if into else p: x for p, x in leaves.items()}


def save_params(
  workdir, config: ml_collections.ConfigDict, params: PyTree, step: int, ema: PyTree | None = None
) -> None:
  """Writes a workdir with given parameters; `generate` and `evaluate` accept it like a trained one.

  Without `ema`, the parameters are stored once and read in its place.

  Raises:
    UserError: the workdir already has a checkpoint, or a parameter is not finite.
  """
  workdir = epath.Path(workdir)
  for tree in (params, ema or {}):
    check_finite(flatten_dict(tree), 'the source of these weights')
  check_new(workdir, '--output')
  outputs.check_space(
    workdir, sum(np.asarray(x).nbytes for x in jax.tree.leaves((params, ema))), 'these weights need', ''
  )
  write_config(workdir, config)
  options = ocp.CheckpointManagerOptions(cleanup_tmp_directories=True)  # of a conversion that was killed
  with _manager(workdir.resolve() / 'checkpoints', options) as manager:
    trees = {'params': params} if ema is None else {'params': params, 'ema': ema}
    items = {item: ocp.args.StandardSave(tree) for item, tree in trees.items()}
    manager.save(step, args=ocp.args.Composite(**items))
    manager.wait_until_finished()
  digests.write(workdir, step)


def check_new(workdir, flag: str) -> None:
  """Raises UserError unless a workdir can be made in this folder: it is new, empty, or of a command that was killed."""
  path = epath.Path(workdir)
  if path.exists() and not path.is_dir():
    raise UserError(f'{flag}={workdir} is a file: name a folder')
  if has_checkpoint(path):
    raise UserError(f'{workdir} already has checkpoints, which are not overwritten: choose another {flag}')
  if '://' not in str(workdir):
    outputs.check_folder(os.fspath(workdir), f'{flag}={workdir}')


def check_fit(saved: PyTree, wanted: PyTree, source: str, new: Sequence[str] = ()) -> None:
  """Raises UserError unless both trees have the same names and shapes; the message names the first that differ.

  Args:
    saved, wanted: trees of leaves with a shape.
    source: origin of `saved`, for the message.
    new: regular expressions of paths that only `wanted` needs to have.
  """
  shapes = lambda tree: {
    jax.tree_util.keystr(p, simple=True, separator='/'): tuple(x.shape)
    for p, x in jax.tree_util.tree_leaves_with_path(tree)
  }
  saved_shapes, wanted_shapes = shapes(saved), shapes(wanted)
  for name in wanted_shapes:
    if name not in saved_shapes and any(re.search(regex, name) for regex in new):
      continue
    if name not in saved_shapes:
      near = difflib.get_close_matches(name, saved_shapes, n=1)
      hint = f' (nearest: {near[0]})' if near else ''
      raise UserError(f'{source} lacks parameter {name}{hint}: it was made with another model config')
    if saved_shapes[name] != wanted_shapes[name]:
      raise UserError(
        f'{source} has {name} of shape {saved_shapes[name]}, the config makes {wanted_shapes[name]}: set '
        'config.model as it was'
      )
  extra = [n for n in saved_shapes if n not in wanted_shapes]
  if extra:
    raise UserError(
      f'{source} has parameters the config does not make, {", ".join(extra[:3])}: set config.model as it was'
    )

"""Trains a system.

  python -m talkjax.train --config=configs/speech_edit.py:tiny --workdir=runs/tiny --config.batch_size=16

A stopped or killed run goes on where its last checkpoint was when the same command is given again, with the losses it
would have had. On several hosts start the same command on each (see launch/).
"""

import math
import os
import signal
import sys
import time

import jax
import ml_collections
import numpy as np
import tqdm
from absl import flags
from etils import epath
from ml_collections import config_flags

from talkjax import cli, systems
from talkjax.errors import UsageError, UserError
from talkjax.media.picture import strip
from talkjax.training import checkpoint, input_pipeline, memory, metrics_log, sharding, state
from talkjax.training.workdir import read_config, write_config

_CONFIG = cli.flag(
  config_flags.DEFINE_config_file,
  'config',
  None,
  'File of the config, with its arguments: FILE.py[:size[,key=value...]].',
)
_WORKDIR = cli.flag(flags.DEFINE_string, 'workdir', None, 'Folder of the run: a new one, or one to go on with.')


def train(config: ml_collections.ConfigDict, workdir: str) -> state.State:
  """Trains until `config.steps` and returns the last state.

  Raises:
    UserError: the workdir belongs to another config, the corpus is missing, a checkpoint does not fit, or the loss is
      no longer finite.
  """
  # Devices.
  config = ml_collections.FrozenConfigDict(config)
  mesh = sharding.make_mesh(config.mesh)
  accumulate = config.optimizer.accumulate
  shards = mesh.shape['data'] * mesh.shape['fsdp'] * accumulate
  if config.batch_size % shards:
    raise UserError(f'config.batch_size={config.batch_size} must be a multiple of data x fsdp x accumulate = {shards}')

  # Data.
  system = systems.build(config)
  iterator = input_pipeline.training_iterator(config.data, system.read, config.batch_size, config.seed)
  workdir = epath.Path(workdir)
  for earlier in (config.init_from, *config.foundations.values()):
    if earlier:
      read_config(earlier)  # what is missing is said before anything is written

  # State.
  optimizer = state.make_optimizer(config.optimizer, config.steps)
  start = iterator.get_state()
  example, _ = input_pipeline.split_names(next(iterator))
  iterator.set_state(start)
  shapes = {k: jax.ShapeDtypeStruct((config.batch_size, *v.shape[1:]), v.dtype) for k, v in example.items()}

  def create(rng):
    zeros = {k: jax.numpy.zeros(s.shape, s.dtype) for k, s in shapes.items()}
    return state.create(system.init, optimizer, config.train, rng, zeros)

  abstract = jax.eval_shape(create, jax.random.key(config.seed))
  layout = sharding.tree_shardings(abstract, mesh, config.rules)
  batch_layout = sharding.batch_sharding(mesh)

  # Restore.
  found = {} if checkpoint.has_checkpoint(workdir) else _weights(config, abstract.params)
  if jax.process_index() == 0:
    write_config(workdir, ml_collections.ConfigDict(config))
  checkpoints = checkpoint.Checkpoints(workdir, config.keep_checkpoints)
  if checkpoints.latest is not None:
    abstract = jax.tree.map(lambda s, l: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=l), abstract, layout)
    train_state = checkpoints.restore(abstract, iterator)
  else:
    train_state = jax.jit(create, out_shardings=layout)(jax.random.key(config.seed))
    train_state = _initialise(train_state, found, layout)
  first = int(train_state.step)

  # Step.
  step_fn = jax.jit(
    state.make_step(system.loss, optimizer, config.train, ema=config.ema, accumulate=accumulate, seed=config.seed),
    in_shardings=(layout, batch_layout),
    out_shardings=(layout, sharding.replicated(mesh)),
    donate_argnums=0,
  )
  log = metrics_log.MetricsLog(workdir, first)
  stop = _StopRequest()
  previous = None  # metrics of the step before: fetched after the next one is dispatched, so that no device waits
  clock, clock_step = time.perf_counter(), first
  bar = tqdm.tqdm(
    total=config.steps,
    initial=first,
    unit='step',
    disable=jax.process_index() > 0,
    file=sys.stderr,
    mininterval=0.5 if sys.stderr.isatty() else 30,
  )

  def settle(previous):
    """Fetches a step's metrics, stops the run if they are not finite, and logs them where it is their turn."""
    nonlocal clock, clock_step
    step, metrics, names = previous
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    if not math.isfinite(values['loss']):
      raise UserError(
        f'the loss is {values["loss"]} at step {step} on clips {", ".join(sorted(set(names))[:8])}: nothing after '
        'the last checkpoint is kept; lower config.optimizer.learning_rate or look at those clips'
      )
    if step % config.log_every == 0 or step == config.steps:
      now = time.perf_counter()
      values['steps_per_second'] = (step - clock_step) / (now - clock) if step > clock_step else 0.0
      clock, clock_step = now, step
      log.scalars(step, values)
      bar.set_postfix(loss=f'{values["loss"]:.4f}')

  try:
    for step in range(first + 1, config.steps + 1):
      batch, names = input_pipeline.split_names(next(iterator))
      train_state, metrics = step_fn(train_state, input_pipeline.to_device(batch, batch_layout))
      if previous:
        settle(previous)
      previous = (step, metrics, names)
      bar.update()

      # Log and save.
      stopping = stop.requested(step)
      if config.sample_every and (step % config.sample_every == 0 or step == config.steps):
        log.picture(step, 'strip', _sample(system, train_state.ema, config))
      if step % config.checkpoint_every == 0 or step == config.steps or stopping:
        settle(previous)  # never save what is not finite
        previous = None
        checkpoints.save(train_state, iterator)
      if stopping:
        bar.write(f'stopped at step {step} as asked; the same command goes on from here', file=sys.stderr)
        break
    checkpoints.wait()
  finally:
    bar.close()
    log.close()
    checkpoints.close()
    stop.restore()
  return train_state


def _weights(config, wanted) -> dict[str, np.ndarray]:
  """Parameters by path that a run starts with, strictly: an earlier stage's (`config.init_from`) and foundations'."""
  found = {}
  if config.init_from:
    found |= checkpoint.load_part(config.init_from, wanted, '', missing=config.init_new)
  for name, into, ignored, missing in config.load:
    if workdir := config.foundations[name]:
      found |= checkpoint.load_part(workdir, wanted, into, ignored, (missing,) if missing else ())
  if sidecar := input_pipeline.open_sidecar(config.data):
    sidecar.check_weights(found, tuple(wanted))
  return found


def _initialise(train_state: state.State, found: dict[str, np.ndarray], layout) -> state.State:
  """The state with the parameters that were found."""
  if not found:
    return train_state

  def place(tree):  # twice: parameters and EMA are separate buffers of a donated state
    def leaf(path, fresh, where):
      value = found.get(sharding.path_name(path))
      return fresh if value is None else jax.device_put(np.asarray(value), where)

    return jax.tree_util.tree_map_with_path(leaf, tree, layout.params)

  return train_state.replace(params=place(train_state.params), ema=place(train_state.ema))


def _sample(system, params, config) -> np.ndarray:
  """A strip of a held-out clip: truth above, generated below."""
  records = list(input_pipeline.eval_records(config.data, config.data.eval_split, 1))
  inputs = system.inputs(records, num_frames=config.sample_frames)
  frames = [np.asarray(f[0]) for f in system.generate(params, inputs, np.zeros(1, np.uint32))]
  return strip([inputs.truth[0], frames])


class _StopRequest:
  """Whether SIGTERM came; on several processes all agree on the step at which they stop."""

  def __init__(self):
    self._asked = False
    self._old = signal.signal(signal.SIGTERM, self._ask) if jax.process_count() == 1 else None

  def _ask(self, *_):
    self._asked = True

  def requested(self, step: int) -> bool:
    if jax.process_count() == 1:
      return self._asked
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)

  def restore(self) -> None:
    if self._old is not None:
      signal.signal(signal.SIGTERM, self._old)


def main(_):
  for name, value in (('config', _CONFIG.value), ('workdir', _WORKDIR.value)):
    if value is None:
      raise UsageError(
        f'--{name} is missing: python -m talkjax.train --config=configs/speech_edit.py:tiny --workdir=runs/tiny'
      )
  memory.keep_freed()
  if 'TALKJAX_COORDINATOR' in os.environ:  # set by launch/; a cloud TPU pod is found without it
    jax.distributed.initialize(
      os.environ['TALKJAX_COORDINATOR'], int(os.environ['TALKJAX_PROCESSES']), int(os.environ['TALKJAX_PROCESS'])
    )
  elif os.environ.get('TALKJAX_DISTRIBUTED'):
    jax.distributed.initialize()
  train(_CONFIG.value, _WORKDIR.value)


if __name__ == '__main__':
  cli.run(main)

"""Trains a system.

  python -m talkjax.train --config=configs/speech_edit.py:tiny --workdir=runs/tiny --config.batch_size=16

A stopped or killed run resumes from its last checkpoint when the same command is given again, with the losses of an
uninterrupted run. On several hosts, start the same command on each (see launch/).
"""

import contextlib
import math
import os
import re
import signal
import sys
import time
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np
import tqdm
from etils import epath
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils

from talkjax import options, systems
from talkjax.corpora import feature_cache
from talkjax.errors import UserError
from talkjax.media.picture import strip
from talkjax.options import Option
from talkjax.training import checkpoint, input_pipeline, lock, memory, metrics_log, ranges, sharding, state
from talkjax.training.compile import train_patterns, training_program
from talkjax.training.workdir import RANDOM, is_workdir, read_config, write_config
from talkjax.weights import encoders

OPTIONS = (
  options.CONFIG,
  Option('workdir', str, 'Folder of the run: a new one, or one to resume.'),
  Option(
    'resume_from',
    int,
    'Resume from the checkpoint of this step instead of the newest; later ones are moved to WORKDIR/discarded.',
    minimum=0,
  ),
)
EXAMPLE = 'python -m talkjax.train --config=configs/speech_edit.py:tiny --workdir=runs/tiny'


def train(config: ml_collections.ConfigDict, workdir: str, resume_from: int | None = None) -> state.State:
  """Trains until `config.steps` and returns the last state.

  Args:
    config: of a system.
    workdir: a new folder, or that of a run with this config, which resumes.
    resume_from: the step of the checkpoint to resume from, if not the newest.

  Raises:
    UsageError: a number of the config is outside its range.
    UserError: the workdir belongs to another config or another process trains in it, the corpus is missing, a
      checkpoint is damaged or does not fit, or the loss is no longer finite.
  """
  ranges.check(config)
  with contextlib.ExitStack() as stack:
    if jax.process_index() == 0:
      stack.enter_context(lock.exclusive(workdir))
      if resume_from is not None:
        checkpoint.set_aside(workdir, resume_from)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('checkpoints to resume from')
    return _train(config, workdir)


def _train(config: ml_collections.ConfigDict, workdir: str) -> state.State:
  # Data.
  config = ml_collections.FrozenConfigDict(with_joined(with_encoder_sizes(config)))
  _check_batch_size(config)
  system = systems.build(config)
  workdir = epath.Path(workdir)
  if not checkpoint.has_checkpoint(workdir):
    check_sources(config, system)  # what is missing is reported before anything is computed or written
  caches, encoder = encoders.open_caches(config, system.encoder, system.features)
  if 'coefficients' in system.features:
    from talkjax.weights import coefficients  # which other systems need not import

    if (sized := coefficients.with_sizes(config, caches)) != config:
      config, system = sized, systems.build(sized)
  caches += system.precompute(caches) if system.precompute else ()
  iterator = input_pipeline.training_iterator(config.data, system.read, config.batch_size, config.seed, caches)

  # State and step.
  start = iterator.get_state()
  with systems.consistent(config):
    example, _ = input_pipeline.split_names(next(iterator))
    program = training_program(config, system, example)
  iterator.set_state(start)

  # Restore.
  loaded = {} if checkpoint.has_checkpoint(workdir) else _load(config, system, program.state.params, caches, encoder)
  if jax.process_index() == 0:
    write_config(workdir, ml_collections.ConfigDict(config))
  checkpoints = checkpoint.Checkpoints(workdir, config.keep_checkpoints)
  if checkpoints.latest is not None:
    train_state = checkpoints.restore(program.state, iterator)
  else:
    train_state = program.create(jax.random.key(config.seed))
    train_state = _initialise(train_state, loaded, program.layout)
  first = int(train_state.step)

  # Step.
  log = _Log(config, workdir, first)
  stop = _StopRequest()
  try:
    log.parameters(program.state.params, state.trainable_mask(program.state.params, train_patterns(config, system)))
    for step in range(first + 1, config.steps + 1):
      batch, names = input_pipeline.split_names(next(iterator))
      train_state, metrics = program.step(train_state, input_pipeline.to_device(batch, program.batch_layout))
      log.add(step, metrics, names)

      # Log and save.
      stopping = stop.requested(step)
      if config.sample_every and system.generate and (step % config.sample_every == 0 or step == config.steps):
        log.picture(step, 'strip', _sample(system, train_state.averaged, config))
      if step % config.checkpoint_every == 0 or step == config.steps or stopping:
        log.flush()  # a state that is not finite is never saved
        checkpoints.save(train_state, iterator)
      if stopping:
        log.print(f'stopped at step {step} as asked; the same command resumes from here')
        break
    checkpoints.wait()
  finally:
    log.close()
    checkpoints.close()
    stop.restore()
  return train_state


def _check_batch_size(config) -> None:
  accumulate, devices = config.optimizer.accumulate, jax.device_count()
  mesh = sharding.make_mesh(config.mesh, config.batch_size // accumulate)
  shards = mesh.shape['data'] * mesh.shape['fsdp'] * accumulate
  if config.batch_size % shards:
    raise UserError(
      f'config.batch_size={config.batch_size} must be a multiple of data x fsdp x accumulate = {shards}: set '
      f'--config.batch_size={-(-config.batch_size // shards) * shards}, or another --config.mesh'
    )
  if mesh.size < devices:
    print(
      f'config.batch_size={config.batch_size} trains on {mesh.size} of {devices} devices: a multiple of '
      f'{devices // mesh.shape["tensor"] * accumulate} trains on all',
      file=sys.stderr,
    )


def with_encoder_sizes(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The config with the sizes of the wav2vec 2.0 that `audio.weights`, or else the earlier stage, has."""
  audio = config.get('audio', {'kind': 'none'})
  if audio['kind'] != 'wav2vec2' or audio.wav2vec2:
    return config
  config = ml_collections.ConfigDict(config).copy_and_resolve_references()
  if is_workdir(config.audio.weights):
    about = read_config(config.audio.weights)
    config.audio.wav2vec2 = about.get('wav2vec2', {}) or about.get('audio', {}).get('wav2vec2', {})
  elif is_workdir(config.init_from) and not config.audio.weights:
    config.audio.wav2vec2 = read_config(config.init_from).get('audio', {}).get('wav2vec2', {})
  return config


def with_joined(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The config with those of the workdirs of other systems that it joins."""
  if not config.get('joins'):
    return config
  from talkjax.systems import joined  # which few systems need

  return joined.with_configs(config)


def check_sources(config, system: systems.System) -> None:
  """Checks that a new run need not start from random weights where pretrained ones are meant.

  Raises:
    UserError: a workdir does not exist; neither `config.pretrained` nor the earlier stage has a network of
      `config.load`; or a frozen network has no weights. The value 'random' in place of a workdir permits it.
  """
  load = (*config.load, *system.load)
  given = {name: _pretrained(config, name) for name, *_ in load}
  for workdir in filter(is_workdir, (config.init_from, *config.pretrained.values(), *given.values())):
    if not _in_package(workdir):
      read_config(workdir)
  earlier = checkpoint.saved_paths(config.init_from) if is_workdir(config.init_from) else ()
  for name, into, _, missing in load:
    inside = [path.removeprefix(f'{into}/') for path in earlier if path.startswith(f'{into}/')]
    has = any(not (missing and re.search(missing, path)) for path in inside)
    if not given[name] and not has:
      key = f'pretrained.{name}' if name in config.pretrained else name
      remedy = f'convert --source={name} --path=FILE_OR_DIR --output=DIR'
      if name in systems.names():
        remedy = f'train --config=configs/{name}.py --workdir=DIR'
      raise UserError(
        f'config.{key} is not set, and {into} needs its weights: set it to the workdir made by `python -m '
        f'talkjax.{remedy}`, or to random to train without them'
      )
  loaded = {system.encoder.kind} if system.encoder else set()
  loaded |= {'morphable'} if 'coefficients' in system.features else set()
  loaded |= {'corpus'} if system.collect else set()
  loaded |= {into.partition('/')[0] for _, into, *_ in load} | {path.partition('/')[0] for path in earlier}
  for branch in system.frozen:
    if branch not in loaded and config.init_from != RANDOM:
      raise UserError(
        f'the frozen {branch} has no weights: set --config.init_from to the workdir of an earlier stage, or to random '
        'to train without them'
      )


def _pretrained(config, name: str) -> str:
  """The workdir of a network to be loaded: `config.pretrained.NAME`, or of one of our own helpers `config.NAME`."""
  return config.pretrained[name] if name in config.pretrained else config[name]


def _in_package(workdir: str) -> bool:
  """Whether what stands for a workdir is a network that comes with the package."""
  from talkjax.weights import packaged  # which later stages and most sizes do not need

  return workdir in packaged.NETWORKS


def _load(config, system, wanted, caches, encoder: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The parameters by path that a run starts from: of an earlier stage (`config.init_from`) and of pretrained networks.

  Loading is strict, except for what `config.init_new` and `config.load` allow to be missing, and what
  `config.init_ignored` leaves out.
  """
  loaded = {}
  if is_workdir(config.init_from):
    missing = (*config.init_new, *(f'^{path}$' for path in encoder))
    loaded |= checkpoint.load_part(config.init_from, wanted, '', config.get('init_ignored', ''), missing)
  for name, into, ignored, missing in (*config.load, *system.load):
    source, new = _pretrained(config, name), (missing,) if missing else ()
    if _in_package(source):
      from talkjax.weights import packaged

      loaded |= packaged.load_part(source, wanted, into, new)
    elif is_workdir(source):
      loaded |= checkpoint.load_part(source, wanted, into, ignored, new)
      _check_helper(source, caches)
  shapes = {sharding.path_name(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(wanted)}
  for path, value in encoder.items():
    if shapes.get(path) != value.shape:
      raise UserError(
        f'{path} has the shape {list(value.shape)} in the encoder of the cached features, and the config makes '
        f'{list(shapes.get(path, ()))}: set the sizes of config.{path.partition("/")[0]} to those of the cache'
      )
  loaded |= encoder
  if system.collect:
    loaded |= system.collect(input_pipeline.open_corpus(config.data, config.data.split, caches))
  for cache in caches:
    cache.check_weights(loaded, tuple(wanted))
  return loaded


def _check_helper(workdir: str, caches) -> None:
  """Raises UserError unless a helper network of ours was trained on features of the frozen networks of `caches`."""
  if 'system' not in read_config(workdir):
    return
  _, saved, _ = checkpoint.load_params(workdir)
  for about in (about for cache in caches for about in cache.about.values()):
    own = {path: np.asarray(x) for path, x in flatten_dict(saved.get(about['branch'], {}), sep='/').items()}
    if own and feature_cache.fingerprint(own) != about['weights']:
      raise UserError(
        f'{workdir} was trained on features of another {about["branch"]} than those of this run ({about["workdir"]}): '
        'train it again on them'
      )


def _initialise(train_state: state.State, loaded: dict[str, np.ndarray], layout) -> state.State:
  """The state with the loaded parameters in place of fresh ones."""
  if not loaded:
    return train_state

  def place(tree, layouts):  # twice: parameters and EMA are separate buffers of a donated state
    def leaf(path, fresh, where):
      value = loaded.get(sharding.path_name(path))
      return fresh if value is None else jax.device_put(np.asarray(value), where)

    return jax.tree_util.tree_map_with_path(leaf, tree, layouts)

  return train_state.replace(params=place(train_state.params, layout.params), ema=place(train_state.ema, layout.ema))


def _sample(system: systems.System, params, config) -> np.ndarray:
  """A strip of a held-out clip: truth above, generated below."""
  records = list(input_pipeline.eval_records(config.data, config.data.eval_split, 1))
  batch = system.from_records(records, num_frames=config.sample_frames)
  chunk = systems.join(system.generate(params, batch.conditions, np.zeros(1, np.uint32)))
  return strip([batch.truth[0].frames, list(chunk.frames[0])])


class _Log:
  """The progress bar and the metrics, which are fetched one step late so that no device waits for them."""

  def __init__(self, config, workdir, first: int):
    self._config, self._pending = config, None
    self._log = metrics_log.MetricsLog(workdir, first)
    self._clock, self._clock_step = time.perf_counter(), first
    self._bar = tqdm.tqdm(
      total=config.steps,
      initial=first,
      unit='step',
      disable=jax.process_index() > 0,
      file=sys.stderr,
      mininterval=0.5 if sys.stderr.isatty() else 30,
    )

  def add(self, step: int, metrics, names: list[str]) -> None:
    """Takes the metrics of a step that has been dispatched, and fetches those of the step before."""
    self.flush()
    self._pending = step, metrics, names
    self._bar.update()

  def flush(self) -> None:
    """Fetches the pending metrics and logs them every `log_every` steps. Raises UserError if they are not finite."""
    if self._pending is None:
      return
    step, metrics, names = self._pending
    self._pending = None
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    if not math.isfinite(values['loss']):
      raise UserError(
        f'the loss is {values["loss"]} at step {step} on clips {", ".join(sorted(set(names))[:8])}: nothing after '
        'the last checkpoint is kept; lower config.optimizer.learning_rate or look at those clips'
      )
    if step % self._config.log_every == 0 or step == self._config.steps:
      now = time.perf_counter()
      elapsed = now - self._clock
      values['steps_per_second'] = (step - self._clock_step) / elapsed if step > self._clock_step else 0.0
      self._clock, self._clock_step = now, step
      self._log.scalars(step, values)
      self._bar.set_postfix(loss=f'{values["loss"]:.4f}')

  def parameters(self, params, trains) -> None:
    self.print(self._log.parameters(params, trains))

  def picture(self, step: int, name: str, rgb: np.ndarray) -> None:
    self._log.picture(step, name, rgb)

  def print(self, text: str) -> None:
    self._bar.write(text, file=sys.stderr)

  def close(self) -> None:
    self._bar.close()
    self._log.close()


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
    return multihost_utils.reached_preemption_sync_point(step)

  def restore(self) -> None:
    if self._old is not None:
      signal.signal(signal.SIGTERM, self._old)


def _main(args) -> None:
  options.required(args, ('config', 'workdir'), EXAMPLE)
  memory.keep_freed()
  if 'TALKJAX_COORDINATOR' in os.environ:  # set by launch/; a cloud TPU pod is found without it
    jax.distributed.initialize(
      os.environ['TALKJAX_COORDINATOR'], int(os.environ['TALKJAX_PROCESSES']), int(os.environ['TALKJAX_PROCESS'])
    )
  elif os.environ.get('TALKJAX_DISTRIBUTED'):
    jax.distributed.initialize()
  train(args.config, args.workdir, args.resume_from)


def main(argv: Sequence[str] | None = None) -> int:
  from talkjax import cli  # which the loop does not need

  return cli.run(_main, OPTIONS, __doc__, argv)


if __name__ == '__main__':
  sys.exit(main())

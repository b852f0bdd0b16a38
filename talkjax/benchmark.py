"""Measures a config on this machine: training, generation, input.

  python -m talkjax.benchmark --config=configs/speech_edit.py:tiny --output=benchmark.json

Times are medians of interleaved repetitions, so that a noisy machine disturbs all alike. `gflops` counts what XLA says
the compiled step computes; `matmul_gflops` is what this machine reaches on one large matrix product of the same type.
On a CPU, `processor_share_of_matmul` compares both in processor time, for machines where other programs run.

No pretrained weights are needed: parameters are random, and so are cached features (the states of a speech encoder, and
latents where `config.data.feature_cache` is set). `--config.data.corpus=puppets/tiny` benchmarks any config without its
own corpus.
"""

import collections
import dataclasses
import json
import math
import pathlib
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from talkjax import cli, options, systems
from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.media import files, outputs
from talkjax.media.segments import AUDIO_RATE
from talkjax.options import Option
from talkjax.systems import coefficients
from talkjax.systems.portrait.latents import factor
from talkjax.training import input_pipeline, memory, ranges
from talkjax.training.compile import Program, training_program
from talkjax.weights import speech

OPTIONS = (
  options.CONFIG,
  Option('output', str, 'A JSON file for the figures.'),
  Option('repeats', int, 'Repetitions of each measurement.', 7, minimum=1),
  Option('compile_only', bool, 'Only compile the training step, and report the memory that a device needs.', False),
  Option('training_only', bool, 'Leave generation out.', False),
  Option('videos', int, 'Videos generated at once.', 1, minimum=1),
  Option('seconds', float, 'Also generate a video of this length, once.', minimum=0),
  Option('profile', str, 'A folder for a profile of three training steps; the costliest operations are printed.'),
)


def interleaved(functions: dict[str, Callable[[], object]], repeats: int, clock=time.perf_counter) -> dict[str, float]:
  """Median seconds of each function, called in turn `repeats` times after one call that is not counted.

  The clock may be `time.process_time`: the processor time of all threads, which other programs hardly disturb.
  """
  times = {name: [] for name in functions}
  for repeat in range(repeats + 1):
    for name, function in functions.items():
      start = clock()
      jax.block_until_ready(function())
      if repeat:
        times[name].append(clock() - start)
  return {name: statistics.median(values) for name, values in times.items()}


class RandomFeatures:
  """Reads records as a system does, with random numbers for the features that frozen networks would have cached."""

  def __init__(self, config: ml_collections.ConfigDict, system: systems.System):
    self._read, self._states = system.read, system.encoder.shape if system.encoder else None
    self._side = config.size // factor(config.latents) if config.data.get('feature_cache', '') else 0
    model = config.morphable if 'coefficients' in system.features else None
    self._coefficients = model.identity + model.expression + 6 if model else 0
    self._motion = model.expression if system.precompute else 0  # which an earlier stage of fd2talk predicts

  def __call__(self, record: Record, generator: np.random.Generator) -> dict[str, np.ndarray]:
    fixed, frames, shapes = np.random.default_rng(0), len(record.frames), {}
    if self._states:
      shapes['speech'] = (math.ceil(frames / record.fps * speech.RATE), *self._states)
    if self._side:
      shapes['latents'] = (frames, self._side, self._side, 8)  # mean and log variance of 4 channels
    if self._coefficients:
      shapes['coefficients'] = (frames, self._coefficients)
    if self._motion:
      shapes['motion'] = (frames, self._motion)
    features = {k: fixed.standard_normal(shape, np.float32).astype(np.float16) for k, shape in shapes.items()}
    return self._read(dataclasses.replace(record, features=features), generator)


def training_input(config: ml_collections.ConfigDict, system: systems.System, batch_size: int) -> Iterator:
  """Training batches whose cached features are random."""
  return input_pipeline.training_iterator(config.data, RandomFeatures(config, system), batch_size, config.seed)


def with_random_faces(init: Callable) -> Callable:
  """`System.init` with a morphable model of random shapes in place of the blank one, to which no pose can be fitted."""

  def made(rng: jax.Array, batch) -> dict:
    params = init(rng, batch)
    if coefficients.BRANCH not in params:
      return params
    model, keys = dict(params[coefficients.BRANCH]), jax.random.split(rng, 3)
    count = len(model['mean'])
    for key, name in zip(keys, ('mean', 'identity', 'expression')):
      model[name] = jax.random.normal(key, model[name].shape) * (1 if name == 'mean' else 0.1)
    for name in ('triangles', 'mouth', 'landmarks68', 'rigid'):
      model[name] = jnp.arange(model[name].size, dtype=jnp.int32).reshape(model[name].shape) % count
    model |= {'row_std': jnp.ones_like(model['row_std']), 'noise': jnp.ones(()), 'camera': jnp.array([2.0, 10.0, 0.0])}
    return {**params, coefficients.BRANCH: model}

  return made


def compile_step(program: Program) -> tuple[jax.stages.Compiled, float]:
  """The compiled training step, and the seconds that compilation took; no array is made."""
  start = time.perf_counter()
  compiled = program.step.lower(program.state, program.batch).compile()
  return compiled, time.perf_counter() - start


def compile_only(config: ml_collections.ConfigDict) -> dict:
  """What the training step needs on each device, from the compiled program: nothing is allocated, nothing runs."""
  single = config.copy_and_resolve_references()
  single.data.update({'examples_per_record': 1, 'workers': 0})
  system = systems.build(single)
  iterator = training_input(single, system, jax.process_count())
  program = training_program(config, system, input_pipeline.split_names(next(iterator))[0])
  compiled, seconds = compile_step(program)
  memory = compiled.memory_analysis()
  return {
    'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'weights': 'random',
    'batch_size': config.batch_size,
    'dtype': config.dtype,
    'remat': config.remat,
    'parameters': sum(x.size for x in jax.tree.leaves(program.state.params)),
    'compile_seconds': seconds,
    'step_argument_bytes': memory.argument_size_in_bytes,
    'step_temporary_bytes': memory.temp_size_in_bytes,
    'step_bytes': memory.argument_size_in_bytes + memory.temp_size_in_bytes,
  }


def benchmark(
  config: ml_collections.ConfigDict,
  repeats: int,
  *,
  training_only: bool = False,
  videos: int = 1,
  seconds: float | None = None,
  profile: str | None = None,
) -> dict:
  """The figures, by name; times in seconds, memory in bytes. The arguments are the command's options."""
  system = systems.build(config)
  system = dataclasses.replace(system, init=with_random_faces(system.init))
  iterator = training_input(config, system, config.batch_size)
  figures = {
    'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'weights': 'random',
    'batch_size': config.batch_size,
    'dtype': config.dtype,
  }
  figures.update(_input(iterator, config.batch_size, repeats))

  # The training step.
  host, _ = input_pipeline.split_names(next(iterator))
  program = training_program(config, system, host)
  batch = input_pipeline.to_device(host, program.batch_layout)
  compiled, figures['compile_seconds'] = compile_step(program)
  start = time.perf_counter()
  holder = [jax.block_until_ready(program.create(jax.random.key(0)))]
  figures['create_seconds'] = time.perf_counter() - start  # of the fresh state, mostly its compilation
  params = jax.tree.map(jnp.copy, holder[0].params)

  def train():
    holder[0], metrics = compiled(holder[0], batch)
    return metrics

  size = 4096 if jax.default_backend() != 'cpu' else 1536
  a = jnp.ones((size, size), config.dtype)
  multiply = jax.jit(lambda a: a @ a)
  functions = {'step': train, 'matmul': lambda: multiply(a)}
  times = interleaved(functions, repeats)
  flops = (compiled.cost_analysis() or {}).get('flops', float('nan'))
  memory = compiled.memory_analysis()
  figures.update(
    {
      'parameters': sum(x.size for x in jax.tree.leaves(params)),
      'step_seconds': times['step'],
      'frames_per_second': config.batch_size / times['step'],
      'gflops': flops / times['step'] / 1e9,
      'matmul_gflops': 2 * size**3 / times['matmul'] / 1e9,
      'input_over_step': figures['input_frames_per_second'] * times['step'] / config.batch_size,
      'step_temporary_bytes': getattr(memory, 'temp_size_in_bytes', None),
    }
  )
  figures['share_of_matmul'] = figures['gflops'] / figures['matmul_gflops']
  if jax.default_backend() == 'cpu':
    spent = interleaved(functions, repeats, time.process_time)
    figures['step_processor_seconds'] = spent['step']
    figures['processor_share_of_matmul'] = flops * spent['matmul'] / (2 * size**3 * spent['step'])
  if profile:
    figures['profile'] = _profile(train, profile)

  if system.generate and not training_only:
    figures.update(_sampler(config, params, repeats, videos))
    if seconds:
      figures.update(_long_video(config, params, seconds))
  figures['peak_host_bytes'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' in stats:
    figures['peak_device_bytes'] = stats['peak_bytes_in_use']
  return figures


def _input(iterator, batch_size: int, repeats: int) -> dict:
  """Frames a second that the pipeline alone delivers, after its caches are warm."""
  for _ in range(repeats):
    next(iterator)
  count = 0
  start = time.perf_counter()
  while count < 3 * repeats or time.perf_counter() - start < 3:
    next(iterator)
    count += 1
  return {'input_frames_per_second': count * batch_size / (time.perf_counter() - start)}


def _sampler(config, params, repeats: int, videos: int) -> dict:
  """Times the generation of one frame (or clip); for systems with a sampler, also the same program with one step."""
  clip = next(input_pipeline.eval_records(config.data, config.data.split, 1))
  seeds = np.zeros(videos, np.uint32)
  frames = config.get('frames') or config.get('space', {}).get('frames', 1)  # that are generated at once

  def generation(config) -> Callable:
    system = systems.build(config)
    conditions = system.from_records([clip] * videos, num_frames=frames).conditions
    return lambda: [chunk.frames for chunk in system.generate(params, conditions, seeds)]

  functions = {'all': generation(config)}
  if 'sampler' in config:
    one_step = config.copy_and_resolve_references()
    one_step.sampler.steps = 1
    functions['one'] = generation(one_step)
  times = interleaved(functions, repeats)
  figures = {
    'generated_frames': videos * frames,
    'sampler_seconds_per_frame': times['all'] / videos / frames,
    'generated_frames_per_second': videos * frames / times['all'],
  }
  if 'sampler' in config:
    steps = config.sampler.steps
    figures |= {'sampler_steps': steps, 'sampler_over_bare_steps': times['all'] / (steps * times['one'])}
  return figures


def _long_video(config, params, seconds: float) -> dict:
  """Times one video of this many seconds: a clip repeated. What the shorter video did not compile is included."""
  clip = next(input_pipeline.eval_records(config.data, config.data.split, 1))
  count = math.ceil(seconds * clip.fps)
  index = np.arange(count) % len(clip.frames)
  clip = dataclasses.replace(
    clip,
    frames=tuple(clip.frames[i] for i in index),
    audio=np.resize(clip.audio, round(count / clip.fps * AUDIO_RATE)),
    box=clip.box[index],
    landmarks=clip.landmarks[index],
    pose=clip.pose[index],
  )
  system = systems.build(config)
  conditions = system.from_records([clip], num_frames=count).conditions
  start = time.perf_counter()
  generated = sum(chunk.frames.shape[1] for chunk in system.generate(params, conditions, np.zeros(1, np.uint32)))
  elapsed = time.perf_counter() - start
  return {'long_video_frames': generated, 'long_video_seconds': elapsed}


def _profile(train: Callable[[], object], folder: str, steps: int = 3, rows: int = 25) -> list[dict]:
  """Writes a profile of training steps for TensorBoard, and returns the operations that took longest.

  Returns:
    By operation, over all its calls in a step: name, milliseconds and calls.
  """
  with jax.profiler.trace(folder):
    for _ in range(steps):
      jax.block_until_ready(train())
  newest = max(pathlib.Path(folder).rglob('*.xplane.pb'), key=lambda path: path.stat().st_mtime)
  total, calls = collections.Counter(), collections.Counter()
  for plane in jax.profiler.ProfileData.from_file(str(newest)).planes:
    for line in plane.lines:
      on_device = plane.name.startswith('/device:') and line.name.startswith(('Stream', 'XLA Ops'))
      if on_device or line.name.startswith('tf_XLA'):  # of a CPU, the threads that compute
        for event in line.events:
          if not event.name.startswith(('end: ', 'Threadpool', 'ThunkExecutor')):
            total[event.name] += event.duration_ns
            calls[event.name] += 1
  return [
    {'operation': name, 'ms_per_step': duration / steps / 1e6, 'calls_per_step': calls[name] / steps}
    for name, duration in total.most_common(rows)
  ]


def _figures(path: str) -> bool:
  """Whether a file has the figures of an earlier benchmark."""
  try:
    found = json.loads(files.read_bytes(path, 'a JSON file'))
  except (UserError, ValueError, RecursionError):
    return False
  return isinstance(found, dict) and {'device', 'parameters'} <= found.keys()


def _main(args) -> None:
  options.required(args, ['config'], 'python -m talkjax.benchmark --config=configs/speech_edit.py:tiny')
  ranges.check(args.config)
  if args.output is not None:
    outputs.check(args.output, ['.json'], replaceable=_figures, remedy='choose another name')
  if args.profile is not None:
    outputs.check_folder(args.profile, f'--profile={args.profile}')
  memory.keep_freed()  # as training does
  if args.compile_only:
    figures = compile_only(args.config)
  else:
    how = {name: getattr(args, name) for name in ('training_only', 'videos', 'seconds', 'profile')}
    figures = benchmark(args.config, args.repeats, **how)
  if args.output:
    outputs.write_text(args.output, json.dumps(figures, indent=2) + '\n')
  for row in figures.pop('profile', ()):
    print(f'{row["ms_per_step"]:10.2f} ms {row["calls_per_step"]:8.1f} x  {row["operation"][:90]}')
  width = max(map(len, figures))
  for name, value in figures.items():
    print(f'{name.ljust(width)}  {value:,.4g}' if isinstance(value, float) else f'{name.ljust(width)}  {value}')


def main(argv: Sequence[str] | None = None) -> int:
  return cli.run(_main, OPTIONS, __doc__, argv)


if __name__ == '__main__':
  sys.exit(main())

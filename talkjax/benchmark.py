"""Measures a config on this machine: training, generation, input.

  python -m talkjax.benchmark --config=configs/speech_edit.py:tiny --output=benchmark.json

Times are medians of interleaved repetitions, so that a noisy machine disturbs all alike. `gflops` counts what XLA says
the compiled step computes; `matmul_gflops` is what this machine reaches on one large matrix product of the same type.
"""

import dataclasses
import json
import pathlib
import resource
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from talkjax import cli, systems
from talkjax.errors import UsageError
from talkjax.training import input_pipeline, memory, sharding, state

_CONFIG = cli.flag(config_flags.DEFINE_config_file, 'config', None, 'File of the config, with its arguments.')
_OUTPUT = cli.flag(flags.DEFINE_string, 'output', None, 'A JSON file for the figures.')
_REPEATS = cli.flag(flags.DEFINE_integer, 'repeats', 7, 'Repetitions of each measurement.')
_COMPILE_ONLY = cli.flag(
  flags.DEFINE_bool, 'compile_only', False, 'Only compile the training step, and say what memory a device needs.'
)
_BATCH = cli.flag(flags.DEFINE_integer, 'videos', 1, 'Videos generated at once.')


def interleaved(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
  """Median seconds of each function, called in turn `repeats` times after one call that is not counted."""
  times = {name: [] for name in functions}
  for repeat in range(repeats + 1):
    for name, function in functions.items():
      start = time.perf_counter()
      jax.block_until_ready(function())
      if repeat:
        times[name].append(time.perf_counter() - start)
  return {name: statistics.median(values) for name, values in times.items()}


@dataclasses.dataclass(frozen=True)
class Program:
  """The compiled training step, and what makes the state that it takes."""

  create: Callable
  step: jax.stages.Compiled
  abstract: state.State
  seconds: float  # of compilation


def compile_step(config, system, mesh, shapes) -> Program:
  """Compiles the training step for batches of these shapes, without making any array."""
  optimizer = state.make_optimizer(config.optimizer, config.steps)

  def create(rng):
    zeros = {k: jnp.zeros(v.shape, v.dtype) for k, v in shapes.items()}
    return state.create(system.init, optimizer, config.train, rng, zeros)

  abstract = jax.eval_shape(create, jax.random.key(0))
  layout = sharding.tree_shardings(abstract, mesh, config.rules)
  step = state.make_step(
    system.loss, optimizer, config.train, ema=config.ema, accumulate=config.optimizer.accumulate, seed=0
  )
  shardings = (layout, sharding.batch_sharding(mesh))
  jitted = jax.jit(step, in_shardings=shardings, out_shardings=(layout, None), donate_argnums=0)
  # Shapes say where they lie as the arrays will: attention asks (`talkjax.nn.attention`).
  laid = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  start = time.perf_counter()
  compiled = jitted.lower(
    jax.tree.map(laid, abstract, layout), {k: laid(x, shardings[1]) for k, x in shapes.items()}
  ).compile()
  return Program(jax.jit(create, out_shardings=layout), compiled, abstract, time.perf_counter() - start)


def compile_only(config: ml_collections.ConfigDict) -> dict:
  """What the training step needs on each device, from the compiled program: nothing is allocated, nothing runs."""
  data = config.data.copy_and_resolve_references()
  data.update({'examples_per_record': 1, 'workers': 0})
  system = systems.build(config)
  example, _ = input_pipeline.split_names(
    next(input_pipeline.training_iterator(data, system.read, jax.process_count(), config.seed))
  )
  shapes = {k: jax.ShapeDtypeStruct((config.batch_size, *v.shape[1:]), v.dtype) for k, v in example.items()}
  program = compile_step(config, system, sharding.make_mesh(config.mesh), shapes)
  memory = program.step.memory_analysis()
  return {
    'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'batch_size': config.batch_size,
    'dtype': config.dtype,
    'remat': config.remat,
    'parameters': sum(x.size for x in jax.tree.leaves(program.abstract.params)),
    'compile_seconds': program.seconds,
    'step_argument_bytes': memory.argument_size_in_bytes,
    'step_temporary_bytes': memory.temp_size_in_bytes,
    'step_bytes': memory.argument_size_in_bytes + memory.temp_size_in_bytes,
  }


def benchmark(config: ml_collections.ConfigDict, repeats: int, videos: int) -> dict:
  """The figures, by name; times in seconds, memory in bytes."""
  mesh = sharding.make_mesh(config.mesh)
  system = systems.build(config)
  iterator = input_pipeline.training_iterator(config.data, system.read, config.batch_size, config.seed)
  figures = {
    'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'batch_size': config.batch_size,
    'dtype': config.dtype,
  }
  figures.update(_input(iterator, config.batch_size, repeats))

  # The training step.
  host, _ = input_pipeline.split_names(next(iterator))
  batch = input_pipeline.to_device(host, sharding.batch_sharding(mesh))
  shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()}
  program = compile_step(config, system, mesh, shapes)
  compiled, holder = program.step, [program.create(jax.random.key(0))]
  figures['compile_seconds'] = program.seconds
  params = jax.tree.map(jnp.copy, holder[0].params)

  def train():
    holder[0], metrics = compiled(holder[0], batch)
    return metrics

  size = 4096 if jax.default_backend() != 'cpu' else 1536
  a = jnp.ones((size, size), config.dtype)
  multiply = jax.jit(lambda a: a @ a)
  times = interleaved({'step': train, 'matmul': lambda: multiply(a)}, repeats)
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

  figures.update(_sampler(config, params, repeats, videos))
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
  """One frame (or clip) made with all steps of the sampler, beside the same program with one step."""
  clip = next(input_pipeline.eval_records(config.data, config.data.split, 1))
  functions, steps, seeds = {}, config.sampler.steps, np.zeros(videos, np.uint32)
  frames = config.get('frames', 1)  # that are made at once
  for name, count in (('all', steps), ('one', 1)):
    changed = config.copy_and_resolve_references()
    changed.sampler.steps = count
    system = systems.build(changed)
    inputs = system.inputs([clip] * videos, num_frames=frames)
    if hasattr(inputs, 'frames'):
      inputs = dataclasses.replace(inputs, frames=list(inputs.frames))  # read once: cropping faces is not sampling
    functions[name] = lambda system=system, inputs=inputs: list(system.generate(params, inputs, seeds))
  times = interleaved(functions, repeats)
  return {
    'sampler_steps': steps,
    'sampler_seconds_per_frame': times['all'] / videos / frames,
    'sampler_over_bare_steps': times['all'] / (steps * times['one']),
    'generated_frames_per_second': videos * frames / times['all'],
  }


def main(_):
  if _CONFIG.value is None:
    raise UsageError('--config is missing: python -m talkjax.benchmark --config=configs/speech_edit.py:tiny')
  memory.keep_freed()  # as training does
  if _COMPILE_ONLY.value:
    figures = compile_only(_CONFIG.value)
  else:
    figures = benchmark(_CONFIG.value, _REPEATS.value, _BATCH.value)
  width = max(map(len, figures))
  for name, value in figures.items():
    print(f'{name.ljust(width)}  {value:,.4g}' if isinstance(value, float) else f'{name.ljust(width)}  {value}')
  if _OUTPUT.value:
    path = pathlib.Path(_OUTPUT.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + '\n')


if __name__ == '__main__':
  cli.run(main)

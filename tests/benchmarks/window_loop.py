"""What denoising in windows costs besides the network: time, and bytes between host and devices, per step.

  python -m tests.benchmarks.window_loop [--seconds=60] [--shape=64,64,4] [--repeats=5] [--output=F.json]

A video with frames of that shape, by default V-Express's latents of 512 x 512 pixels, is sampled in windows of 12
frames that share 4 with the next, 8 of them at once, with a factor in place of the network. `windows.sample`, which
keeps frames, noise and sums on the devices, is compared with a loop that keeps them on the host.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.benchmark import interleaved
from talkjax.diffusion import samplers, schedules, windows
from talkjax.diffusion.noise import keyed_normal
from tests.benchmarks.timing import CLOCKS, make_parser

FPS, SIZE, OVERLAP, AT_ONCE, STEPS = 25, 12, 4, 8, 4


def on_host(shape, plan, groups, table, seeds, functions) -> tuple[np.ndarray, int]:
  """(what `windows.sample` returns, the bytes that crossed), with all arrays on the host between compiled calls."""
  crossed = 0

  def call(function, *args):
    nonlocal crossed
    result = np.asarray(function(*args))
    crossed += result.nbytes + sum(a.nbytes for a in args if isinstance(a, np.ndarray))
    return result

  seeds = np.repeat(seeds, plan.sizes)
  numbers = np.concatenate([np.arange(size, dtype=np.uint32) for size in plan.sizes])
  shares = windows.coverage(plan.frames, plan.count).reshape(-1, 1, 1, 1)
  x = call(functions.noise, np.zeros((plan.count, *shape), np.float32), seeds, numbers, len(table))
  crossed = 0
  for index in range(len(table)):
    level, row = jax.tree.map(jnp.asarray, table.rows(index)), table.rows(np.array([index]))
    sums = np.zeros_like(x)
    for group in groups:
      prediction = call(functions.predict, 0, x[plan.frames[group]], level)
      for frames, values in zip(plan.frames[group], prediction):
        sums[frames] += values
    x = call(functions.step, (sums / shares).astype(np.float32), x, seeds, numbers, row, index)
  return x, crossed // len(table)


def main():
  parser = make_parser(__doc__)
  parser.add_argument('--seconds', type=float, default=60.0)
  parser.add_argument('--shape', default='64,64,4')
  args = parser.parse_args()
  shape = tuple(int(n) for n in args.shape.split(','))
  plan = windows.plan([round(args.seconds * FPS)], SIZE, OVERLAP)
  groups = windows.groups(len(plan.frames), AT_ONCE)
  groups[-1] = groups[-1][groups[-1] >= groups[-1][0]]  # none twice, for the loop on the host
  table = samplers.ddpm(schedules.make('linear', 1000), STEPS, spacing='trailing')
  seeds = np.zeros(1, np.uint32)
  noise = jax.jit(lambda x, seeds, numbers, index: keyed_normal(seeds, numbers, index, x.shape[1:]))

  @jax.jit
  def step(prediction, x, seeds, numbers, row, index):
    return samplers.sample(lambda *_: prediction, x, row, lambda _: noise(x, seeds, numbers, index), target='x0')

  predict = jax.jit(lambda number, x, level: 0.9 * x)
  functions = windows.Functions(noise, predict, step)
  found, crossed = on_host(shape, plan, groups, table, seeds, functions)
  kept = lambda: jax.block_until_ready(windows.sample(shape, plan, groups, table, seeds, functions))
  difference = float(np.abs(found - np.asarray(kept())[: plan.count]).max())
  times = interleaved(
    {'host': lambda: on_host(shape, plan, groups, table, seeds, functions), 'devices': kept},
    args.repeats,
    CLOCKS[args.clock],
  )
  figures = {
    'frames': plan.count,
    'largest_difference': difference,
    'host_bytes_per_step': crossed,
    # Indices, which windows are gathered and added up with.
    'device_bytes_per_step': 2 * sum(plan.frames[group].nbytes for group in groups),
    **{f'{name}_seconds_per_step': value / STEPS for name, value in times.items()},
  }
  print(json.dumps(figures, indent=2))
  if args.output:
    pathlib.Path(args.output).write_text(json.dumps(figures))


if __name__ == '__main__':
  main()

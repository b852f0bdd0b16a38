"""Speed of the U-Net against the published PyTorch one: same weights, same batch, in turn, medians.

  python -m tests.benchmarks.speed_against_torch [--case=dve_unet_multi] [--batch=2] [--size=64] [--repeats=9]
      [--output=F.json]

needs PyTorch beside talkjax's own dependencies (`pip install .[parity]`) and a golden case (TALKJAX_GOLDENS), whose
output both must give before they are timed. PyTorch runs eagerly in both memory formats; the ratio takes the faster of
the two. All run in one process and keep their freed memory (talkjax.training.memory). `--clock=cpu` counts processor
time, which other programs on the machine disturb little: pin it to one core (taskset -c 0) for that.
"""

import json
import os
import pathlib

from talkjax.training import memory  # noqa: E402

memory.keep_freed()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from tests.benchmarks import timing  # noqa: E402
from tests.golden_cases import Case  # noqa: E402
from tests.golden_cases import unet as golden  # noqa: E402
from tests.torch_unet import UNet  # noqa: E402


def torch_functions(case, batch, channels_last):
  """(forward, step) of the PyTorch network; each returns when it is done."""
  net = UNet(**case.config['unet'])
  net.load_state_dict({k.removeprefix('denoise_fn.'): torch.from_numpy(v) for k, v in case.state.items()})
  inputs = {k: torch.from_numpy(v) for k, v in batch.items()}
  if channels_last:
    net = net.to(memory_format=torch.channels_last)
    for k in ('x', 'noise'):
      inputs[k] = inputs[k].to(memory_format=torch.channels_last)
  predict = lambda: net(inputs['x'], inputs['gamma'], inputs['audio'])
  return timing.torch_functions(net, predict, inputs['noise'])


def jax_functions(case, batch):
  """The same two of ours."""
  unet, params, _ = golden.load(case)
  inputs = {k: jnp.asarray(v.transpose(0, 2, 3, 1) if v.ndim == 4 else v) for k, v in batch.items()}
  params = jax.tree.map(jnp.asarray, params)

  @jax.jit
  def forward_fn(params):
    return unet.apply(params, inputs['x'], inputs['gamma'], inputs['audio'])

  def loss(params, rng):
    out = unet.apply(params, inputs['x'], inputs['gamma'], inputs['audio'], train=True, rngs={'dropout': rng})
    return timing.squared_error(out, inputs['noise'])

  return lambda: forward_fn(params).block_until_ready(), timing.jax_step(loss, params)


def main():
  parser = timing.make_parser(__doc__)
  parser.set_defaults(repeats=9)
  parser.add_argument('--case', default='dve_unet_multi')
  parser.add_argument('--batch', type=int, default=2)
  parser.add_argument('--size', type=int, default=64)
  parser.add_argument('--what', default='forward,step')
  args = parser.parse_args()
  clock = timing.CLOCKS[args.clock]
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  case = Case(args.case, pathlib.Path(os.environ.get('TALKJAX_GOLDENS', '../shared/goldens')))

  # Both give the golden output.
  inputs = case.inputs
  x = np.concatenate([inputs[k] for k in ('y_t', 'previous_frame', 'id_frame')], axis=1)
  batch = {'x': x, 'gamma': inputs['gamma'][:, 0], 'audio': inputs['audio'], 'noise': inputs['y_t']}
  wanted = case.outputs['eps']
  made = {
    'torch': torch_functions(case, batch, False)[0]().numpy(),
    'jax': golden.nchw(jax_functions(case, batch)[0]()),
  }
  errors = {k: float(np.abs(v - wanted).max() / np.abs(wanted).max()) for k, v in made.items()}
  if max(errors.values()) > case.json['tolerance']:
    raise SystemExit(f'not the published network: relative errors {errors}')

  r = np.random.default_rng(0)
  shape = (args.batch, 3, args.size, args.size)
  batch = {
    'x': r.standard_normal((args.batch, 9, *shape[2:])).astype(np.float32),
    'gamma': r.uniform(size=args.batch).astype(np.float32),
    'audio': r.uniform(-80, 0, (args.batch, 1024)).astype(np.float32),
    'noise': r.standard_normal(shape).astype(np.float32),
  }
  ours = jax_functions(case, batch)
  eager, last = torch_functions(case, batch, False), torch_functions(case, batch, True)
  figures = {'case': args.case, 'batch': args.batch, 'size': args.size, 'golden_errors': errors}
  for i, name in enumerate(('forward', 'step')):
    if name not in args.what:
      continue
    functions = {'jax': ours[i], 'torch': eager[i], 'torch_channels_last': last[i]}
    figures[name] = timing.against_torch(timing.interleaved(functions, args.repeats, clock))
  print(json.dumps(figures, indent=2))
  if args.output:
    pathlib.Path(args.output).write_text(json.dumps(figures, indent=2) + '\n')


if __name__ == '__main__':
  main()

"""Speed of the latent U-Net and of sampling with it, as ratios of interleaved measurements on one machine.

  python -m tests.benchmarks.speed_latent_unet [--what=unet,attention,precompute,guidance,compile] [--repeats=5]
      [--output=F.json]

unet        Stable Diffusion 1.5's U-Net, narrowed, against diffusers' (eager, in both memory formats; the ratio uses
            the faster), with the same weights; outputs are compared first: forward (goal: 1.0 times as fast or more),
            training step with Adam (0.8)
attention   64 x 64 tokens of 8 heads x 40 against PyTorch's scaled_dot_product_attention (0.9)
precompute  EMO's backbone in a sampling loop, 12 frames after 4 motion frames: the ReferenceNet with its keys and
            values computed once, over computed in every step (0.83 or less)
guidance    EMO's sampler: a clip without guidance over one with (0.55)
compile     forward and step with a filled compilation cache over an empty one, in a process each (0.15)

The first two need `pip install .[parity]`. `--clock=cpu` measures processor time, on which other programs have little
effect: pin the script to one core (taskset -c 0) for that.
"""

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from talkjax.training import memory  # noqa: E402

memory.keep_freed()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from configs import emo as emo_config  # noqa: E402
from talkjax.nn.attention import attention  # noqa: E402
from talkjax.nn.latent_unet import Conditioning, LatentUNet, precompute_kv  # noqa: E402
from talkjax.systems.emo import generation, model  # noqa: E402
from talkjax.systems.portrait import networks  # noqa: E402
from talkjax.systems.sampling import make_table  # noqa: E402
from talkjax.weights import pretrained  # noqa: E402
from talkjax.weights.fit import fit  # noqa: E402
from tests.benchmarks import timing  # noqa: E402
from tests.micro import random_params  # noqa: E402

WIDTHS, HEADS, CONTEXT = (64, 128, 256, 256), 8, 768
TOLERANCE = 1e-4


def normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def nhwc(x):
  return jnp.asarray(x.transpose(0, 2, 3, 1))


def must_agree(got, wanted):
  error = float(np.abs(np.asarray(got) - np.asarray(wanted)).max() / np.abs(np.asarray(wanted)).max())
  if error > TOLERANCE:
    raise SystemExit(f'the two do not compute the same: relative difference {error:.2g}')
  return error


def unet_batch(args):
  return {
    'x': normal(1, args.batch, 4, args.size, args.size),
    'noise': normal(2, args.batch, 4, args.size, args.size),
    'time': np.linspace(10, 900, args.batch).astype(np.int64),
    'text': normal(3, args.batch, 77, CONTEXT),
  }


def jax_unet(net, params, batch):
  """(forward, training step), compiled functions of nothing."""
  x, noise, time, text = nhwc(batch['x']), nhwc(batch['noise']), jnp.asarray(batch['time']), jnp.asarray(batch['text'])

  def predict(params):
    return net.apply({'params': params}, x, time, Conditioning({'text': text}))[0]

  forward = jax.jit(predict)
  step = timing.jax_step(lambda params, rng: timing.squared_error(predict(params), noise), params)
  return lambda: forward(params).block_until_ready(), step


def unet(args, measure):
  import diffusers
  import torch

  torch.manual_seed(0)
  published = functools.partial(
    diffusers.UNet2DConditionModel, block_out_channels=WIDTHS, attention_head_dim=HEADS, cross_attention_dim=CONTEXT
  )
  first = published()
  batch = unet_batch(args)

  def torch_unet(channels_last):
    net = published()
    net.load_state_dict(first.state_dict())
    inputs = {k: torch.from_numpy(v) for k, v in batch.items()}
    if channels_last:
      net = net.to(memory_format=torch.channels_last)
      inputs |= {k: inputs[k].to(memory_format=torch.channels_last) for k in ('x', 'noise')}
    predict = lambda: net(inputs['x'], inputs['time'], inputs['text']).sample
    return timing.torch_functions(net, predict, inputs['noise'])

  net = LatentUNet(widths=WIDTHS, heads=HEADS)
  state = {k: v.numpy() for k, v in first.state_dict().items()}
  params = jax.tree.map(jnp.asarray, fit(state, pretrained.unet_shapes(net, CONTEXT), 'diffusers'))
  ways = {'jax': jax_unet(net, params, batch), 'torch': torch_unet(False), 'torch_channels_last': torch_unet(True)}
  outputs = {name: way[0]() for name, way in ways.items()}
  figures = {'error': must_agree(outputs['jax'], nhwc(outputs['torch'].numpy()))}
  for i, what in enumerate(('forward', 'step')):
    figures[what] = timing.against_torch(measure({name: way[i] for name, way in ways.items()}))
  return figures


def attention_figures(args, measure):
  import torch

  run, figures = jax.jit(attention), {}
  for b in (1, 2):
    qkv = [normal(i, b, 4096, 8, 40) for i in range(3)]
    theirs = [torch.from_numpy(a).transpose(1, 2) for a in qkv]  # as a projection's output is viewed
    ours = [jnp.asarray(a) for a in qkv]

    def scaled_dot_product(theirs=theirs):
      with torch.no_grad():
        return torch.nn.functional.scaled_dot_product_attention(*theirs).transpose(1, 2).contiguous()

    error = must_agree(run(*ours), scaled_dot_product().numpy())
    functions = {'jax': lambda ours=ours: run(*ours).block_until_ready(), 'torch': scaled_dot_product}
    figures[f'batch_{b}'] = {'error': error, **timing.against_torch(measure(functions))}
  return figures


def emo_networks(args):
  """EMO as published but narrowed, with folded pixels as latents: (config, networks, parameters, a batch)."""
  changes = 'audio.kind=mel,latents.kind=fold,dtype=float32,remat=False'
  config = emo_config.get_config(f'paper,stage=2,size={args.clip_size},{changes}')
  config.model.update(widths=WIDTHS, heads=HEADS, context=64, audio_tokens=8)
  config.sampler.steps = args.steps
  nets = model.make_networks(config)
  f, m, size = config.frames, config.margin, config.size
  batch = {
    'reference': np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8),
    'region': np.ones((1, size, size, 1), np.float32),
    'audio': normal(1, 1, f + 2 * m, config.audio.bands * config.audio.columns),
    'speed': np.zeros((1, f + 2 * m), np.float32),
  }
  shapes = jax.eval_shape(functools.partial(networks.init, nets=nets), jax.random.key(0), batch)
  return config, nets, random_params(shapes), batch


def precompute_figures(args, measure):
  config, nets, params, batch = emo_networks(args)
  portrait = networks.encode(params, batch, 'reference', nets)
  motion = jnp.asarray(normal(2, 1, config.motion_frames, *portrait.shape[1:]))
  start = jnp.asarray(normal(3, config.frames, *portrait.shape[1:]))
  audio = precompute_kv(params['backbone'], model.audio_contexts(params, batch['audio'], nets))

  def encode_reference(params, portrait):
    reference, motion_features = networks.reference_features(params, portrait, motion, nets)
    return precompute_kv(params['backbone'], {'reference': reference}), motion_features

  @functools.partial(jax.jit, static_argnums=1)
  def loop(params, once):
    features = encode_reference(params, portrait)

    def step(x, time):
      # The barrier makes the features depend on x, or the compiler would move them out of the loop by itself.
      again = lambda: encode_reference(params, jax.lax.optimization_barrier((portrait, x))[0])
      reference, motion_features = features if once else again()
      conditioning = Conditioning({**reference, **audio}, motion_features=motion_features)
      y, _ = nets.backbone.apply({'params': params['backbone']}, x, time[None], conditioning, config.frames)
      return 0.9 * x + 0.1 * y, None

    return jax.lax.scan(step, start, jnp.linspace(900, 10, args.steps))[0]

  run = lambda once: loop(params, once).block_until_ready()
  error = must_agree(run(True), run(False))
  seconds = measure({'once': lambda: run(True), 'every_step': lambda: run(False)})
  return {'error': error, 'seconds': seconds, 'ratio': seconds['once'] / seconds['every_step']}


def guidance_figures(args, measure):
  config, nets, params, batch = emo_networks(args)
  runs = {}
  for name, scale in (('off', 1.0), ('on', 3.5)):
    config = config.copy_and_resolve_references()
    config.guidance = scale
    sampler = generation.Sampler(nets, config, make_table(config))
    prepared = sampler.prepare(params, batch['reference'], batch['region'])
    clip = {k: batch[k] for k in ('audio', 'speed')}
    given = (prepared, prepared[-1], 1.0, clip, np.zeros(1, np.uint32), 1, {})
    runs[name] = lambda sampler=sampler, given=given: jax.block_until_ready(sampler.clip(params, *given))
  seconds = measure(runs)
  return {'seconds': seconds, 'ratio': seconds['off'] / seconds['on']}


def compile_once(args):
  """Seconds of tracing and of compiling, forward and step together."""
  net = LatentUNet(widths=WIDTHS, heads=HEADS)
  batch = unet_batch(args)
  x, time_, text = nhwc(batch['x']), jnp.asarray(batch['time']), jnp.asarray(batch['text'])
  predict = lambda params: net.apply({'params': params}, x, time_, Conditioning({'text': text}))[0]
  shapes = pretrained.unet_shapes(net, CONTEXT)
  start = time.perf_counter()
  step = jax.value_and_grad(lambda params: timing.squared_error(predict(params), x))
  lowered = [jax.jit(function).lower(shapes) for function in (predict, step)]
  traced = time.perf_counter()
  for program in lowered:
    program.compile()
  return {'tracing': traced - start, 'compiling': time.perf_counter() - traced}


def compile_figures(args, _):
  """The same process twice, with a compilation cache that is empty at first."""
  with tempfile.TemporaryDirectory() as cache:
    env = {**os.environ, 'JAX_COMPILATION_CACHE_DIR': cache, 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
    module, sizes = 'tests.benchmarks.speed_latent_unet', (f'--batch={args.batch}', f'--size={args.size}')
    command = [sys.executable, '-m', module, '--what=compile_once', *sizes]
    cold, warm = (
      json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE).stdout)['compile_once']
      for _ in range(2)
    )
  return {'cold': cold, 'warm': warm, 'ratio': warm['compiling'] / cold['compiling']}


PARTS = {
  'unet': unet,
  'attention': attention_figures,
  'precompute': precompute_figures,
  'guidance': guidance_figures,
  'compile': compile_figures,
}


def main():
  parser = timing.make_parser(__doc__)
  parser.add_argument('--what', default=','.join(PARTS))
  parser.add_argument('--batch', type=int, default=2, help='of the U-Net')
  parser.add_argument('--size', type=int, default=32, help="of the U-Net's latents")
  parser.add_argument('--clip_size', type=int, default=64, help="of EMO's images; the side of its latents is a quarter")
  parser.add_argument('--steps', type=int, default=10, help="of EMO's sampler")
  args = parser.parse_args()
  if args.what == 'compile_once':
    print(json.dumps({'compile_once': compile_once(args)}))
    return
  cores = len(os.sched_getaffinity(0))
  if {'unet', 'attention'} & set(args.what.split(',')):
    import torch

    torch.set_num_threads(cores)
  measure = lambda functions: timing.interleaved(functions, args.repeats, timing.CLOCKS[args.clock])
  figures = {'cores': cores, 'clock': args.clock, **{k: PARTS[k](args, measure) for k in args.what.split(',')}}
  print(json.dumps(figures, indent=2))
  if args.output:
    pathlib.Path(args.output).write_text(json.dumps(figures, indent=2) + '\n')


if __name__ == '__main__':
  main()

"""Speed of a denoising step of V-Express against the released code, as a ratio of interleaved measurements.

  python -m tests.benchmarks.speed_vexpress --published=DIR [--frames=12] [--size=32] [--widths=64,128,256,256]
      [--repeats=5]

DIR is a clone of github.com/tencent-ailab/V-Express. A step is the guided prediction for one window of frames: the
denoising U-Net on the frames with their conditions and without them, and the combination of both. Both sides have the
same random weights, narrowed, and get the same precomputed features of portrait, audio and keypoints; outputs are
compared first. Ours is what generation runs, `Sampler.predict`, with precomputed keys and values of portrait and audio;
theirs is their U-Net with their reference attention, eager, in both memory formats, and the ratio uses the faster
(goal: 1.0 times as fast or more).

Needs `pip install .[parity]`. `--clock=cpu` measures processor time, on which other programs have little effect: pin
the script to one core (taskset -c 0) for that.
"""

import json
import pathlib

from talkjax.training import memory  # noqa: E402

memory.keep_freed()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import torch  # noqa: E402

from configs import vexpress as config_file  # noqa: E402
from talkjax.nn.latent_unet import Conditioning, precompute_kv  # noqa: E402
from talkjax.systems.portrait import networks  # noqa: E402
from talkjax.systems.sampling import make_table  # noqa: E402
from talkjax.systems.vexpress import generation, model, published  # noqa: E402
from talkjax.weights.fit import fit  # noqa: E402
from tests.benchmarks import timing  # noqa: E402
from tests.benchmarks.speed_latent_unet import must_agree, normal  # noqa: E402


def make_config(args):
  """V-Express as released, narrowed."""
  config = config_file.get_config(f'paper,stage=3,size={8 * args.size},frames={args.frames},dtype=float32,remat=False')
  config.model.widths = tuple(int(w) for w in args.widths.split(','))
  config.context_scales.update({k: published.RELEASED[f'context_scales.{k}'] for k in ('reference', 'audio')})
  return config


def released(config):
  """Their denoising U-Net with random weights and its reference attention."""
  from modules import ReferenceAttentionControl, UNet3DConditionModel

  m = config.model
  net = UNet3DConditionModel(
    block_out_channels=m.widths,
    layers_per_block=m.layers,
    attention_head_dim=m.heads,  # the number of heads, in spite of its name
    norm_num_groups=m.groups,
    cross_attention_dim=m.context,
    use_inflated_groupnorm=True,
    unet_use_cross_frame_attention=False,
    unet_use_temporal_attention=False,
    use_motion_module=True,
    motion_module_mid_block=m.temporal_middle,
    motion_module_type='Vanilla',
    motion_module_kwargs=dict(
      num_attention_heads=m.temporal_heads,
      num_transformer_block=1,
      attention_block_types=('Temporal_Self',) * m.temporal_layers,
      temporal_position_encoding=True,
      temporal_position_encoding_max_len=m.max_frames,
    ),
  ).eval()
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():  # of the size of fresh ones, but none zero: a zero-initialised layer would hide an error
    for name, p in net.named_parameters():
      size = 0.02 if p.ndim < 2 else p[0].numel() ** -0.5
      p.copy_(size * torch.randn(p.shape, generator=generator) + (p.ndim < 2 and name.endswith('weight')))
  factors = {f'{k}_attention_weight': config.context_scales[k] for k in ('reference', 'audio')}
  ReferenceAttentionControl(net, mode='read', fusion_blocks='full', **factors)
  return net


def torch_step(net, given, config):
  """Their step as a function without arguments; it returns [1, c, f, h, w]."""

  def with_zeros(x):
    return torch.cat([torch.zeros_like(x), x])

  x, audio, guide = (torch.from_numpy(given[k]) for k in ('x', 'audio', 'guide'))
  audio, guide = with_zeros(audio), with_zeros(guide)
  for name, block in net.named_modules():
    if hasattr(block, 'bank'):
      path = name.removesuffix('.transformer_blocks.0').replace('.', '_')
      block.bank = [with_zeros(torch.from_numpy(given['reference'][path]))]

  @torch.inference_mode()
  def step():
    output = net(x.repeat(2, 1, 1, 1, 1), given['time'], audio, kps_features=guide, return_dict=False)[0]
    without, conditioned = output.chunk(2)
    return without + config.guidance * (conditioned - without)

  return step


def jax_step(sampler, params, given):
  """Our step as a function without arguments; it returns [1, f, h, w, c]."""
  x, guide = (jnp.asarray(given[k].transpose(0, 2, 3, 4, 1)) for k in ('x', 'guide'))
  kv = jax.jit(precompute_kv)(params, {k: given[k] for k in ('reference', 'audio')})
  prepared = generation.Prepared(
    kv['reference'], jnp.zeros_like(x[:, 0])
  )  # only smaller sizes use the portrait's latents
  encoded = Conditioning({'audio': kv['audio']}, guide_features=guide[0])
  level = jax.tree.map(jnp.asarray, sampler.table.rows(0))
  arguments = ({'backbone': params}, prepared, encoded, x, jnp.zeros(1, int), level, {})
  return lambda: sampler.predict(*arguments).block_until_ready()


def main():
  parser = timing.make_parser(__doc__)
  parser.add_argument('--published', required=True, help='a clone of the released code')
  parser.add_argument('--frames', type=int, default=12, help='of a window')
  parser.add_argument('--size', type=int, default=32, help='of the latents')
  parser.add_argument('--widths', default='64,128,256,256', help='channels of the four levels')
  args = parser.parse_args()
  cores = timing.use_published(args.published)

  config = make_config(args)
  sampler = generation.Sampler(model.make_networks(config), config, make_table(config))
  eager, last = released(config), released(config).to(memory_format=torch.channels_last)
  shapes = published.shapes(sampler.nets, published.batch(config))
  state = {k: v.numpy() for k, v in eager.state_dict().items()}
  params = fit(state, shapes['backbone'], 'the released U-Net', published.IGNORED['backbone'])
  params = jax.tree.map(jnp.asarray, params)

  f, s, m = args.frames, args.size, config.model
  encode = lambda p: networks.reference_features(p, jnp.zeros((1, s, s, 4)), None, sampler.nets)[0]
  features = jax.eval_shape(encode, shapes)
  given = {
    'x': normal(1, 1, 4, f, s, s),
    'time': int(sampler.table.timestep[0]),
    'audio': normal(2, f, m.audio_tokens, m.context),
    'guide': normal(3, 1, m.widths[0], f, s, s),
    'reference': {path: normal(4 + i, *like.shape) for i, (path, like) in enumerate(features.items())},
  }
  functions = {
    'jax': jax_step(sampler, params, given),
    'torch': torch_step(eager, given, config),
    'torch_channels_last': torch_step(last, given, config),
  }
  error = must_agree(functions['jax'](), functions['torch']().numpy().transpose(0, 2, 3, 4, 1))
  figures = {
    'cores': cores,
    'clock': args.clock,
    'error': error,
    **timing.against_torch(timing.interleaved(functions, args.repeats, timing.CLOCKS[args.clock])),
  }
  print(json.dumps(figures, indent=2))
  if args.output:
    pathlib.Path(args.output).write_text(json.dumps(figures, indent=2) + '\n')


if __name__ == '__main__':
  main()

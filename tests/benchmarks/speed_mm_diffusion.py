"""Speed of joint_av's coupled U-Net against the published MM-Diffusion, as ratios of interleaved measurements.

  python -m tests.benchmarks.speed_mm_diffusion --published=DIR [--width=64] [--frames=8] [--size=32] [--samples=4096]
      [--repeats=5]

DIR is a clone of github.com/researchmm/MM-Diffusion. Both sides have the same random weights, narrowed, without dropout
and random shifts; outputs are compared first. A training step has the losses of both modalities, their gradients, and
Adam. Theirs is eager, and recomputes the attention between modalities in its backward pass, which it does always.
Goals: forward 1.0 times as fast or more, the training step 0.8.

Needs `pip install .[parity]`. `--clock=cpu` measures processor time, on which other programs have little effect: pin
the script to one core (taskset -c 0) for that.
"""

import json
import pathlib

from talkjax.training import memory  # noqa: E402

memory.keep_freed()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from talkjax.nn.coupled_unet import CoupledUNet  # noqa: E402
from talkjax.weights import mm_diffusion  # noqa: E402
from tests.benchmarks import timing  # noqa: E402
from tests.benchmarks.speed_latent_unet import must_agree, normal  # noqa: E402


def make_flags(args) -> dict:
  """The released flags, narrowed."""
  return {
    'video_size': (args.frames, 3, args.size, args.size),
    'num_channels': args.width,
    'channel_mult': '1,2,3,4',
    'num_heads': 4,
    'num_head_channels': 64,
    'cross_attention_windows': '1,4,8',
    'cross_attention_shift': False,
    'dropout': 0.0,
  }


def published(flags: dict, samples: int):
  """Their network with random weights, of which none is zero: a zero-initialised layer would hide an error."""
  from mm_diffusion.multimodal_unet import MultimodalUNet

  net = MultimodalUNet(
    video_size=flags['video_size'],
    audio_size=(1, samples),
    model_channels=flags['num_channels'],
    video_out_channels=3,
    audio_out_channels=1,
    num_res_blocks=2,
    cross_attention_resolutions=[2, 4, 8],
    cross_attention_windows=[1, 4, 8],
    cross_attention_shift=False,
    video_attention_resolutions=[2, 4, 8],
    audio_attention_resolutions=[-1],
    channel_mult=(1, 2, 3, 4),
    num_heads=flags['num_heads'],
    num_head_channels=flags['num_head_channels'],
    use_scale_shift_norm=True,
    resblock_updown=True,
  )
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for name, p in net.named_parameters():
      size = 0.02 if p.ndim < 2 else p[0].numel() ** -0.5
      p.copy_(size * torch.randn(p.shape, generator=generator) + (p.ndim < 2 and name.endswith('weight')))
  return net


def torch_calls(net, given: dict) -> tuple:
  """(forward, training step) of their network; forward returns video [b, f, c, h, w] and audio [b, c, s]."""
  video, audio, time, targets = (given[k] for k in ('video', 'audio', 'time', 'targets'))
  video, audio, time = torch.from_numpy(video), torch.from_numpy(audio), torch.from_numpy(time)
  targets = [torch.from_numpy(t) for t in targets]
  optimizer = torch.optim.Adam(net.parameters(), lr=timing.LEARNING_RATE)

  def forward():
    net.eval()
    with torch.no_grad():
      return net(video, audio, time)

  def step():
    net.train()
    optimizer.zero_grad()
    loss = sum(timing.squared_error(made, target) for made, target in zip(net(video, audio, time), targets))
    loss.backward()
    optimizer.step()
    return loss.item()

  return forward, step


def jax_calls(net: CoupledUNet, params, given: dict) -> tuple:
  """(forward, training step) of our network; forward returns video [b, f, h, w, c] and audio [b, s, c]."""
  video, *others = (jnp.moveaxis(jnp.asarray(given['video']), 2, -1), jnp.moveaxis(jnp.asarray(given['audio']), 1, -1))
  targets = jnp.moveaxis(jnp.asarray(given['targets'][0]), 2, -1), jnp.moveaxis(jnp.asarray(given['targets'][1]), 1, -1)
  arguments = video, *others, jnp.asarray(given['time']), net.draw_shifts(jax.random.key(0), video.shape[1])
  run = jax.jit(lambda p: net.apply({'params': p}, *arguments))

  def loss(p, rng):
    return sum(
      timing.squared_error(made, target) for made, target in zip(net.apply({'params': p}, *arguments), targets)
    )

  return lambda: jax.block_until_ready(run(params)), timing.jax_step(loss, params)


def main():
  parser = timing.make_parser(__doc__)
  parser.add_argument('--published', required=True, help='a clone of the published code')
  parser.add_argument('--width', type=int, default=64, help='channels of the first level; the published have 128')
  parser.add_argument('--frames', type=int, default=8)
  parser.add_argument('--size', type=int, default=32, help='height and width in pixels')
  parser.add_argument('--samples', type=int, default=4096, help='of the sound')
  args = parser.parse_args()
  cores = timing.use_published(args.published)

  flags = make_flags(args)
  theirs = published(flags, args.samples)
  ours = CoupledUNet(**mm_diffusion.fields(flags) | {'dropout': 0.0, 'middle_window': args.frames})
  state = {name: value.numpy() for name, value in theirs.state_dict().items()}
  params = jax.tree.map(jnp.asarray, mm_diffusion.coupled_unet(state, ours, 'the published network'))
  shapes = (1, args.frames, 3, args.size, args.size), (1, 1, args.samples)
  given = {
    'video': normal(1, *shapes[0]),
    'audio': normal(2, *shapes[1]),
    'time': np.asarray([500], np.int64),
    'targets': (normal(3, *shapes[0]), normal(4, *shapes[1])),
  }
  forward, step = jax_calls(ours, params, given)
  torch_forward, torch_step = torch_calls(theirs, given)
  (video, audio), (their_video, their_audio) = forward(), torch_forward()
  errors = (
    must_agree(video, np.moveaxis(their_video.numpy(), 2, -1)),
    must_agree(audio, np.moveaxis(their_audio.numpy(), 1, -1)),
  )
  clock = timing.CLOCKS[args.clock]
  figures = {
    'cores': cores,
    'clock': args.clock,
    'parameters': sum(x.size for x in jax.tree.leaves(params)),
    'error': max(errors),
    'forward': timing.against_torch(timing.interleaved({'jax': forward, 'torch': torch_forward}, args.repeats, clock)),
    'train_step': timing.against_torch(timing.interleaved({'jax': step, 'torch': torch_step}, args.repeats, clock)),
  }
  print(json.dumps(figures, indent=2))
  if args.output:
    pathlib.Path(args.output).write_text(json.dumps(figures, indent=2) + '\n')


if __name__ == '__main__':
  main()

"""V-Express: conditional dropout for progressive training of portrait video generation (Wang et al., 2024).

A U-Net in Stable Diffusion 1.5's shape denoises windows of latents. In each block pixels attend to themselves, to a
ReferenceNet's features of the portrait, to the sound (a Q-Former's tokens of wav2vec 2.0's features) and, over time, to
the other frames; three keypoints drawn as a V are added after the first convolution (section 2.2). Keypoints and
portrait are strong conditions, the voice is a weak one: the strong ones are dropped for some frames (section 2.4).

Where the paper leaves something open this follows the released code, whose slips are mended but for `compat=published`.
"""

import functools

from talkjax.errors import UserError
from talkjax.faces import keypoints
from talkjax.systems import System, backbone
from talkjax.systems.vexpress import animate, data, model, windows


def build(config) -> System:
  """The system of a config (see configs/vexpress.py)."""
  laid = config.windows
  if not 0 <= laid.overlap < laid.frames:
    raise UserError(
      f'config.windows.overlap={laid.overlap} must be at least 0 and less than config.windows.frames={laid.frames}'
    )
  if laid.budget < 1:
    raise UserError(f'config.windows.budget={laid.budget}: expected 1 window or more')
  if config.frames > 1 and laid.frames > config.model.max_frames:
    raise UserError(
      f'config.windows.frames={laid.frames} is more than the {config.model.max_frames} frames that the temporal layers '
      'know (config.model.max_frames): set it lower'
    )
  if config.compat not in keypoints.COMPAT:
    raise UserError(f'config.compat={config.compat!r} is not one of {", ".join(keypoints.COMPAT)}')
  backbone.check(config)
  nets = model.make_networks(config)
  schedule = backbone.make_schedule(config.diffusion)
  sampler = windows.Sampler(nets, config)
  return System(
    read=functools.partial(data.read, config=config),
    init=functools.partial(model.init, nets=nets),
    loss=functools.partial(model.loss, nets=nets, schedule=schedule, config=config),
    inputs=functools.partial(data.record_inputs, config=config),
    generate=functools.partial(windows.generate, sampler=sampler),
    render=functools.partial(animate.animate, config, sampler),
  )

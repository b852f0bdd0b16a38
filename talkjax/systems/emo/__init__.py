"""EMO: Emote Portrait Alive (Tian et al., 2024): a portrait and a voice become a video of any length.

A U-Net in Stable Diffusion 1.5's shape denoises a clip of latents. A second one, the ReferenceNet, looks once at the
portrait and at the last frames of the clip before: the first attends to its features (section 3.2). Sound comes in by
cross-attention, the place of the face as a mask, the speed of the head by cross-attention in the temporal layers.

There is no published code. What the paper leaves open follows its words here, and the open re-implementations where it
has none: the encoded face region is added after the first convolution (which includes adding it to the noisy latent),
reference attention reads the normed features behind each self-attention, and the ReferenceNet, whose text layers came
with Stable Diffusion, is given one empty token.
"""

import functools

from talkjax.errors import UserError
from talkjax.systems import System, backbone
from talkjax.systems.emo import animate, clips, data, model


def build(config) -> System:
  """The system of a config (see configs/emo.py)."""
  if config.frames < config.motion_frames and config.frames > 1:
    raise UserError(
      f'config.frames={config.frames} is fewer than config.motion_frames={config.motion_frames}: a clip must give the '
      'next one its motion frames'
    )
  backbone.check(config)
  nets = model.make_networks(config)
  schedule = backbone.make_schedule(config.diffusion)
  sampler = clips.Sampler(nets, config)
  generate = functools.partial(clips.generate, sampler=sampler)
  return System(
    read=functools.partial(data.read, config=config),
    init=functools.partial(model.init, nets=nets),
    loss=functools.partial(model.loss, nets=nets, schedule=schedule, config=config),
    inputs=functools.partial(data.record_inputs, config=config),
    generate=generate,
    render=functools.partial(animate.animate, config, generate),
  )

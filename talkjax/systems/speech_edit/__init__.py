"""Speech Driven Video Editing via an Audio-Conditioned Diffusion Model (Bigioi et al., 2023).

A masked U-Net repaints the mouth and jaw of one frame from the sound around it, the frame before and an identity frame.
Training reads single frames (sections 3.1 and 3.2); generation goes frame by frame, each from the one generated before.

Where paper and published code (DanBigioi/DiffusionVideoEditing) differ, the configs train with the paper's numbers and
the network has the published layout: 9 input channels (the paper's table says 10, its text and the code 9).
"""

import functools

import jax.numpy as jnp

from talkjax.errors import UserError
from talkjax.nn.unet import UNet
from talkjax.systems import System
from talkjax.systems.speech_edit import data, model, revoice


def build(config) -> System:
  """The system of a config (see configs/speech_edit.py)."""
  net = UNet(
    width=config.model.width,
    multipliers=tuple(config.model.multipliers),
    attention_downsamples=tuple(config.model.attention_downsamples),
    num_res_blocks=config.model.num_res_blocks,
    head_channels=config.model.head_channels,
    dropout=config.model.dropout,
    patch_size=config.model.patch_size,
    noise_embedding=config.model.noise_embedding,
    dtype=jnp.dtype(config.dtype),
    remat=config.remat,
  )
  if config.model.skip and (config.model.skip not in ('previous', 'identity') or config.diffusion.target != 'x0'):
    raise UserError(
      f'config.model.skip={config.model.skip!r} with config.diffusion.target={config.diffusion.target!r}: expected '
      "'previous' or 'identity' with target 'x0', or no skip ('')"
    )
  predict = functools.partial(model.predict, net=net, skip=config.model.skip)
  schedule = model.make_schedule(config.diffusion, config.diffusion.steps)
  generate_frames = functools.partial(model.generate, step=model.make_frame_step(predict, config))
  return System(
    read=functools.partial(data.read, config=config),
    init=functools.partial(model.init, net=net),
    loss=functools.partial(model.loss, predict=predict, schedule=schedule, target=config.diffusion.target),
    inputs=functools.partial(data.record_inputs, config=config),
    generate=generate_frames,
    render=functools.partial(revoice.revoice, config, generate_frames),
  )

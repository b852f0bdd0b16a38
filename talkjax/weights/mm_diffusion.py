"""MM-Diffusion's networks from its published state dicts: the coupled U-Net, and super-resolution (an ADM U-Net).

The shapes in a file determine all sizes but those of heads and windows. These are known here for the released files;
for another file they are in a `config.json` next to it.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.errors import UserError
from talkjax.nn.coupled_unet import AUDIO_FACTOR, CoupledUNet
from talkjax.nn.unet import UNet
from talkjax.weights import guided_diffusion
from talkjax.weights.fit import fit
from talkjax.weights.flags import read_flags

_COUPLED = {'num_heads': 4, 'num_head_channels': 64, 'cross_attention_windows': '1,4,8', 'video_size': '16,3,64,64'}
# Flags by name of the released file (ssh_scripts of the source).
RELEASED = {
  'landscape.pt': _COUPLED,
  'AIST++.pt': _COUPLED,
  'landscape_SR.pt': {'num_heads': 4},
  'AIST++_SR.pt': {'num_heads': 4},
}
_FLAGS = (*_COUPLED, 'cross_attention_shift', 'num_heads_upsample', 'dropout')


def read(state: Mapping[str, np.ndarray], file: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """The parameters of the network in a file, and a description for `network`.

  Raises:
    UserError: the entries are of no such network, or the flags of its heads and windows are not known.
  """
  return convert(state, read_flags(file, RELEASED, _FLAGS, _COUPLED), str(file))


def convert(
  state: Mapping[str, np.ndarray], flags: Mapping[str, Any], what: str
) -> tuple[dict[str, Any], dict[str, Any]]:
  """As `read`, with the flags known."""
  if not any(name.startswith('video_out.') for name in state):
    params, description = guided_diffusion.convert(state, flags, what)
    return params, {'super_resolution': description}
  try:
    description = fields(flags) | infer_fields(state, what)
  except (ValueError, TypeError) as error:
    raise UserError(f'the flags of {what} cannot be read ({error}): expected values like {_COUPLED}') from None
  windows, levels = description['windows'], description['cross_attention']
  if len(windows) != len(levels):
    raise UserError(
      f'{what} has attention between video and audio at {len(levels)} levels, but cross_attention_windows has '
      f'{len(windows)} numbers: correct the flags in config.json'
    )
  if 'middle_blocks.1.v_qkv.weight' not in state:
    description['middle_window'] = None
  elif description['middle_window'] is None:
    description['middle_window'] = fields({})['middle_window']
  head_channels = description['head_channels'] or 1
  for name in state:
    if name.endswith('.v_qkv.weight') and (len(state[name]) // 3) % head_channels:
      raise UserError(f'{what}: heads of {head_channels} do not divide the channels of {name}; check num_head_channels')
  return coupled_unet(state, CoupledUNet(**description), what), description


def network(description: Mapping[str, Any]) -> CoupledUNet | UNet:
  """The network of a description, such as the config of a converted workdir has."""
  if 'super_resolution' in description:
    return guided_diffusion.network(description['super_resolution'])
  return CoupledUNet(**{k: tuple(v) if isinstance(v, list) else v for k, v in description.items()})


def fields(flags: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of `CoupledUNet` from the published flags (multimodal_script_util.py).

  Args:
    flags: as published: numbers, and lists as such or as text with commas; missing ones have the released values.

  Raises:
    ValueError, TypeError: a flag has a value of another kind.
  """

  def numbers(name, default):
    value = flags.get(name) or default
    return tuple(map(int, value.split(',') if isinstance(value, str) else value))

  positive = lambda name, default: tuple(n for n in numbers(name, default) if n > 0)
  frames, _, _, side = numbers('video_size', '16,3,64,64')
  by_side = {512: (0.5, 1, 1, 2, 2, 4, 4), 256: (1, 1, 2, 2, 4, 4), 128: (1, 1, 2, 3, 4)}
  windows, head_channels = numbers('cross_attention_windows', '1,4,8'), flags.get('num_head_channels', 64)
  learned = 2 if flags.get('learn_sigma', False) else 1
  return {
    'video_channels': 3 * learned,
    'audio_channels': learned,
    'width': flags.get('num_channels', 128),
    'multipliers': numbers('channel_mult', '') if flags.get('channel_mult') else by_side.get(side, (1, 2, 3, 4)),
    'num_res_blocks': flags.get('num_res_blocks', 2),
    'video_attention': positive('video_attention_resolutions', '2,4,8'),
    'audio_attention': positive('audio_attention_resolutions', '-1'),
    'cross_attention': positive('cross_attention_resolutions', '2,4,8'),
    'windows': windows,
    'shift': bool(flags.get('cross_attention_shift', True)),
    'middle_window': frames if windows == (1, 4, 8) else None,  # as published
    'heads': flags.get('num_heads', 4),
    'head_channels': None if head_channels == -1 else head_channels,
    'dropout': float(flags.get('dropout', 0.1)),
    'scale_shift': bool(flags.get('use_scale_shift_norm', True)),
  }


def parameter_shapes(net: CoupledUNet, video_channels: int = 3, audio_channels: int = 1) -> dict[str, Any]:
  """Shapes of the parameters of a coupled U-Net whose inputs have these channels."""
  levels, frames = len(net.multipliers), max((*net.windows, 1))
  video = jnp.zeros((1, frames, 2 ** (levels - 1), 2 ** (levels - 1), video_channels))
  audio = jnp.zeros((1, frames * AUDIO_FACTOR ** (levels - 1), audio_channels))
  captions = jnp.zeros(1, jnp.int32) if net.num_captions else None
  init = lambda key: net.init(key, video, audio, jnp.zeros(1), net.draw_shifts(key, frames), captions)
  return jax.eval_shape(init, jax.random.key(0))['params']


def coupled_unet(state: Mapping[str, np.ndarray], net: CoupledUNet, what: str) -> dict[str, Any]:
  """Parameters of `net` from a published state dict.

  Raises:
    UserError: the entries are of another network.
  """
  inputs = ('input_blocks.0.0.video_conv.video_conv_spatial.weight', 'input_blocks.0.0.audio_conv.audio_conv.weight')
  channels = [state[name].shape[1] for name in inputs if name in state]
  return fit(state, parameter_shapes(net, *channels), what)


def infer_fields(state: Mapping[str, np.ndarray], what: str) -> dict[str, Any]:
  """The fields of a CoupledUNet that the shapes determine: all but those of heads and windows.

  Raises:
    UserError: the entries do not belong to such a U-Net.
  """
  try:
    width = len(state['time_embed.0.weight'])
    count = 1 + max(int(m[1]) for m in (re.match(r'input_blocks\.(\d+)\.', name) for name in state) if m)
    ups = {m[1] for m in (re.match(r'output_blocks\.(\d+)\.[12]\.video_in_layers', name) for name in state) if m}
    levels = len(ups) + 1
    per_level = count // levels - 1
    first = [1 + level * (per_level + 1) for level in range(levels)]
    features = [len(state[f'input_blocks.{i}.0.emb_layers.1.bias']) for i in first]
    channels = [len(state[f'input_blocks.{i}.0.video_out_layers.0.GroupNorm.bias']) for i in first]
    has = lambda layer: tuple(2**n for n, i in enumerate(first) if f'input_blocks.{i}.{layer}.weight' in state)
    return {
      'video_channels': len(state['video_out.2.video_conv.bias']),
      'audio_channels': len(state['audio_out.2.audio_conv.bias']),
      'width': width,
      'multipliers': tuple(n // width if n % width == 0 else n / width for n in channels),
      'num_res_blocks': per_level,
      'video_attention': has('0.spatial_attention_block.qkv'),
      'audio_attention': has('0.audio_attention_block.qkv'),
      'cross_attention': has('1.v_qkv'),
      'scale_shift': features[0] == 2 * channels[0],
    }
  except (KeyError, ValueError, ZeroDivisionError, IndexError):
    raise UserError(
      f'{what} is no coupled U-Net of MM-Diffusion: expected entries like input_blocks.1.0.video_in_layers.0.'
      'GroupNorm.weight and video_out.2.video_conv.weight'
    ) from None

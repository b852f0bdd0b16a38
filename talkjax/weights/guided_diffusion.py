"""guided-diffusion's networks from its published state dicts: U-Nets, super-resolution and noisy classifiers.

The shapes in a file determine all sizes but those of the attention heads. They are the flags of the published sampling
scripts (`num_head_channels`, `num_heads`, `num_heads_upsample`, `use_new_attention_order`), known here for the released
files; for another file they are in a `config.json` next to it.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.errors import UserError
from talkjax.nn.guided_unet import NoisyClassifier
from talkjax.nn.unet import UNet
from talkjax.weights import adm
from talkjax.weights.fit import fit
from talkjax.weights.flags import read_flags

_FOUR_HEADS, _WIDE_HEADS = {'num_heads': 4}, {'num_head_channels': 64}
# Flags by name of the released file (README of the source).
RELEASED = {
  '64x64_diffusion.pt': {**_WIDE_HEADS, 'use_new_attention_order': True},
  '128x128_diffusion.pt': _FOUR_HEADS,
  '256x256_diffusion.pt': _WIDE_HEADS,
  '256x256_diffusion_uncond.pt': _WIDE_HEADS,
  '512x512_diffusion.pt': _WIDE_HEADS,
  '64_256_upsampler.pt': _FOUR_HEADS,
  '128_512_upsampler.pt': _WIDE_HEADS,
  **{f'{size}x{size}_classifier.pt': _WIDE_HEADS for size in (64, 128, 256, 512)},
}
LAYOUT = ('multipliers', 'attention_downsamples', 'num_res_blocks', 'resize_blocks', 'decoder')  # names layers
FLAGS = ('num_head_channels', 'num_heads', 'num_heads_upsample', 'use_new_attention_order')


def read(state: Mapping[str, np.ndarray], file: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """The parameters of the network in a file, and a description for `network`.

  Raises:
    UserError: the entries are of no such network, or the flags of its heads are not known.
  """
  return convert(state, read_flags(file, RELEASED, FLAGS, {**_WIDE_HEADS, 'use_new_attention_order': False}), str(file))


def convert(
  state: Mapping[str, np.ndarray], flags: Mapping[str, Any], what: str
) -> tuple[dict[str, Any], dict[str, Any]]:
  """As `read`, with the flags known."""
  is_unet = any(name.startswith('output_blocks.') for name in state)
  net, params = (unet if is_unet else classifier)(state, flags, what)
  return params, _description(net)


def network(description: Mapping[str, Any]) -> UNet | NoisyClassifier:
  """The network of a description, such as the config of a converted workdir has."""
  fields = {k: tuple(v) if isinstance(v, list) else v for k, v in description.items() if k != 'classifier'}
  if 'classifier' not in description:
    return UNet(**fields)
  return NoisyClassifier(UNet(**fields), **description['classifier'])


def _description(net):
  unet = net.unet if isinstance(net, NoisyClassifier) else net
  unfit = ('parent', 'name', 'dtype', 'remat')
  fields = {f.name: getattr(unet, f.name) for f in dataclasses.fields(unet) if f.name not in unfit}
  if unet is net:
    return fields
  return fields | {'classifier': {name: getattr(net, name) for name in ('num_classes', 'pool', 'head_channels')}}


def unet_fields(state: Mapping[str, np.ndarray], flags: Mapping[str, Any], what: str) -> dict[str, Any]:
  """Fields of `UNet` from the shapes of a state dict and the flags of its heads.

  Raises:
    UserError: the shapes are not those of such a U-Net, or heads do not divide the channels.
  """
  fields = adm.infer_fields(state, what) | {'noise_embedding': 'timestep', 'dropout': float(flags.get('dropout', 0))}
  wrong = [name for name in FLAGS if not isinstance(flags.get(name, -1), int)]
  if wrong:
    raise UserError(f'{what}: the flag {wrong[0]} is {flags[wrong[0]]!r}: expected a whole number, or true or false')
  head_channels = flags.get('num_head_channels', -1)
  if head_channels == -1:
    heads = flags.get('num_heads', 4)
    decoder = flags.get('num_heads_upsample', -1)
    fields['heads'] = (heads, heads if decoder == -1 else decoder)
  else:
    fields['head_channels'] = head_channels
  for name, array in state.items():
    if name.endswith('.qkv.weight'):
      channels = len(array) // 3
      divisor = fields['heads'][name.startswith('output_blocks')] if 'heads' in fields else head_channels
      if divisor < 1 or channels % divisor:
        raise UserError(
          f'{what}: {divisor} does not divide the {channels} channels of {name}; check the flags of heads'
        )
  return fields


def unet(state: Mapping[str, np.ndarray], flags: Mapping[str, Any], what: str) -> tuple[UNet, dict[str, Any]]:
  """A diffusion or super-resolution U-Net and its parameters.

  Args:
    state: the published entries by name.
    flags: of the heads, by published name.
    what: a name of the state dict for error messages.

  Raises:
    UserError: the entries are of another network.
  """
  net = UNet(**unet_fields(state, flags, what))
  side = 2 ** (len(net.multipliers) - 1)
  x = jnp.zeros((1, side, side, state['input_blocks.0.0.weight'].shape[1]))
  labels = None if net.num_classes is None else jnp.zeros(1, jnp.int32)
  init = lambda key: net.init(key, x, jnp.zeros(1), labels=labels)
  wanted = jax.eval_shape(init, jax.random.key(0))['params']
  return net, fit(_renamed(state, net, flags), wanted, what)


def classifier(
  state: Mapping[str, np.ndarray], flags: Mapping[str, Any], what: str
) -> tuple[NoisyClassifier, dict[str, Any]]:
  """A noisy classifier and its parameters; arguments and errors as of `unet`. Its heads have 64 channels by default."""
  flags = _WIDE_HEADS | dict(flags)  # the published classifiers have no such flags
  net = UNet(**unet_fields(state, flags, what))
  pool, last = _pool(state, what)
  side = 2 ** (len(net.multipliers) - 1)
  if pool == 'attention':  # the positional table fixes the size of the images
    side *= round((state['out.2.positional_embedding'].shape[1] - 1) ** 0.5)
  channels = state['input_blocks.0.0.weight'].shape[1]
  whole = NoisyClassifier(net, len(state[f'{last}.weight']), pool)
  wanted = jax.eval_shape(whole.init, jax.random.key(0), jnp.zeros((1, side, side, channels)), jnp.zeros(1))['params']
  head = {name: array for name, array in state.items() if name.startswith('out.')}
  inside = _renamed({k: v for k, v in state.items() if k not in head}, net, flags)
  return whole, fit({f'unet.{name}': array for name, array in inside.items()} | head, wanted, what)


def _renamed(state, net, flags):
  fields = {name: getattr(net, name) for name in (*LAYOUT, 'heads', 'head_channels')}
  return adm.unet_state(state, fields, legacy_heads=not flags.get('use_new_attention_order', False))


def _pool(state, what) -> tuple[str, str]:
  """The pool of a classifier and the name of its last layer."""
  if 'out.2.positional_embedding' in state:
    return 'attention', 'out.2.c_proj'
  if 'out.3.weight' in state:
    return ('spatial_v2' if 'out.1.weight' in state else 'adaptive'), 'out.3'
  if 'out.2.weight' in state:
    return 'spatial', 'out.2'
  raise UserError(f'{what} has no pool of a classifier: expected entries like out.2.c_proj.weight')

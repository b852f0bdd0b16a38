"""The names and sizes of autoencoders in the layout of taming-transformers and latent-diffusion (VQ, or KL).

Their modules are those of diffusers' AutoencoderKL, after which `talkjax.nn.autoencoder` names its own, by other names.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.errors import UserError
from talkjax.nn.autoencoder import Autoencoder
from talkjax.weights.fit import fit

_PARTS = ('encoder.', 'decoder.', 'quantize.', 'quant_conv.', 'post_quant_conv.')
_ATTENTION = {'norm': 'group_norm', 'q': 'to_q', 'k': 'to_k', 'v': 'to_v', 'proj_out': 'to_out.0'}
_MIDDLE = {'block_1': 'resnets.0', 'attn_1': 'attentions.0', 'block_2': 'resnets.1'}
_IN_LEVEL = {'block': 'resnets', 'attn': 'attentions'}


def convert(state: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
  """Parameters of Autoencoder(**fields(state)) from a state dict.

  Raises:
    UserError: it is of another network.
  """
  net = Autoencoder(**fields(state, name))
  wanted = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, net.factor, net.factor, 3)))['params']
  return fit(renamed(state), wanted, name)


def read(state: Mapping[str, np.ndarray], file: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """`convert` and `fields` of a state dict; `file` is where it was read from."""
  return convert(state, str(file)), fields(state, str(file))


def own(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The entries of the autoencoder, without those of its training (`loss.`) and of what else a file holds."""
  inside = {k.removeprefix('first_stage_model.'): v for k, v in state.items() if k.startswith('first_stage_model.')}
  return {k: v for k, v in (inside or state).items() if k.startswith(_PARTS)}


def fields(state: Mapping[str, np.ndarray], name: str = 'state') -> dict[str, Any]:
  """Fields of `Autoencoder`, by the shapes of a state dict; the GroupNorms have 32 groups, as all that are published.

  Raises:
    UserError: it is of another network.
  """
  state = own(state)
  try:
    levels = _count(state, r'encoder\.down\.(\d+)\.')
    convs = [state[f'encoder.down.{level}.block.0.conv1.weight'] for level in range(levels)]
    codes, inner = state.get('quantize.embedding.weight'), state['decoder.conv_in.weight'].shape[1]
    latents = state['post_quant_conv.weight'].shape[1]
  except KeyError as error:
    raise UserError(f'{name} lacks {error.args[0]}: it is not an autoencoder in the layout of VQGAN') from error
  return {
    'widths': tuple(conv.shape[0] for conv in convs),
    'latent_channels': latents,
    'layers': _count(state, r'encoder\.down\.0\.block\.(\d+)\.'),
    'attention': tuple(f'encoder.down.{level}.attn.0.q.weight' in state for level in range(levels)),
    'inner_channels': inner,
    'codebook': 0 if codes is None else codes.shape[0],
    'scaling': 1.0,
  }


def renamed(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A state dict by the names of diffusers."""
  state = own(state)
  levels = _count(state, r'encoder\.down\.(\d+)\.')
  return {rename(name, levels): value for name, value in state.items()}


def rename(name: str, levels: int) -> str:
  """The name of an entry or module in diffusers; there, blocks of the decoder are in the order of computation."""
  if match := re.match(r'(encoder|decoder)\.(down|up)\.(\d+)\.(.+)$', name):
    part, way, level, rest = match.groups()
    number = int(level) if way == 'down' else levels - 1 - int(level)
    rest = re.sub(r'^(block|attn)(?=\.)', lambda m: _IN_LEVEL[m[1]], rest)
    rest = re.sub(r'^(down|up)sample(?=\.|$)', r'\1samplers.0', rest)
    name = f'{part}.{way}_blocks.{number}.{rest}'
  name = re.sub(r'\.mid\.(block_1|attn_1|block_2)(?=\.|$)', lambda m: f'.mid_block.{_MIDDLE[m[1]]}', name)
  name = re.sub(r'(attentions\.\d+)\.(norm|q|k|v|proj_out)(?=\.)', lambda m: f'{m[1]}.{_ATTENTION[m[2]]}', name)
  name = re.sub(r'\.nin_shortcut(?=\.)', '.conv_shortcut', name)
  return re.sub(r'\.norm_out(?=\.|$)', '.conv_norm_out', name)


def _count(state: Mapping[str, np.ndarray], pattern: str) -> int:
  """How many numbers follow in the names: one more than the largest; 0 without any."""
  return max((int(m[1]) + 1 for m in (re.match(pattern, name) for name in state) if m), default=0)

"""Names and sizes of ADM U-Nets in published state dicts (guided-diffusion and what was built on it).

`talkjax.nn.unet` names its modules by what they do; this module has the published name of each.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from talkjax.errors import UserError

# Layers in a residual block, a change of resolution or an attention: published name -> talkjax name.
_RES_BLOCK = {
  'in_layers.0': 'norm_0',
  'in_layers.2': 'conv_0',
  'emb_layers.1': 'film_0',
  'audio_emb_layers.1': 'film_1',
  'out_layers.0': 'norm_1',
  'out_layers.3': 'conv_1',
  'skip_connection': 'skip',
}
_RESIZE = {'op': 'conv', 'conv': 'conv'}
_ATTENTION = {'norm': 'norm', 'qkv': 'qkv', 'proj_out': 'project'}
_ENDS = {
  'audio_cond_embed.0': ('embed_audio', 'in'),
  'audio_cond_embed.2': ('embed_audio', 'out'),
  'label_emb': ('embed_label',),
  'input_blocks.0.0': ('conv_in',),
}
_HEAD = {'out.0': ('norm_out',), 'out.2': ('conv_out',)}


def module_names(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
  """Yields (published module, talkjax module) for each block and attention of a UNet with these fields, in order."""
  last = len(fields['multipliers']) - 1

  def stage(published, level, ours, i):
    yield f'{published}.0', f'{ours}_{level}_block_{i}'
    if 2**level in fields['attention_downsamples']:
      yield f'{published}.1', f'{ours}_{level}_attention_{i}'

  index = 1  # input_blocks.0 is the first convolution
  for level in range(last + 1):
    for i in range(fields['num_res_blocks']):
      yield from stage(f'input_blocks.{index}', level, 'down', i)
      index += 1
    if level != last:
      yield f'input_blocks.{index}.0', f'down_{level}_shrink'
      index += 1
  yield 'middle_block.0', 'middle_block_0'
  yield 'middle_block.1', 'middle_attention'
  yield 'middle_block.2', 'middle_block_1'
  if not fields.get('decoder', True):
    return
  index = 0
  for level in reversed(range(last + 1)):
    for i in range(fields['num_res_blocks'] + 1):
      names = list(stage(f'output_blocks.{index}', level, 'up', i))
      yield from names
      if level and i == fields['num_res_blocks']:
        yield f'output_blocks.{index}.{len(names)}', f'up_{level}_grow'
      index += 1


def layer_names(fields: Mapping[str, Any], noise: str = 'time_embed') -> dict[str, tuple[str, ...]]:
  """talkjax paths by published name of all layers that a published network with these fields may have.

  Args:
    fields: of the UNet.
    noise: published name of the embedding of the noise level.
  """
  layers = _ENDS | {f'{noise}.0': ('embed_noise', 'in'), f'{noise}.2': ('embed_noise', 'out')}
  layers |= _HEAD if fields.get('decoder', True) else {}
  for published, ours in module_names(fields):
    inside = _ATTENTION if 'attention' in ours else _RES_BLOCK
    if ours.endswith(('shrink', 'grow')) and not fields.get('resize_blocks', True):
      inside = _RESIZE
    layers |= {f'{published}.{source}': (ours, target) for source, target in inside.items()}
  return layers


def split_heads(array: np.ndarray, head_channels: int) -> np.ndarray:
  """Rows of a `qkv` layer ordered (head, q/k/v, channel), guided-diffusion's legacy order -> (q/k/v, head, channel)."""
  rows = array.reshape(-1, 3, head_channels, *array.shape[1:])
  return rows.swapaxes(0, 1).reshape(array.shape)


def unet_state(state: Mapping[str, np.ndarray], fields: Mapping[str, Any], legacy_heads: bool) -> dict[str, np.ndarray]:
  """Entries of a published U-Net under the names of `talkjax.nn.unet.UNet`, in PyTorch's layouts.

  Args:
    state: the published entries by name.
    fields: of the UNet.
    legacy_heads: rows of queries, keys and values are ordered head by head (see `split_heads`).

  Returns:
    the entries for `weights.fit`; those of no layer of such a U-Net keep their names.
  """
  layers = layer_names(fields)
  renamed = {}
  for name, array in state.items():
    published, _, kind = name.rpartition('.')
    if legacy_heads and published.endswith('.qkv'):
      side = published.startswith('output_blocks')
      head_channels = len(array) // 3 // fields['heads'][side] if fields.get('heads') else fields['head_channels']
      entry = split_heads(array, head_channels)
    else:
      entry = array
    renamed['.'.join((*layers.get(published, (published,)), kind))] = entry
  return renamed


def infer_fields(state: Mapping[str, np.ndarray], what: str) -> dict[str, Any]:
  """The fields of a UNet that the shapes in a state dict determine: all but those of its heads.

  Args:
    state: the published entries by name, those of a classifier's pool included.
    what: a name of the state dict for error messages.

  Raises:
    UserError: the entries do not belong to such a U-Net.
  """
  try:
    embedding = next(n for n in ('time_embed.0.weight', 'cond_embed.0.weight') if n in state)
    width = state[embedding].shape[1]
    per_level = _blocks_per_level(state)
    levels = 1 + max(_indices(state, r'input_blocks\.(\d+)\.')) // (per_level + 1)
    first = [1 + level * (per_level + 1) for level in range(levels)]
    features = [state[f'input_blocks.{i}.0.out_layers.3.weight'].shape[0] for i in first]
    projection = state['input_blocks.1.0.emb_layers.1.weight']
    decoder = 'output_blocks.0.0.in_layers.0.weight' in state
    fields = {'out_channels': len(state['out.2.bias'])} if decoder else {'decoder': False}
  except (KeyError, IndexError, StopIteration, ValueError):
    raise UserError(
      f'{what} is no ADM U-Net: expected entries like time_embed.0.weight and input_blocks.1.0.in_layers.0.weight'
    ) from None
  labels = state.get('label_emb.weight')
  return fields | {
    'width': width,
    'multipliers': tuple(f // width if f % width == 0 else f / width for f in features),
    'attention_downsamples': tuple(2**n for n, i in enumerate(first) if f'input_blocks.{i}.1.qkv.weight' in state),
    'num_res_blocks': per_level,
    'num_classes': None if labels is None else len(labels),
    'scale_shift': projection.shape[0] == 2 * features[0],
    'resize_blocks': not any(name.endswith('.0.op.weight') for name in state),
  }


def _indices(state, pattern):
  return sorted({int(m[1]) for m in (re.match(pattern, name) for name in state) if m})


def _blocks_per_level(state) -> int:
  """Residual blocks per level of the encoder: the one number with which each change of resolution is where it can be.

  input_blocks counts the first convolution, and per level but the last its residual blocks and one that halves the
  resolution. Such a block has neither attention nor another number of output channels, and within a level all residual
  blocks have attention or none has, and only the first may change the channels.
  """
  count = max(_indices(state, r'input_blocks\.(\d+)\.')) + 1
  has = lambda i, layer: f'input_blocks.{i}.{layer}.weight' in state
  changes = lambda i: has(i, '0.skip_connection')

  def fits(n):
    for i in range(1, count):
      place = i % (n + 1)
      halves = place == 0
      if has(i, '0.op') and not halves or halves and (has(i, '1.qkv') or changes(i)):
        return False
      if place > 1 and (changes(i) or has(i, '1.qkv') != has(i - 1, '1.qkv')):
        return False
    return True

  ups = _indices(state, r'output_blocks\.(\d+)\.[12]\.(?:in_layers|conv)\.')
  if _indices(state, r'output_blocks\.(\d+)\.'):  # the decoder shows where the resolution changes
    return count // (len(ups) + 1) - 1
  found = [n for n in range(1, count) if count % (n + 1) == 0 and fits(n)]
  if len(found) != 1:
    raise ValueError('the number of blocks per level is not determined')
  return found[0]

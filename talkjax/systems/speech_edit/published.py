"""Converts the published PyTorch checkpoint of speech_edit to the parameters and config of talkjax.

Source: DanBigioi/DiffusionVideoEditing, models/network.py and models/guided_diffusion_modules/unet.py.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from talkjax.errors import UserError
from talkjax.weights import adm
from talkjax.weights.read import read_weights

NAME = 'diffusion_video_editing'  # value of convert --source
CONFIG = 'configs/speech_edit.py'  # provides the settings that the checkpoint does not contain
# The released multi-speaker settings (config/audio_talking_heads_inference.json) where they differ from the paper's.
RELEASED = {'model.head_channels': 64, 'model.dropout': 0.1}
ARGUMENTS = ''
# Tables of the noise schedule in the file, which talkjax computes itself.
BUFFERS = (
  'gammas',
  'sqrt_recip_gammas',
  'sqrt_recipm1_gammas',
  'posterior_log_variance_clipped',
  'posterior_mean_coef1',
  'posterior_mean_coef2',
)
_PREFIX = 'denoise_fn.'


def unet_fields(config: Mapping[str, Any]) -> dict[str, Any]:
  """Converts the published configuration of the network to fields of `talkjax.nn.unet.UNet`.

  Args:
    config: the published `unet` block. `attn_res` is in pixels at `image_size` and is converted to downsampling
      factors, as in unet.py of the source, so it does not depend on the actual image size.

  Returns:
    keyword arguments of UNet.
  """
  return {
    'out_channels': config['out_channel'],
    'width': config['inner_channel'],
    'multipliers': tuple(config['channel_mults']),
    'attention_downsamples': tuple(config['image_size'] // pixels for pixels in config['attn_res']),
    'num_res_blocks': config['res_blocks'],
    'head_channels': config['num_head_channels'],
    'dropout': config['dropout'],
  }


def unet_params(state: Mapping[str, np.ndarray], fields: Mapping[str, Any]) -> dict[str, Any]:
  """Converts a published state dict to the parameter tree of `UNet`.

  Args:
    state: the published entries by name; the tables of the schedule (`BUFFERS`) are ignored.
    fields: fields of the UNet, from `unet_fields` or `infer_fields`.

  Returns:
    nested dicts of float32 arrays: kernels [3, 3, in, out] and [in, out].

  Raises:
    UserError: an entry belongs to no layer of such a U-Net.
  """
  layers = adm.layer_names(fields, 'cond_embed')
  params: dict[str, Any] = {}
  for full_name, entry in state.items():
    name, array = full_name.removeprefix(_PREFIX), np.asarray(entry, np.float32)
    if name in BUFFERS:
      continue
    published, _, kind = name.rpartition('.')
    if published not in layers or kind not in ('weight', 'bias'):
      raise UserError(
        f'the checkpoint has an entry {name!r} that a U-Net of these sizes lacks: expected a checkpoint of '
        'DiffusionVideoEditing (735_Network.pth or 735_Network_ema.pth); check its file and its configuration'
      )
    node = params
    for key in layers[published]:
      node = node.setdefault(key, {})
    qkv_head_channels = fields['head_channels'] if published.endswith('.qkv') else None
    leaf, value = _leaf(kind, array, qkv_head_channels)
    node[leaf] = value
  return params


def _leaf(kind, array, qkv_head_channels):
  if qkv_head_channels and array.shape[0] % (3 * qkv_head_channels):
    raise UserError(
      f'the checkpoint has attention of {array.shape[0] // 3} channels, which heads of {qkv_head_channels} do not '
      'divide: set model.head_channels in --config'
    )
  if qkv_head_channels:  # published rows are ordered (head, q/k/v, channel); ours (q/k/v, head, channel)
    array = adm.split_heads(array, qkv_head_channels)
  if kind == 'bias':
    return 'bias', array
  if array.ndim == 1:
    return 'scale', array
  if array.ndim == 4 and array.shape[2:] == (3, 3):
    return 'kernel', array.transpose(2, 3, 1, 0)  # OIHW -> HWIO
  return 'kernel', array.reshape(array.shape[:2]).T  # 1x1 convolutions are dense layers


def infer_fields(state: Mapping[str, np.ndarray], head_channels: int) -> dict[str, Any]:
  """Infers the sizes of the published U-Net from the shapes in its state dict.

  Args:
    state: the published entries by name.
    head_channels: channels per attention head, which cannot be inferred from shapes.

  Returns:
    keyword arguments of UNet, except those that do not affect parameters.

  Raises:
    UserError: the entries do not belong to such a U-Net.
  """
  try:
    fields = adm.infer_fields({name.removeprefix(_PREFIX): array for name, array in state.items()}, 'the checkpoint')
  except UserError:
    raise UserError(
      'the checkpoint is not one of DiffusionVideoEditing: expected entries like denoise_fn.input_blocks.0.0.weight '
      '(735_Network.pth or 735_Network_ema.pth)'
    ) from None
  kept = ('out_channels', 'width', 'multipliers', 'attention_downsamples', 'num_res_blocks')
  return {name: fields[name] for name in kept} | {'head_channels': head_channels}


def find(path: pathlib.Path, config=None) -> dict[str, pathlib.Path]:
  """Finds the files to read: 'params', and 'ema' if the folder also has the averaged weights.

  Args:
    path: a checkpoint, or a folder with files named NUMBER_Network.pth and NUMBER_Network_ema.pth, of which those with
      the highest number are used.
    config: not used.

  Raises:
    UserError: the folder has no checkpoint.
  """
  if not path.is_dir():
    return {'params': path}
  found = {}
  for file in path.iterdir():
    match = re.fullmatch(r'(\d+)_Network(_ema)?\.(pth|safetensors)', file.name)
    if match:
      found.setdefault(int(match[1]), {})['ema' if match[2] else 'params'] = file
  if not found:
    raise UserError(
      f'folder {path} has no checkpoint: expected files like 735_Network.pth or 735_Network_ema.pth, or a file path'
    )
  files = found[max(found)]
  return files if 'params' in files else {'params': files['ema']}


def step(files: Mapping[str, pathlib.Path]) -> int:
  """The number in the file name of the checkpoint (epochs), or 0."""
  match = re.match(r'(\d+)_', files['params'].name)
  return int(match[1]) if match else 0


def convert(
  files: Mapping[str, pathlib.Path], config, read_pretrained=None
) -> tuple[dict[str, Any], dict[str, np.ndarray], list[str]]:
  """Reads the files that `find` found.

  Args:
    files: paths by item.
    config: of speech_edit. Its `model` is updated with the sizes found, and provides the settings that shapes do not
      determine.
    read_pretrained: not used.

  Returns:
    (parameters by item, an example batch for the system's `init`, a line of text for each item).

  Raises:
    UserError: a file is not such a checkpoint.
  """
  params, state = {}, {}
  for item, file in files.items():
    state = read_weights(file)
    fields = infer_fields(state, config.model.head_channels)
    params[item] = {'unet': unet_params(state, fields)}
    fields.pop('out_channels')
    config.model.update(fields)
  # As in the published code: embeds gamma, does not scale dB values, predicts the noise, no patches.
  config.model.update(noise_embedding='gamma', patch_size=1)
  config.audio.update(kind='mel', offset=0.0, scale=1.0)
  config.diffusion.target = 'epsilon'
  image = np.zeros((1, config.size, config.size, 3), np.float32)
  audio = np.zeros((1, params['params']['unet']['embed_audio']['in']['kernel'].shape[0]), np.float32)
  notes = [f'{item} from {file}' for item, file in files.items()]
  return params, {'target': image, 'previous': image, 'identity': image, 'audio': audio}, notes

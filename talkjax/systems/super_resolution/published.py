"""Converts the published networks to a workdir of super_resolution, which generates and can be trained further.

Sources: researchmm/MM-Diffusion (landscape_SR.pt, AIST++_SR.pt) and openai/guided-diffusion (64_256_upsampler.pt,
128_512_upsampler.pt). The latter are conditioned on ImageNet's classes, which are left out: train them further.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from talkjax.errors import UserError
from talkjax.weights import guided_diffusion, mm_diffusion
from talkjax.weights.flags import read_flags
from talkjax.weights.read import find_file, read_weights

NAME = 'super_resolution'  # value of convert --source
CONFIG = 'configs/super_resolution.py'  # provides the settings that the checkpoint does not contain
ARGUMENTS = 'paper'
RELEASED: dict[str, Any] = {}
FILES = {
  **{name: flags for name, flags in mm_diffusion.RELEASED.items() if '_SR' in name},
  **{name: flags for name, flags in guided_diffusion.RELEASED.items() if 'upsampler' in name},
}
# Sizes that are not those of `paper`.
SIZES = {'128_512_upsampler.pt': 512}
_EXAMPLE = {'num_heads': 4}


def find(path: pathlib.Path, config=None) -> dict[str, pathlib.Path]:
  """The file to read as 'params': a checkpoint, or the first of FILES in a folder.

  Raises:
    UserError: the folder has none of them.
  """
  return {'params': find_file(path, FILES, 'super-resolution network')}


def step(files: Mapping[str, pathlib.Path]) -> int:
  """0: the file does not say."""
  return 0


def convert(
  files: Mapping[str, pathlib.Path], config, read_pretrained=None
) -> tuple[dict[str, Any], dict[str, np.ndarray], list[str]]:
  """Reads the file that `find` found.

  Args:
    files: paths by item.
    config: of super_resolution, which gets the sizes found.
    read_pretrained: not used.

  Returns:
    (parameters by item, an example batch for the system's `init`, a line of text for each item).

  Raises:
    UserError: the file is not such a checkpoint.
  """
  file = files['params']
  flags = read_flags(file, FILES, guided_diffusion.FLAGS, _EXAMPLE)
  params, fields = guided_diffusion.convert(read_weights(file), flags, str(file))
  channels = params['conv_in']['kernel'].shape[2] if 'conv_in' in params else 0
  if channels != 6 or fields.get('out_channels') not in (3, 6):
    raise UserError(
      f'{file} is no super-resolution network: expected a U-Net of 6 channels, such as {next(iter(FILES))}'
    )
  notes = [f'params from {file}']
  if fields.pop('num_classes') is not None:
    del params['embed_label']
    notes.append('its embedding of classes is left out: train it further before it generates')
  config.size = SIZES.get(file.name, config.size)
  config.model.learned_variance = fields.pop('out_channels') == 6
  config.model.update({k: v for k, v in fields.items() if k in config.model} | {'heads': fields['heads'] or ()})
  image = np.zeros((1, config.size, config.size, 3), np.uint8)
  return {'params': {'unet': params}}, {'image': image, 'low': image[:, :: config.scale, :: config.scale]}, notes

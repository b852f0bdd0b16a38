"""Converts the published generator to the parameters and config of talkjax.

Source: Rudrabha/Wav2Lip, models/wav2lip.py. The expert is a pretrained network (`convert --source=wav2lip_syncnet`).
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from talkjax.nn.wav2lip import COLUMNS, SIZE, Wav2Lip
from talkjax.weights.fit import fit
from talkjax.weights.pretrained import UNUSED, shapes_of
from talkjax.weights.read import find_file, read_weights

NAME = 'wav2lip'  # value of convert --source
CONFIG = 'configs/wav2lip.py'  # provides the settings that the checkpoint does not contain
ARGUMENTS = 'paper'
# Neither the expert nor a discriminator is in the file.
RELEASED = {'loss.sync': 0.0, 'loss.adversarial': 0.0}
FILES = ('wav2lip_gan.pth', 'wav2lip.pth')


def find(path: pathlib.Path, config=None) -> dict[str, pathlib.Path]:
  """The file to read as 'params': a checkpoint, or the first of FILES in a folder.

  Raises:
    UserError: the folder has none of them.
  """
  return {'params': find_file(path, FILES, 'generator of Wav2Lip')}


def step(files: Mapping[str, pathlib.Path]) -> int:
  """0: the file does not say."""
  return 0


def generator_params(state: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
  """Parameters of Wav2Lip() from the published state dict, whose entries are under `module.`."""
  state = {k.removeprefix('module.'): v for k, v in state.items()}
  return fit(state, shapes_of(Wav2Lip(), (1, 80, COLUMNS, 1), (1, SIZE, SIZE, 6)), name, UNUSED)


def convert(
  files: Mapping[str, pathlib.Path], config, read_pretrained=None
) -> tuple[dict[str, Any], dict[str, np.ndarray], list[str]]:
  """Reads the file that `find` found.

  Args:
    files: paths by item.
    config: of wav2lip; its loss becomes L1 alone.
    read_pretrained: not used.

  Returns:
    (parameters by item, an example batch for the system's `init`, a line of text).

  Raises:
    UserError: the file is not such a checkpoint.
  """
  config.update_from_flattened_dict(RELEASED)
  params = {'generator': generator_params(read_weights(files['params']), str(files['params']))}
  shapes = {'given': 3, 'reference': 3, 'mask': 1}
  example = {name: np.zeros((1, 1, SIZE, SIZE, channels), np.float32) for name, channels in shapes.items()}
  example['audio'] = np.zeros((1, 1, 80 * COLUMNS), np.float32)
  return {'params': params}, example, [f'params from {files["params"]}']

"""Converts weights of Moore-AnimateAnyone to initial parameters of vexpress, as in the released training code.

Source: MooreThreads/Moore-AnimateAnyone, and tencent-ailab/V-Express, train.py. The reference attention starts as a
copy of the self-attention, which attends to the reference image in Moore-AnimateAnyone. The audio attention has no
effect at first, because its output projection is zero-initialised.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from talkjax.errors import UserError
from talkjax.systems.vexpress import model, published
from talkjax.weights.fit import fit

NAME = 'moore'
CONFIG = published.CONFIG
ARGUMENTS = 'paper,stage=2'
RELEASED = {}
FILES = {
  'backbone': ('denoising_unet.pth', 'motion_module.pth'),
  'reference': ('reference_unet.pth',),
  'guider': ('pose_guider.pth',),
}


def find(path: pathlib.Path, config) -> dict[str, Any]:
  """Finds the files to read, see `published.find`."""
  return published.find(path, config, FILES)


def convert(
  files: Mapping[str, Any], config, read_pretrained
) -> tuple[dict[str, Any], dict[str, np.ndarray], list[str]]:
  """Reads the files that `find` found, see `published.convert`. Parts that they lack are initialised randomly."""
  state = {part: published.read_all(files[part]) for part in FILES}
  try:
    found = published.infer_unet(state['backbone']) | published.infer_guider(state['guider'])
  except (KeyError, IndexError) as error:
    raise UserError(
      f'the files are not those of Moore-AnimateAnyone: they have no entry {error}; expected denoising_unet.pth, '
      'motion_module.pth, reference_unet.pth, pose_guider.pth as published'
    ) from None
  config.update_from_flattened_dict(found)
  nets = model.make_networks(config)
  example = published.batch(config)
  wanted = published.shapes(nets, example)
  state['backbone'] = with_reference_attention(state['backbone'])
  ignored = published.IGNORED['backbone']
  if nets.audio is None:
    ignored += r'|transformer_blocks\.0\.(attn2|norm2)\.'
  if nets.backbone.temporal is None:
    ignored += r'|motion_modules\.'
  ignored = {**published.IGNORED, 'backbone': ignored}
  params, notes = {}, []
  for part in FILES:
    names = ' and '.join(f.name for f in files[part])
    params[part] = fit(state[part], wanted[part], names, ignored.get(part, ''))
    notes.append(published.note(part, names, state[part], ignored.get(part, '')))
  published.add_pretrained(params, notes, files, nets, read_pretrained)
  if nets.audio is not None:
    window = np.zeros((1, nets.audio.length, wanted['audio']['pos_emb']['embedding'].shape[1]), np.float32)
    params['audio'] = jax.device_get(jax.jit(nets.audio.init)(jax.random.key(0), window)['params'])
    notes.append('audio: the files have none, so it is randomly initialised and has no effect before training')
  return {'params': params}, example, notes


def with_reference_attention(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The backbone's entries with copies of attn1 and norm1 as attn1_5 and norm1_5, and a zero output of attn2."""
  extended = {}
  for name, value in state.items():
    extended[name] = np.zeros_like(value) if '.attn2.to_out.' in name else value
    if 'motion_modules' not in name and re.search(r'\.(attn1|norm1)\.', name) and 'transformer_blocks' in name:
      extended[re.sub(r'\.(attn1|norm1)\.', r'.\1_5.', name)] = value
  return extended


step = published.step

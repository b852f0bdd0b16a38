"""The published V-Express weights as parameters of vexpress.

Source: tencent-ailab/V-Express, inference.py and its README's folder of weights.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from talkjax.errors import UserError
from talkjax.systems.vexpress import model
from talkjax.weights.fit import fit
from talkjax.weights.read import read_weights

NAME = 'vexpress'  # of convert --source
CONFIG = 'configs/vexpress.py'  # whose numbers hold where the files do not say
ARGUMENTS = 'paper,stage=3,audio.kind=wav2vec2'
# The released settings where they differ from the paper's.
RELEASED = {
  'frames': 8,
  'windows.frames': 24,
  'windows.overlap': 4,
  'weights.reference': 0.95,
  'weights.audio': 3.0,
}
# The files of each part. The motion modules are a part of the denoising U-Net.
FILES = {
  'backbone': ('denoising_unet.bin', 'motion_module.bin'),
  'reference': ('reference_net.bin',),
  'guider': ('v_kps_guider.bin',),
  'audio': ('audio_projection.bin',),
}
# Published foundations that the weights need beside them: part, foundation, and the folder it is published in.
FOUNDATIONS = {
  'autoencoder': ('sd_vae', 'sd-vae-ft-mse'),
  'wav2vec2': ('wav2vec2', 'wav2vec2-base-960h'),
}
# Tables that are computed here, and a head that the ReferenceNet does not use.
IGNORED = {'backbone': r'pos_encoder\.pe$', 'reference': r'^conv_(norm_)?out\.'}


def find(path: pathlib.Path, config, files=FILES, foundations=FOUNDATIONS) -> dict[str, Any]:
  """The files to read.

  Args:
    path: the published folder: with the five files, or with them in `v-express/` and the foundations beside.
    config: whose `foundations` may name workdirs in their place.
    files, foundations: as FILES and FOUNDATIONS.

  Returns:
    by part the files of it, or of a foundation its folder or workdir.

  Raises:
    UserError: some are missing; the sentence names them all.
  """
  folders = [path, path / 'v-express', path / 'model_ckpts', path / 'model_ckpts' / 'v-express']
  beside = [path, path / 'model_ckpts', path.parent]
  found, missing = {}, []
  for part, names in files.items():
    found[part] = [next((d / n for d in folders if (d / n).is_file()), None) for n in names]
    missing += [n for n, file in zip(names, found[part]) if file is None]
  for part, (name, folder) in foundations.items():
    there = config.foundations.get(name) or next((d / folder for d in beside if (d / folder).is_dir()), None)
    if there is None:
      missing.append(f'{folder}/ (or --config.foundations.{name}=WORKDIR)')
    found[part] = there
  if missing:
    raise UserError(
      f'--path={path} is not the whole of what was published: missing {", ".join(missing)}; nothing was converted'
    )
  return found


def convert(files: Mapping[str, Any], config, foundation) -> tuple[dict[str, Any], dict[str, np.ndarray], list[str]]:
  """Reads the files that `find` found.

  Args:
    files: by part.
    config: of vexpress; sizes that the files tell are set in it. Heads and groups they do not tell.
    foundation: (name, folder or workdir, network) -> its parameters.

  Returns:
    ({'params': parameters}, an example of the batch that the system's `init` takes, what was used and what was left).

  Raises:
    UserError: a file is of something else, or of other sizes than the others.
  """
  state = {part: read_all(files[part]) for part in FILES}
  config.update_from_flattened_dict(infer(state, config))
  nets = model.make_networks(config)
  example = batch(config)
  wanted = shapes(nets, example)
  params, notes = {}, []
  for part in FILES:
    names = ' and '.join(f.name for f in files[part])
    params[part] = fit(state[part], wanted[part], names, IGNORED.get(part, ''))
    notes.append(note(part, names, state[part], IGNORED.get(part, '')))
  for part, (name, _) in FOUNDATIONS.items():
    params[part] = foundation(name, files[part], nets.latents if part == 'autoencoder' else nets.encoder)
    notes.append(f'{part} from {files[part]}')
  return {'params': params}, example, notes


def read_all(files: Sequence[pathlib.Path]) -> dict[str, np.ndarray]:
  """The entries of several files; of one that is in two, the later file's."""
  state = {}
  for file in files:
    state |= {k.removeprefix('module.'): v for k, v in read_weights(file).items()}
  return state


def note(part: str, names: str, state: Mapping[str, np.ndarray], ignored: str) -> str:
  """What was used of a file and what was left, in a line."""
  left = [k for k in state if ignored and re.search(ignored, k)]
  said = f'{part} from {names}: {len(state) - len(left)} of {len(state)} entries'
  kinds = sorted({re.sub(r'.*pos_encoder\.pe$', 'tables of positions', k) for k in left})
  return said + (f'; left: {", ".join(kinds)}' if left else '')


def batch(config) -> dict[str, np.ndarray]:
  """An example of what `model.init` takes."""
  picture = np.zeros((1, config.size, config.size, 3), np.float32)
  clip = np.zeros((1, config.frames, *picture.shape[1:]), np.float32)
  width = {'wav2vec2': 640, 'mel': config.audio.bands * config.audio.columns, 'none': 1}[config.audio.kind]
  heard = np.zeros((1, config.frames + 2 * (config.margin + config.audio.context), width), np.float32)
  return {'target': clip, 'reference': picture, 'kps': clip.astype(np.uint8), 'audio': heard}


def shapes(nets: model.Networks, example) -> Any:
  """Shapes of the parameters."""
  return jax.eval_shape(lambda rng: model.init(rng, example, nets=nets), jax.random.key(0))


def infer(state: Mapping[str, Mapping[str, np.ndarray]], config) -> dict[str, Any]:
  """Settings that the shapes in the files tell, by their key in the config."""
  try:
    return infer_unet(state['backbone']) | infer_guider(state['guider']) | infer_audio(state['audio'], config)
  except (KeyError, IndexError) as error:
    raise UserError(
      f'the files are not those of V-Express: they have no entry {error}; expected '
      f'{", ".join(n for names in FILES.values() for n in names)} as published'
    ) from None


def infer_unet(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Sizes of the backbone, with its temporal layers where it has some."""
  levels = count(state, r'down_blocks\.(\d+)\.resnets')
  inside = 'down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0'
  table = f'{inside}.attention_blocks.0.pos_encoder.pe'
  attention = tuple(f'down_blocks.{i}.attentions.0.norm.weight' in state for i in range(levels))
  found = {
    'model.widths': tuple(state[f'down_blocks.{i}.resnets.0.conv1.weight'].shape[0] for i in range(levels)),
    'model.attention': attention,
    'model.layers': count(state, r'down_blocks\.0\.resnets\.(\d+)'),
    'model.context': state['mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight'].shape[1],
  }
  if any('motion_modules' in k for k in state):
    found |= {
      'model.temporal_middle': any(k.startswith('mid_block.motion_modules') for k in state),
      'model.temporal_layers': count(state, re.escape(inside) + r'\.attention_blocks\.(\d+)'),
    }
  return found | ({'model.max_frames': state[table].shape[1]} if table in state else {})


def infer_guider(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Widths of the V-Kps guider."""
  blocks = count(state, r'blocks\.(\d+)')
  widths = state['conv_in.weight'], *(state[f'blocks.{i}.weight'] for i in range(1, blocks, 2))
  return {'model.guider': tuple(w.shape[0] for w in widths)}


def infer_audio(state: Mapping[str, np.ndarray], config) -> dict[str, Any]:
  """Sizes of the audio projection; the channels of a head are the config's."""
  _, tokens, features = state['latents'].shape
  inner = state['layers.0.0.to_q.weight'].shape[0]
  if inner % config.model.audio_head_features:
    raise UserError(
      f'audio_projection.bin has attention of {inner} channels, which heads of {config.model.audio_head_features} do '
      'not divide: set model.audio_head_features in --config'
    )
  return {
    'margin': (state['pos_emb.weight'].shape[0] // 2 - 1) // 2,
    'model.audio_tokens': tokens,
    'model.audio_features': features,
    'model.audio_layers': count(state, r'layers\.(\d+)'),
    'model.audio_heads': inner // config.model.audio_head_features,
    'model.audio_expansion': state['layers.0.1.1.weight'].shape[0] // features,
  }


def count(state: Mapping[str, np.ndarray], pattern: str) -> int:
  """How many numbers there are in the pattern's place."""
  return len({m[1] for m in (re.match(pattern, k) for k in state) if m})


def step(files) -> int:
  """The files do not say."""
  return 0

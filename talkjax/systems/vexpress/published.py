"""Converts the published V-Express weights to parameters of vexpress.

Source: tencent-ailab/V-Express, inference.py and the folder of weights described in its README.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from talkjax.errors import UserError
from talkjax.systems.portrait import networks
from talkjax.systems.portrait.networks import Networks
from talkjax.systems.vexpress import model
from talkjax.weights.fit import fit
from talkjax.weights.read import read_weights

NAME = 'vexpress'  # value of convert --source
CONFIG = 'configs/vexpress.py'  # provides the settings that the files do not contain
ARGUMENTS = 'paper,stage=3'
FPS = 30.0  # that the weights were trained at
# The released settings where they differ from the paper's.
RELEASED = {
  'frames': 8,
  'windows.frames': 24,
  'windows.overlap': 4,
  'context_scales.reference': 0.95,
  'context_scales.audio': 3.0,
}
# The files of each part. The motion modules belong to the denoising U-Net.
FILES = {
  'backbone': ('denoising_unet.bin', 'motion_module.bin'),
  'reference': ('reference_net.bin',),
  'guider': ('v_kps_guider.bin',),
  'audio': ('audio_projection.bin',),
}
# The pretrained networks that are needed in addition: part -> (network, published folder).
PRETRAINED = {
  'autoencoder': ('sd_vae', 'sd-vae-ft-mse'),
  'wav2vec2': ('wav2vec2', 'wav2vec2-base-960h'),
}
# Positional encodings, which are computed here, and the output layers of the ReferenceNet, which are not used.
IGNORED = {'backbone': r'pos_encoder\.pe$', 'reference': r'^conv_(norm_)?out\.'}


def find(path: pathlib.Path, config, files=FILES) -> dict[str, Any]:
  """Finds the files to read.

  Args:
    path: the published folder, with the five files, or with `v-express/` and the pretrained networks.
    config: `config.pretrained` may give workdirs of the pretrained networks instead.
    files: as FILES.

  Returns:
    by part its files, or the folder or workdir of a pretrained network.

  Raises:
    UserError: files are missing; the message lists all of them.
  """
  folders = [path, path / 'v-express', path / 'model_ckpts', path / 'model_ckpts' / 'v-express']
  network_folders = [path, path / 'model_ckpts', path.parent]
  found, missing = {}, []
  for part, names in files.items():
    found[part] = [next((d / n for d in folders if (d / n).is_file()), None) for n in names]
    missing += [n for n, file in zip(names, found[part]) if file is None]
  for part, (name, folder) in PRETRAINED.items():
    if name == 'wav2vec2' and config.audio.kind != name:
      continue
    key = 'audio.weights' if name == 'wav2vec2' else f'pretrained.{name}'
    given = config.audio.weights if name == 'wav2vec2' else config.pretrained.get(name)
    source = given or next((d / folder for d in network_folders if (d / folder).is_dir()), None)
    if source is None:
      missing.append(f'{folder}/ (or --config.{key}=WORKDIR)')
    found[part] = source
  if missing:
    raise UserError(f'--path={path} is incomplete: missing {", ".join(missing)}; expected the published folder')
  return found


def convert(
  files: Mapping[str, Any], config, read_pretrained
) -> tuple[dict[str, Any], dict[str, np.ndarray], list[str]]:
  """Reads the files that `find` found.

  Args:
    files: paths by part.
    config: of vexpress. It is updated with the sizes found in the files and the frame rate of the weights, and provides
      the numbers of heads and groups, which cannot be inferred from the files.
    read_pretrained: (name, folder or workdir, network) -> parameters of the network.

  Returns:
    ({'params': parameters}, an example batch for the system's `init`, lines on what was read and what was ignored).

  Raises:
    UserError: a file contains other weights, or its sizes do not fit the other files.
  """
  state = {part: read_all(files[part]) for part in FILES}
  config.update_from_flattened_dict({**infer(state, config), 'fps': FPS})
  nets = model.make_networks(config)
  example = batch(config)
  wanted = shapes(nets, example)
  params, notes = {}, []
  for part in FILES:
    names = ' and '.join(f.name for f in files[part])
    params[part] = fit(state[part], wanted[part], names, IGNORED.get(part, ''))
    notes.append(note(part, names, state[part], IGNORED.get(part, '')))
  add_pretrained(params, notes, files, nets, read_pretrained)
  return {'params': params}, example, notes


def add_pretrained(params: dict[str, Any], notes: list[str], files: Mapping[str, Any], nets: Networks, read) -> None:
  """Adds the parameters of the pretrained networks, and a line of text on each."""
  for part, (name, _) in PRETRAINED.items():
    if part in files:
      net = nets.latents.net if part == 'autoencoder' else nets.audio_features.encoder.net
      params[part] = read(name, files[part], net)
      notes.append(f'{part} from {files[part]}')


def read_all(files: Sequence[pathlib.Path]) -> dict[str, np.ndarray]:
  """Reads the entries of several files; later files take precedence."""
  state = {}
  for file in files:
    state |= {k.removeprefix('module.'): v for k, v in read_weights(file).items()}
  return state


def note(part: str, names: str, state: Mapping[str, np.ndarray], ignored: str) -> str:
  """A line of text on how many entries of the files were used and which were ignored."""
  skipped = [k for k in state if ignored and re.search(ignored, k)]
  line = f'{part} from {names}: {len(state) - len(skipped)} of {len(state)} entries'
  kinds = sorted({re.sub(r'.*pos_encoder\.pe$', 'positional encodings', k) for k in skipped})
  return line + (f'; ignored: {", ".join(kinds)}' if skipped else '')


def batch(config) -> dict[str, np.ndarray]:
  """An example batch for `networks.init`."""
  image = np.zeros((1, config.size, config.size, 3), np.float32)
  clip = np.zeros((1, config.frames, *image.shape[1:]), np.float32)
  features = np.zeros((1, config.frames + 2 * config.margin, model.make_networks(config).audio_features.channels))
  return {'target': clip, 'reference': image, 'kps': clip.astype(np.uint8), 'audio': features.astype(np.float32)}


def shapes(nets: Networks, example) -> Any:
  """Shapes of the parameters of all networks."""
  return jax.eval_shape(lambda rng: networks.init(rng, example, nets=nets), jax.random.key(0))


def infer(state: Mapping[str, Mapping[str, np.ndarray]], config) -> dict[str, Any]:
  """Infers settings from the shapes in the files, by config key."""
  try:
    return infer_unet(state['backbone']) | infer_guider(state['guider']) | infer_audio(state['audio'], config)
  except (KeyError, IndexError) as error:
    raise UserError(
      f'the files are not those of V-Express: they have no entry {error}; expected '
      f'{", ".join(n for names in FILES.values() for n in names)} as published'
    ) from None


def infer_unet(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Infers the sizes of the backbone, and of its temporal layers if it has any."""
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
  """Infers the widths of the V-Kps guider."""
  blocks = count(state, r'blocks\.(\d+)')
  widths = state['conv_in.weight'], *(state[f'blocks.{i}.weight'] for i in range(1, blocks, 2))
  return {'model.guider': tuple(w.shape[0] for w in widths)}


def infer_audio(state: Mapping[str, np.ndarray], config) -> dict[str, Any]:
  """Infers the sizes of the audio projection; channels per head are those of the config."""
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
  """Number of distinct values of the first group of a pattern among the names."""
  return len({m[1] for m in (re.match(pattern, k) for k in state) if m})


def step(files) -> int:
  """Always 0, because the files do not contain the step."""
  return 0

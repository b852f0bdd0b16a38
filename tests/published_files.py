"""Made-up files in the layouts of published weights, small enough for tests."""

import pathlib
import re

import jax
import numpy as np

from configs import vexpress as config_file
from talkjax.nn.unet import UNet
from talkjax.systems.portrait import networks
from talkjax.systems.vexpress import model, published
from talkjax.weights import adm
from tests import torch_file
from tests.micro import ENCODER, random_params

# Of DiffusionVideoEditing.
FIELDS = {
  'width': 32,
  'multipliers': (1, 3),
  'attention_downsamples': (2,),
  'num_res_blocks': 1,
  'head_channels': 16,
  'dropout': 0.3,
}
SIZE = 16


def state_dict(seed):
  """A published state dict of such a U-Net, random: names by the map that the goldens prove, layouts as PyTorch's."""
  x = np.zeros((1, SIZE, SIZE, 9), np.float32)
  shapes = jax.eval_shape(UNet(**FIELDS).init, jax.random.key(0), x, np.ones(1), np.zeros((1, 1024)))['params']
  made = adm_state(shapes, adm.layer_names(FIELDS, 'cond_embed'), np.random.default_rng(seed))
  state = {'gammas': np.linspace(1, 0, 5, dtype=np.float32), 'posterior_mean_coef1': np.ones(5, np.float32)}
  return state | {f'denoise_fn.{name}': array for name, array in made.items()}


def adm_state(shapes, layers, r) -> dict[str, np.ndarray]:
  """Random entries of a published ADM U-Net with parameters of these shapes; `layers` is its `adm.layer_names`."""
  state = {}
  for name, path in layers.items():
    node = shapes
    for key in path:
      node = node.get(key, {})
    for leaf, array in node.items():
      shape = array.shape[::-1] if leaf == 'kernel' else array.shape
      if len(shape) == 4:  # o, i, w, h
        shape = (*shape[:2], 3, 3)
      elif leaf == 'kernel' and name.endswith(('qkv', 'proj_out')):
        shape = (*shape, 1)
      elif name.endswith('skip_connection') and leaf == 'kernel':
        shape = (*shape, 1, 1)
      suffix = 'bias' if leaf == 'bias' else 'weight'
      state[f'{name}.{suffix}'] = r.standard_normal(shape).astype(np.float32)
  return state


def super_resolution_state():
  """A published state dict of a super-resolution U-Net with learned variance, random."""
  fields = {'width': 32, 'multipliers': (1,), 'attention_downsamples': (), 'num_res_blocks': 1}
  init = UNet(**fields, heads=(4, 4), out_channels=6).init
  shapes = jax.eval_shape(init, jax.random.key(0), np.zeros((1, 2, 2, 6), np.float32), np.ones(1))['params']
  return adm_state(shapes, adm.layer_names(fields), np.random.default_rng(0))


# Of V-Express.
TINY = {
  'size': 32,
  'frames': 2,
  'dtype': 'float32',
  'model.heads': 2,
  'model.groups': 8,
  'model.temporal_heads': 2,
  'model.temporal_groups': 8,
  'model.audio_head_features': 4,
  'latents.widths': (32, 32),
  'windows.frames': 4,
  'windows.overlap': 1,
  'sampler.steps': 1,
}
# What the shapes in the files determine.
SIZES = {
  'model.widths': (16, 32),
  'model.attention': (True, False),
  'model.layers': 1,
  'model.context': 12,
  'model.guider': (8, 16),
  'model.audio_tokens': 3,
  'model.audio_features': 8,
  'model.audio_layers': 1,
  'model.audio_heads': 2,
  'model.audio_expansion': 2,
}


def make_config(arguments, **changes):
  config = config_file.get_config(arguments)
  if config.audio.kind == 'wav2vec2':
    config.audio.wav2vec2 = {**ENCODER, 'layers': 1}
  config.update_from_flattened_dict({**TINY, **changes})
  return config


def as_published(tree) -> dict[str, np.ndarray]:
  """A tree of parameters under PyTorch's names and in its layouts."""
  state = {}
  for path, value in jax.tree_util.tree_leaves_with_path(tree):
    *parts, leaf = (k.key for k in path)
    name = '.'.join(re.sub(r'_(\d+)(?=_|$)', r'.\1', p) if '1_5' not in p else p for p in parts)
    name = re.sub(r'\.(\d+)_', r'.\1.', name).replace('mid_block_', 'mid_block.')
    array = np.asarray(value, np.float32)
    if leaf == 'kernel':
      array = array.transpose(array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))
      if name.endswith(('attentions.0.proj_in', 'attentions.0.proj_out', 'conv_shortcut', 'quant_conv')):
        array = array[..., None, None]
    kind = 'weight' if leaf in ('kernel', 'scale', 'embedding') else leaf
    state[f'{name}.{kind}'.lstrip('.')] = array
  return state


def vexpress_params():
  """Random parameters of a small vexpress, none of them zero."""
  config = make_config('paper,stage=3', **SIZES)
  nets, example = model.make_networks(config), published.batch(config)
  shapes = jax.eval_shape(lambda rng: networks.init(rng, example, nets=nets), jax.random.key(0))
  return jax.tree.map(np.asarray, random_params(shapes))


def write_vexpress(root: pathlib.Path, made) -> pathlib.Path:
  """Writes such parameters as the published folder, with entries that are not used; returns the folder."""
  ours = {part: as_published(made[part]) for part in published.FILES}
  motion = {k: v for k, v in ours['backbone'].items() if 'motion_modules' in k}
  inside = 'down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0'
  motion[f'{inside}.pos_encoder.pe'] = np.zeros((1, 20, 16), np.float32)
  # The denoising U-Net is saved whole, with motion modules that the other file replaces.
  whole = {k: np.zeros_like(v) if k in motion else v for k, v in ours['backbone'].items()}
  reference = {**ours['reference'], 'conv_out.weight': np.ones((4, 16, 3, 3)), 'conv_out.bias': np.ones(4)}
  reference = {k: v.astype(np.float32) for k, v in reference.items()}
  for name, state in (
    ('v-express/denoising_unet.bin', whole),
    ('v-express/motion_module.bin', motion),
    ('v-express/reference_net.bin', reference),
    ('v-express/v_kps_guider.bin', ours['guider']),
    ('v-express/audio_projection.bin', ours['audio']),
    ('sd-vae-ft-mse/diffusion_pytorch_model.bin', as_published(made['autoencoder'])),
    ('wav2vec2-base-960h/pytorch_model.bin', as_published(made['wav2vec2'])),
  ):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    torch_file.save(root / name, state)
  return root

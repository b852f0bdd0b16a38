"""Converts pretrained networks to `talkjax.nn`: Stable Diffusion 1.5, wav2vec 2.0, AnimateDiff, guided-diffusion and
MM-Diffusion (in modules of their own), those of the scores.

The modules of `talkjax.nn` have the published names. This module defines the exceptions and the names of the files.
"""

import functools
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from talkjax.errors import UserError
from talkjax.nn.autoencoder import Autoencoder
from talkjax.nn.hopenet import Hopenet
from talkjax.nn.i3d import I3D
from talkjax.nn.inception import InceptionV3
from talkjax.nn.latent_unet import Conditioning, LatentUNet, Temporal
from talkjax.nn.lpips import LPIPS
from talkjax.nn.syncnet import SyncNet, Wav2LipExpert
from talkjax.nn.wav2vec2 import Wav2Vec2
from talkjax.weights import deep3d, guided_diffusion, mm_diffusion, vqgan
from talkjax.weights.fit import fit
from talkjax.weights.read import read_weights

_DIFFUSERS = ('diffusion_pytorch_model.safetensors', 'diffusion_pytorch_model.bin')
# Paths of the weights in the published folder; the first that exists is read.
FILES = {
  'sd15': (*(f'unet/{name}' for name in _DIFFUSERS), *_DIFFUSERS),
  'sd_vae': (*(f'vae/{name}' for name in _DIFFUSERS), *_DIFFUSERS),
  'wav2vec2': ('model.safetensors', 'pytorch_model.bin'),
  'animatediff': ('mm_sd_v15_v2.ckpt', 'mm_sd_v15.ckpt', 'v3_sd15_mm.ckpt', 'mm_sd_v14.ckpt', *_DIFFUSERS),
  'guided_diffusion': tuple(guided_diffusion.RELEASED),
  'mm_diffusion': tuple(mm_diffusion.RELEASED),
  'inception': ('pt_inception-2015-12-05-6726825d.pth',),
  'i3d': ('i3d_pretrained_400.pt',),
  'syncnet': ('syncnet_v2.model',),
  'wav2lip_syncnet': ('lipsync_expert.pth',),
  'lpips': ('alex.pth', 'vgg.pth', 'weights/v0.1/alex.pth', 'lpips/weights/v0.1/alex.pth'),
  'vqgan': ('model.ckpt', 'last.ckpt'),
  'hopenet': ('hopenet_robust_alpha1.pkl', 'hopenet_alpha2.pkl', 'hopenet_alpha1.pkl'),
  'deep3d': ('epoch_20.pth', 'epoch_latest.pth'),
  'bfm': ('BFM_model_front.mat', 'BFM/BFM_model_front.mat'),
}
# Published apart from `lpips`, whose heads read its features: torchvision's trunks, by net.
TRUNKS = {
  'alex': ('alexnet-owt-7be5be79.pth', 'alexnet-owt-4df8aa71.pth'),
  'vgg': ('vgg16-397923af.pth',),
}
# The networks that scores are computed with, and the shapes of their inputs.
SCORING = {
  'inception': (InceptionV3(), (1, 299, 299, 3)),
  'i3d': (I3D(), (1, 16, 224, 224, 3)),
  'syncnet': (SyncNet(), (1, 5, 224, 224, 3), (1, 13, 20, 1)),
  'wav2lip_syncnet': (Wav2LipExpert(), (1, 48, 96, 15), (1, 80, 16, 1)),
  'lpips': (LPIPS(), (1, 64, 64, 3), (1, 64, 64, 3)),
  'hopenet': (Hopenet(), (1, 224, 224, 3)),
}
# Sources whose files hold networks of several kinds and sizes, and the function that reads them.
_SIZED = {'guided_diffusion': guided_diffusion.read, 'mm_diffusion': mm_diffusion.read, 'vqgan': vqgan.read}
# Entries that inference with the networks of the scores does not use: counters, and heads of their training.
UNUSED = r'num_batches_tracked$|^fc_finetune\.|^fc\.|^classifier\.|^scaling_layer\.'
# Fields of Wav2Vec2 and their names in the published config.json.
_WAV2VEC2 = {
  'width': 'hidden_size',
  'layers': 'num_hidden_layers',
  'heads': 'num_attention_heads',
  'hidden': 'intermediate_size',
  'conv_widths': 'conv_dim',
  'conv_kernels': 'conv_kernel',
  'conv_strides': 'conv_stride',
  'conv_bias': 'conv_bias',
  'conv_norm': 'feat_extract_norm',
  'position_kernel': 'num_conv_pos_embeddings',
  'position_groups': 'num_conv_pos_embedding_groups',
  'stable': 'do_stable_layer_norm',
  'epsilon': 'layer_norm_eps',
}
# What our wav2vec 2.0 has in common with the published ones, by file of their folder.
_WAV2VEC2_FIXED = {
  'config.json': {'hidden_act': 'gelu', 'feat_extract_activation': 'gelu'},
  'preprocessor_config.json': {'do_normalize': True, 'sampling_rate': 16_000},
}
# Layers of a motion block: name in diffusers' MotionAdapter -> name in AnimateDiff.
_MOTION = {
  'attn1': 'attention_blocks.0',
  'attn2': 'attention_blocks.1',
  'norm1': 'norms.0',
  'norm2': 'norms.1',
  'norm3': 'ff_norm',
}
# The published autoencoder uses the earlier names of diffusers' attention layers.
_OLD_ATTENTION = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}


def read(source: str, path: str | pathlib.Path, *net) -> tuple[dict[str, Any], pathlib.Path]:
  """The parameters of a pretrained network, and the file they were read from.

  Args:
    source: one of FILES.
    path: the file, or the published folder.
    *net: the network (sd_vae and wav2vec2 only) if its sizes differ from those of the published one; that of wav2vec2
      is by default the one that `wav2vec2_fields` finds. Those of other sources are found in the file.

  Returns:
    (parameters of LatentUNet, Autoencoder, Wav2Vec2, the temporal layers of LatentUNet or another network, as `source`
    says; the file).

  Raises:
    UserError: there is no such file, or it belongs to another network.
  """
  params, _, file = read_with_fields(source, path, *net)
  return params, file


def read_with_fields(
  source: str, path: str | pathlib.Path, *net
) -> tuple[dict[str, Any], dict[str, Any], pathlib.Path]:
  """As `read`, and between both the fields of the network that differ from file to file; {} where none do."""
  path = pathlib.Path(path)
  file = path if path.is_file() else next((path / name for name in FILES[source] if (path / name).is_file()), None)
  if file is None:
    raise UserError(f'--path={path} holds no weights of {source}: expected a file, or a folder with {FILES[source][0]}')
  if source == 'bfm':
    return deep3d.read_bfm(file), {}, file
  if source in _SIZED:
    return *_SIZED[source](read_weights(file), file), file
  fields = wav2vec2_fields(file) if source == 'wav2vec2' else {}
  if source == 'wav2vec2' and not net:
    net = (Wav2Vec2(**fields),)
  state = read_weights(file)
  if source == 'lpips':
    state = {**_trunk(file, path, state), **state}
    net = (LPIPS('vgg' if 'features.2.weight' in state else 'alex'),)
  return _CONVERT[source](state, str(file), *net), fields, file


def _trunk(file: pathlib.Path, folder: pathlib.Path, heads: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The trunk of LPIPS, which torchvision publishes; {} if it is in the file of the heads.

  Raises:
    UserError: it is not there.
  """
  if 'features.0.weight' in heads:
    return {}
  names = TRUNKS['vgg' if 'vgg' in file.name else 'alex']
  for name in names:
    for place in (folder, file.parent):
      if (place / name).is_file():
        return read_weights(place / name)
  raise UserError(f'{file} has the heads of LPIPS only: put their trunk, {names[0]} of torchvision, next to it')


def wav2vec2_fields(file: pathlib.Path) -> dict[str, Any]:
  """The fields of Wav2Vec2 that the published config.json next to a file of weights sets; {} without one.

  Raises:
    UserError: it is no such config, or it or the preprocessor_config.json has what is not supported.
  """
  configs = {}
  for name, expected in _WAV2VEC2_FIXED.items():
    path = file.parent / name
    try:
      configs[name] = dict(json.loads(path.read_text())) if path.is_file() else {}
    except (ValueError, TypeError) as error:
      raise UserError(f'{path} is not the config of a wav2vec 2.0 model: expected the published one') from error
    for key, value in expected.items():
      if (found := configs[name].get(key, value)) != value:
        raise UserError(f'{path} has {key}={found}: only models with {value} are supported')
  config = configs['config.json']
  fields = {ours: config[theirs] for ours, theirs in _WAV2VEC2.items() if theirs in config}
  return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def sd15(state: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
  """Parameters of LatentUNet() from the U-Net of Stable Diffusion 1.5."""
  return fit(state, unet_shapes(LatentUNet()), name)


def unet_shapes(net: LatentUNet, context: int = 768) -> dict[str, Any]:
  """Shapes of the parameters of a plain U-Net with text tokens of `context` channels."""
  inputs = jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), Conditioning({'text': jnp.zeros((1, 1, context))})
  return jax.eval_shape(net.init, jax.random.key(0), *inputs)['params']


def sd_vae(state: Mapping[str, np.ndarray], name: str, net: Autoencoder | None = None) -> dict[str, Any]:
  """Parameters of Autoencoder() from the autoencoder of Stable Diffusion."""
  wanted = jax.eval_shape((net or Autoencoder()).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
  return fit(autoencoder_state(state), wanted, name)


def wav2vec2(state: Mapping[str, np.ndarray], name: str, net: Wav2Vec2 | None = None) -> dict[str, Any]:
  """Parameters of Wav2Vec2() from the encoder of wav2vec2-base, or of `net`: wav2vec2-large, XLSR."""
  wanted = jax.eval_shape((net or Wav2Vec2()).init, jax.random.key(0), jnp.zeros((1, 800)))['params']
  return fit(wav2vec2_state(state), wanted, name)


def animatediff(state: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
  """Parameters of the temporal layers of LatentUNet(temporal=Temporal(...)) from AnimateDiff's motion modules."""
  state = motion_state(state)
  middle = any(k.startswith('mid_block.') for k in state)
  wanted = unet_shapes(LatentUNet(temporal=Temporal(middle)))
  wanted = {k: v for k, v in wanted.items() if 'motion_modules' in k}
  return fit(state, wanted, name)


def scoring(state: Mapping[str, np.ndarray], name: str, net: nn.Module | None = None, *, source: str) -> dict[str, Any]:
  """Parameters of a network of SCORING, or of `net` in its place, by its published names."""
  published, *shapes = SCORING[source]
  state = {k.removeprefix('module.'): v for k, v in state.items()}
  return fit(state, shapes_of(net or published, *shapes), name, UNUSED)


def shapes_of(net: nn.Module, *shapes: tuple[int, ...]) -> dict[str, Any]:
  """Shapes of the parameters of a network for inputs of these shapes."""
  return jax.eval_shape(net.init, jax.random.key(0), *(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes))['params']


_CONVERT: dict[str, Callable] = {
  'sd15': sd15,
  'sd_vae': sd_vae,
  'wav2vec2': wav2vec2,
  'animatediff': animatediff,
  'deep3d': lambda state, name: deep3d.of_state(state, name)[1],
  **{name: functools.partial(scoring, source=name) for name in SCORING},
}


def motion_state(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """State dict of AnimateDiff or of a MotionAdapter with AnimateDiff's names and without positional encodings."""
  renamed = {}
  for name, value in state.items():
    if name == 'animatediff_config' or name.endswith(('.pos_encoder.pe', '.pos_embed.pe')):
      continue
    ours = re.sub(r'(motion_modules\.\d+)\.(?!temporal_transformer\.)', r'\1.temporal_transformer.', name)
    ours = re.sub(r'(?<=\.)(attn[12]|norm[123])(?=\.)', lambda m: _MOTION[m[1]], ours)
    renamed[ours.removeprefix('module.')] = value
  return renamed


def autoencoder_state(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """State dict of an AutoencoderKL with the newer names of its attention layers."""
  rename = lambda m: f'.attentions.0.{_OLD_ATTENTION[m[1]]}.'
  return {re.sub(rf'\.attentions\.0\.({"|".join(_OLD_ATTENTION)})\.', rename, k): v for k, v in state.items()}


def wav2vec2_state(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """State dict of the encoder in a Wav2Vec2ForCTC (or Wav2Vec2Model), with weight normalisation folded in."""
  encoder = {k.removeprefix('wav2vec2.'): v for k, v in state.items()}
  heads = ('lm_head.', 'masked_spec_embed', 'quantizer.', 'project_q.', 'project_hid.')
  encoder = {k: v for k, v in encoder.items() if not k.startswith(heads)}
  conv = 'encoder.pos_conv_embed.conv'
  for gain, direction in (
    (f'{conv}.weight_g', f'{conv}.weight_v'),
    (f'{conv}.parametrizations.weight.original0', f'{conv}.parametrizations.weight.original1'),
  ):
    if gain in encoder and direction in encoder:
      g, v = encoder.pop(gain), encoder.pop(direction)
      # Weight normalisation has one norm per kernel position.
      encoder[f'{conv}.weight'] = g * v / np.sqrt(np.sum(np.square(v), axis=(0, 1), keepdims=True))
  return encoder

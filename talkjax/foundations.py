"""Published foundations (Stable Diffusion 1.5, its autoencoder, wav2vec 2.0, AnimateDiff) for the networks of `nn`.

Modules of `talkjax.nn` are called as the published ones; here stands what differs, and where the files lie.
"""

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.errors import UserError
from talkjax.nn.autoencoder import Autoencoder
from talkjax.nn.latent_unet import LatentUNet, Temporal
from talkjax.nn.wav2vec2 import Wav2Vec2
from talkjax.weights.fit import fit
from talkjax.weights.read import read_weights

_DIFFUSERS = ('diffusion_pytorch_model.safetensors', 'diffusion_pytorch_model.bin')
# Where the weights lie in the folder that is published, the first that is there is taken.
FILES = {
  'sd15': (*(f'unet/{name}' for name in _DIFFUSERS), *_DIFFUSERS),
  'sd_vae': (*(f'vae/{name}' for name in _DIFFUSERS), *_DIFFUSERS),
  'wav2vec2': ('model.safetensors', 'pytorch_model.bin'),
  'animatediff': ('mm_sd_v15_v2.ckpt', 'mm_sd_v15.ckpt', 'v3_sd15_mm.ckpt', 'mm_sd_v14.ckpt', *_DIFFUSERS),
}
# AnimateDiff's names of what is in a block, for those that diffusers gave its MotionAdapter.
_MOTION = {
  'attn1': 'attention_blocks.0',
  'attn2': 'attention_blocks.1',
  'norm1': 'norms.0',
  'norm2': 'norms.1',
  'norm3': 'ff_norm',
}
# The published autoencoder keeps the names that diffusers gave attention at first.
_OLD_ATTENTION = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}


def read(source: str, path: str | pathlib.Path, *net) -> tuple[dict[str, Any], pathlib.Path]:
  """A published foundation's parameters, and the file they were in.

  Args:
    source: one of FILES.
    path: the file, or the published folder.
    *net: the network (of sd_vae or wav2vec2) if it has other sizes than the published one.

  Returns:
    the parameters of the network that `source` is: LatentUNet, Autoencoder, Wav2Vec2, or the temporal layers of a
    LatentUNet.

  Raises:
    UserError: no such file, or it is of another network.
  """
  path = pathlib.Path(path)
  file = path if path.is_file() else next((path / name for name in FILES[source] if (path / name).is_file()), None)
  if file is None:
    raise UserError(f'--path={path} holds no weights of {source}: expected a file, or a folder with {FILES[source][0]}')
  return _CONVERT[source](read_weights(file), str(file), *net), file


def sd15(state: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
  """The U-Net of Stable Diffusion 1.5: LatentUNet()."""
  return fit(state, unet_shapes(LatentUNet()), name)


def unet_shapes(net: LatentUNet, context: int = 768) -> dict[str, Any]:
  """Shapes of the parameters of a plain U-Net with text tokens of `context` channels."""
  sizes = jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), {'text': jnp.zeros((1, 1, context))}
  return jax.eval_shape(net.init, jax.random.key(0), *sizes)['params']


def sd_vae(state: Mapping[str, np.ndarray], name: str, net: Autoencoder | None = None) -> dict[str, Any]:
  """The autoencoder of Stable Diffusion: Autoencoder()."""
  wanted = jax.eval_shape((net or Autoencoder()).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
  return fit(autoencoder_state(state), wanted, name)


def wav2vec2(state: Mapping[str, np.ndarray], name: str, net: Wav2Vec2 | None = None) -> dict[str, Any]:
  """The encoder of wav2vec2-base: Wav2Vec2()."""
  wanted = jax.eval_shape((net or Wav2Vec2()).init, jax.random.key(0), jnp.zeros((1, 800)))['params']
  return fit(wav2vec2_state(state), wanted, name)


def animatediff(state: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
  """AnimateDiff's motion modules: the temporal layers of LatentUNet(temporal=Temporal(...)), and nothing else."""
  state = motion_state(state)
  middle = any(k.startswith('mid_block.') for k in state)
  wanted = unet_shapes(LatentUNet(temporal=Temporal(middle)))
  wanted = {k: v for k, v in wanted.items() if 'motion_modules' in k}
  return fit(state, wanted, name)


_CONVERT: dict[str, Callable] = {'sd15': sd15, 'sd_vae': sd_vae, 'wav2vec2': wav2vec2, 'animatediff': animatediff}


def motion_state(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """AnimateDiff's state, or that of a MotionAdapter, under AnimateDiff's names and without its tables of positions."""
  made = {}
  for name, value in state.items():
    if name == 'animatediff_config' or name.endswith(('.pos_encoder.pe', '.pos_embed.pe')):
      continue
    ours = re.sub(r'(motion_modules\.\d+)\.(?!temporal_transformer\.)', r'\1.temporal_transformer.', name)
    ours = re.sub(r'(?<=\.)(attn[12]|norm[123])(?=\.)', lambda m: _MOTION[m[1]], ours)
    made[ours.removeprefix('module.')] = value
  return made


def autoencoder_state(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The state of an AutoencoderKL with the newer names of attention."""
  rename = lambda m: f'.attentions.0.{_OLD_ATTENTION[m[1]]}.'
  return {re.sub(rf'\.attentions\.0\.({"|".join(_OLD_ATTENTION)})\.', rename, k): v for k, v in state.items()}


def wav2vec2_state(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The encoder's part of a Wav2Vec2ForCTC (or Wav2Vec2Model), its weight normalisation multiplied out."""
  encoder = {k.removeprefix('wav2vec2.'): v for k, v in state.items()}
  encoder = {k: v for k, v in encoder.items() if not k.startswith(('lm_head.', 'masked_spec_embed', 'quantizer.'))}
  conv = 'encoder.pos_conv_embed.conv'
  for gain, direction in (
    (f'{conv}.weight_g', f'{conv}.weight_v'),
    (f'{conv}.parametrizations.weight.original0', f'{conv}.parametrizations.weight.original1'),
  ):
    if gain in encoder and direction in encoder:
      g, v = encoder.pop(gain), encoder.pop(direction)
      # One norm for each place of the kernel.
      encoder[f'{conv}.weight'] = g * v / np.sqrt(np.sum(np.square(v), axis=(0, 1), keepdims=True))
  return encoder

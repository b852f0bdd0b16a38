"""Golden cases of the audio-conditioned editing U-Net, with every activation the case stores."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.nn.unet import UNet
from talkjax.systems import speech_edit_import


def load(case):
  """The U-Net of a case and its parameters, imported from the published state dict."""
  fields = speech_edit_import.unet_fields(case.config['unet'])
  return UNet(**fields), {'params': speech_edit_import.unet_params(case.state, fields)}, fields


def nhwc(x) -> jnp.ndarray:
  return jnp.asarray(x).transpose(0, 2, 3, 1)


def nchw(x) -> np.ndarray:
  return np.asarray(x).transpose(0, 3, 1, 2)


def dve_unet(case) -> dict[str, np.ndarray]:
  """The prediction, both embeddings, and the output of each input, middle and output block."""
  inputs = case.inputs
  unet, params, fields = load(case)
  x = nhwc(np.concatenate([inputs[k] for k in ('y_t', 'previous_frame', 'id_frame')], axis=1))
  audio = jnp.asarray(inputs['audio']) if 'audio' in inputs else None

  @jax.jit
  def run(params):
    return unet.apply(params, x, jnp.asarray(inputs['gamma'])[:, 0], audio, capture_intermediates=True)

  epsilon, state = run(params)
  made = {name: calls['__call__'][0] for name, calls in state['intermediates'].items() if name != '__call__'}
  outputs = {
    'eps': nchw(epsilon),
    'act_noise_embed': made['embed_noise'],
    'act_audio_embed': made.get('embed_audio'),
    'act_input_blocks_0': nchw(made['conv_in']),
  }
  for published, ours in speech_edit_import.module_names(fields):  # a block's last module is its output
    block, _, _ = published.rpartition('.')
    outputs[f'act_{block.replace(".", "_")}'] = nchw(made[ours])
  return {name: _thin(outputs[name], case.json['outputs'][name]) for name in case.outputs}


def _thin(x, described):
  """Activations are stored as the slice that their description names."""
  steps = re.search(r'slice \[:, ::(\d+), ::(\d+), ::(\d+)\]', described['meaning'])
  if steps:
    c, h, w = (int(n) for n in steps.groups())
    x = x[:, ::c, ::h, ::w]
  return np.asarray(x, np.float32)


CHECKS = {'dve_unet': dve_unet}

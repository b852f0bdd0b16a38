"""Golden cases of the audio-conditioned editing U-Net, with every activation the case stores."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.diffusion import samplers, schedules
from talkjax.nn.unet import UNet
from talkjax.systems.speech_edit import published as dve
from talkjax.weights import adm


def load(case):
  """The U-Net of a case and its parameters, imported from the published state dict."""
  fields = dve.unet_fields(case.config['unet'])
  return UNet(**fields), {'params': dve.unet_params(case.state, fields)}, fields


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
  for published, ours in adm.module_names(fields):  # a block's last module is its output
    block, _, _ = published.rpartition('.')
    outputs[f'act_{block.replace(".", "_")}'] = nchw(made[ours])
  return {name: thin(outputs[name], case.json['outputs'][name]) for name in case.outputs}


def thin(x, described):
  """An activation as the slice that its description names, or else as evenly thinned as its stored shape says."""
  named = re.search(r'slice \[(.*?)\]', described['meaning'])
  steps = [int(step.strip(' :') or 1) for step in named[1].split(',')] if named else []
  if [-(-full // step) for full, step in zip(x.shape, steps)] != described['shape'][: len(steps)] or not steps:
    steps = [-(-full // stored) for full, stored in zip(x.shape, described['shape'])]
  return np.asarray(x, np.float32)[tuple(slice(None, None, step) for step in steps)]


def dve_sampling(case) -> dict[str, np.ndarray]:
  """The restoration loop with clean pixels pasted outside the mask, and single steps of a longer schedule."""
  config, inputs = case.config, {k: jnp.asarray(v) for k, v in case.inputs.items()}
  unet, params, _ = load(case)
  conditions = jnp.concatenate([nhwc(inputs['previous_frame']), nhwc(inputs['id_frame'])], axis=-1)

  y_0, mask = nhwc(inputs['y_0']), nhwc(inputs['mask'])

  def paste(y):
    return y_0 * (1 - mask) + mask * y

  @functools.partial(jax.jit, static_argnames='constrain')
  def steps(start, table, noise, constrain=None):
    def denoise(x, level):
      gamma = jnp.broadcast_to(level.alpha_bar, x.shape[:1])
      return unet.apply(params, jnp.concatenate([x, conditions], axis=-1), gamma, inputs['audio'])

    run = functools.partial(samplers.sample, target='epsilon', clip=1.0, constrain=constrain, trajectory=True)
    return run(denoise, start, table, lambda step: noise[step])[1]

  def schedule(c):
    return schedules.make(c['schedule'], c['n_timestep'], c['linear_start'], c['linear_end'])

  start = paste(nhwc(inputs['start_noise']))
  table = samplers.palette(schedule(config['beta_schedule']))
  noise = jnp.moveaxis(inputs['step_noise'], 2, -1)
  noise = jnp.concatenate([noise, jnp.zeros_like(noise[:1])])  # none at t = 0
  made = steps(start, table, noise, paste).x
  count = len(table)
  shown = [t for t in reversed(range(count)) if t % (count // config['sample_num']) == 0]
  outputs = {
    'y_t_start': nchw(start),
    'final': nchw(made[-1]),
    'trace': np.concatenate([nchw(start), *(nchw(made[count - 1 - t]) for t in shown)]),
  }
  table = samplers.palette(schedule(config['single_beta_schedule']))
  for t, noise in zip(config['single_t'], jnp.moveaxis(inputs['single_noise'], 2, -1), strict=True):
    row = table.rows(np.array([len(table) - 1 - t]))
    made = steps(nhwc(inputs['single_y_t']), row, noise[None])
    outputs |= {
      f'single_t{t}': nchw(made.x[0]),
      f'mean_t{t}': nchw(made.mean[0]),
      f'logvar_t{t}': np.full((len(y_0), 1, 1, 1), row.log_variance.item()),  # the same for every example
    }
  return outputs


CHECKS = {'dve_unet': dve_unet, 'dve_sampling': dve_sampling}

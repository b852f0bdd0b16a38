"""Golden cases of guided-diffusion's networks and MM-Diffusion's super-resolution, with every stored activation."""

import jax
import jax.numpy as jnp
import numpy as np

from golden_cases.unet import nchw, nhwc, thin
from talkjax.nn.guided_unet import concatenate_low_resolution
from talkjax.weights import adm, guided_diffusion


def _activations(case, made, net) -> dict[str, np.ndarray]:
  """The output of each published block: that of its last module."""
  fields = {name: getattr(net, name) for name in guided_diffusion.LAYOUT}
  outputs = {'act_input_blocks_0': made['conv_in']['__call__'][0]}
  for published, ours in adm.module_names(fields):
    block = published.partition('.')[0] if published.startswith('middle') else published.rpartition('.')[0]
    outputs[f'act_{block.replace(".", "_")}'] = made[ours]['__call__'][0]
  if 'middle_block_1' in made:
    outputs['act_pool_in'] = made.get('pool_in', made['middle_block_1']['__call__'][0])
  return {k: thin(nchw(outputs[k]), case.json['outputs'][k]) for k in case.outputs if k.startswith('act_')}


def unet(case):
  """The prediction of a diffusion or super-resolution U-Net."""
  flags = case.config.get('flags', case.config)
  inputs = case.inputs
  net, params = guided_diffusion.unet(case.state, flags, case.name)
  x, labels = nhwc(inputs['x']), jnp.asarray(inputs['y']) if 'y' in inputs else None
  if 'low_res' in inputs:
    x = concatenate_low_resolution(x, nhwc(inputs['low_res']))
  args = x, jnp.asarray(inputs['t']), None, False, labels
  run = jax.jit(lambda params: net.apply({'params': params}, *args, capture_intermediates=True))
  out, state = run(params)
  return {'out': nchw(out)} | _activations(case, state['intermediates'], net)


def encoder(case):
  """Logits of a noisy classifier and their gradient with respect to the image."""
  flags, inputs = case.config['flags'], case.inputs
  net, params = guided_diffusion.classifier(case.state, flags, case.name)
  x, t, labels = nhwc(inputs['x']), jnp.asarray(inputs['t']), jnp.asarray(case.config['labels'])

  @jax.jit
  def run(params, x):
    def log_probability(x):
      logits, state = net.apply({'params': params}, x, t, capture_intermediates=True)
      chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
      return chosen.sum(), (logits, state['intermediates'])

    return jax.grad(log_probability, has_aux=True)(x)

  gradient, (logits, made) = run(params, x)
  outputs = {'logits': np.asarray(logits), 'grad': thin(nchw(gradient), case.json['outputs']['grad'])}
  inside = dict(made['unet'])
  if 'out_0' in made:
    inside['pool_in'] = made['out_0']['__call__'][0]
  return outputs | _activations(case, inside, net.unet)


CHECKS = {'guided_unet': unet, 'guided_encoder_unet': encoder, 'mm_diffusion_sr': unet}

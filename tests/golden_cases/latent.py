"""Golden cases of latent U-Net, autoencoder, motion modules and wav2vec 2.0, with every stored activation."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from golden_cases.unet import nchw, nhwc
from talkjax.media import mel
from talkjax.nn.autoencoder import Autoencoder
from talkjax.nn.latent_unet import Conditioning, LatentUNet
from talkjax.nn.transformer import TemporalTransformer
from talkjax.nn.wav2vec2 import Wav2Vec2
from talkjax.weights import pretrained
from talkjax.weights.fit import fit


def activations(state) -> dict[str, np.ndarray]:
  """The output of every module (of several the first), by its path joined with '_'."""
  made = {}
  for path, x in jax.tree_util.tree_leaves_with_path(state['intermediates']):
    made.setdefault('_'.join(k.key for k in path if hasattr(k, 'key')).removesuffix('___call__'), x)
  return made


def unet_fields(config) -> dict:
  """Fields of LatentUNet from diffusers' configuration of UNet2DConditionModel."""
  heads = config['attention_head_dim']  # the number of heads, in spite of its name; in Stable Diffusion 2 by level
  return {
    'out_channels': config['out_channels'],
    'widths': tuple(config['block_out_channels']),
    'attention': tuple('CrossAttn' in kind for kind in config['down_block_types']),
    'layers': config['layers_per_block'],
    'heads': heads if isinstance(heads, int) else tuple(heads),
    'groups': config['norm_num_groups'],
  }


def sd15_unet(case):
  inputs = case.inputs
  net = LatentUNet(**unet_fields(case.config))
  x, time = nhwc(inputs['sample']), jnp.asarray(inputs['timestep'])
  conditioning = Conditioning({'text': jnp.asarray(inputs['encoder_hidden_states'])})
  wanted = jax.eval_shape(net.init, jax.random.key(0), x, time, conditioning)['params']
  params = fit(case.state, wanted, case.name)
  run = jax.jit(lambda params: net.apply({'params': params}, x, time, conditioning, capture_intermediates=True))
  (sample, _), state = run(params)
  made = activations(state)
  outputs = {'sample': nchw(sample)}
  for name in case.outputs:
    path = name.removeprefix('act.').replace('.', '_')
    if path == 'time_embedding':
      outputs[name] = made['time_embedding_linear_2']
    elif name != 'sample':
      # A block's output is that of its last module.
      last = [f'{path}_downsamplers_0', f'{path}_upsamplers_0', f'{path}_resnets_1' if path == 'mid_block' else '']
      last += [f'{path}_{kind}_{i}' for kind in ('attentions', 'resnets') for i in reversed(range(9))]
      value = next(made[n] for n in [path, *last] if n in made)
      outputs[name] = nchw(value)
  return outputs


def sd_vae(case):
  c, inputs = case.config, case.inputs
  net = Autoencoder(
    tuple(c['block_out_channels']),
    c['latent_channels'],
    c['layers_per_block'],
    c['norm_num_groups'],
    c['scaling_factor'],
  )
  image, latent = nhwc(inputs['image']), nhwc(inputs['latent'])
  wanted = jax.eval_shape(net.init, jax.random.key(0), image)['params']
  params = {'params': fit(pretrained.autoencoder_state(case.state), wanted, case.name)}
  moments = jax.jit(lambda p: net.apply(p, image, method='moments', capture_intermediates=True))
  decode = jax.jit(lambda p: net.apply(p, latent * net.scaling, method='decode', capture_intermediates=True))
  (mean, logvar), encoding = moments(params)
  decoded, decoding = decode(params)
  made = activations(encoding) | activations(decoding)
  outputs = {'mean': nchw(mean), 'logvar': nchw(logvar), 'decoded': nchw(decoded)}
  for name in case.outputs:
    if name.startswith('act.'):
      path = name.removeprefix('act.').replace('.', '_')
      ends = ['', '_downsamplers_0', '_upsamplers_0', *(f'_resnets_{i}' for i in reversed(range(9)))]
      outputs[name] = nchw(next(made[path + end] for end in ends if path + end in made))
  return outputs


def animatediff_motion(case):
  c, x = case.config, case.inputs['hidden_states']
  n, channels, frames, h, w = x.shape
  net = TemporalTransformer(
    c['num_attention_heads'],
    c['num_transformer_block'],
    len(c['attention_block_types']),
    c['temporal_position_encoding_max_len'],
  )
  x = jnp.asarray(x).transpose(0, 2, 3, 4, 1).reshape(n * frames, h, w, channels)
  wanted = jax.eval_shape(lambda rng: net.init(rng, x, frames), jax.random.key(0))['params']
  state = {re.sub(r'^.*temporal_transformer\.', '', k): v for k, v in case.state.items()}
  params = fit(state, wanted, case.name, ignored=r'pos_encoder\.pe$')
  run = jax.jit(lambda params: net.apply({'params': params}, x, frames, capture_intermediates=True))
  y, intermediates = run(params)
  made = activations(intermediates)
  outputs = {'hidden_states': y.reshape(n, frames, h, w, channels).transpose(0, 4, 1, 2, 3)}
  for name, described in case.json['outputs'].items():
    if name.startswith('act.'):
      value = made[name.removeprefix('act.temporal_transformer.').replace('.', '_')]
      outputs[name] = _laid(value, described, n, frames)
  return outputs


def _laid(value, described, n, frames):
  """An activation of ours in the layout of a stored one."""
  layout = described['layout']
  if value.ndim == 4 and value.shape[0] == n:  # [n, pixels, f, c], inside the blocks
    value = value.swapaxes(1, 2).reshape(n * frames, -1, value.shape[-1])
  elif value.ndim == 3:  # attention: [n * pixels, f, c]
    value = value.reshape(n, -1, frames, value.shape[-1]).swapaxes(1, 2).reshape(n * frames, -1, value.shape[-1])
  elif value.ndim == 4:  # [n * f, h, w, c]
    value = value.reshape(n * frames, -1, value.shape[-1]) if 'HW' in layout else nchw(value)
  return np.asarray(value)


def wav2vec2(case):
  c, waveform = case.config, case.inputs['waveform']
  net = Wav2Vec2(
    c['hidden_size'],
    c['num_hidden_layers'],
    c['num_attention_heads'],
    c['intermediate_size'],
    tuple(c['conv_dim']),
    tuple(c['conv_kernel']),
    tuple(c['conv_stride']),
    c['conv_bias'],
    c['feat_extract_norm'],
    c['num_conv_pos_embeddings'],
    c['num_conv_pos_embedding_groups'],
    c['do_stable_layer_norm'],
    c['layer_norm_eps'],
  )
  values = mel.normalised(waveform) if c['feature_extractor']['do_normalize'] else waveform
  x = jnp.asarray(values)[None]
  wanted = jax.eval_shape(net.init, jax.random.key(0), x)['params']
  params = fit(pretrained.wav2vec2_state(case.state), wanted, case.name)
  run = jax.jit(lambda params: net.apply({'params': params}, x, capture_intermediates=True))
  states, intermediates = run(params)
  made = activations(intermediates)
  outputs = {f'hidden_states.{i}': s for i, s in enumerate(states)}
  outputs |= {'last_hidden_state': states[-1], 'input_values': np.asarray(x)}
  last = f'hidden_states.{len(states) - 1}'
  if last in case.outputs and not np.array_equal(case.outputs[last], case.outputs['last_hidden_state']):
    # Some versions of transformers list the last layer's output before the final norm of the large layout.
    outputs[last] = made[f'encoder_layers_{len(states) - 2}']
  for name in case.outputs:
    if name.startswith('act.'):
      outputs[name] = _wav2vec2_activation(made, name.removeprefix('act.'), len(c['conv_dim']), c)
  return outputs


def _wav2vec2_activation(made, name, convs, c):
  def convolved(i):  # after its norm and GELU
    base = f'feature_extractor_conv_layers_{i}'
    return nct(jax.nn.gelu(made.get(f'{base}_layer_norm', made[f'{base}_conv']), approximate=False))

  if name == 'feature_extractor':
    return convolved(convs - 1)
  if match := re.fullmatch(r'feature_extractor\.conv_layers\.(\d+)', name):
    return convolved(int(match[1]))
  if name == 'feature_projection':
    return made['feature_projection_projection']
  if name == 'encoder.pos_conv_embed':
    return jax.nn.gelu(made['encoder_pos_conv_embed_conv'], approximate=False)
  if match := re.fullmatch(r'encoder\.layers\.(\d+)\.attention', name):
    return made[f'encoder_layers_{match[1]}_attention_out_proj']
  return made[name.replace('.', '_')]


def nct(x):
  return np.asarray(x).swapaxes(1, 2)


CHECKS = {'sd15_unet': sd15_unet, 'sd_vae': sd_vae, 'animatediff_motion': animatediff_motion, 'wav2vec2': wav2vec2}

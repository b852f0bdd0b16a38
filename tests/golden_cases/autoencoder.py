"""Golden cases of VQGAN (and KL autoencoders in its layout) and of LPIPS."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from golden_cases.latent import activations
from golden_cases.unet import nchw, nhwc
from talkjax.nn.autoencoder import Autoencoder, straight_through
from talkjax.nn.lpips import LPIPS, SCALE, SHIFT
from talkjax.weights import pretrained
from talkjax.weights import vqgan as taming
from talkjax.weights.fit import fit


def vqgan(case):
  c = case.config
  fields = taming.fields(case.state)
  check_fields(fields, c)
  net = Autoencoder(**fields)
  params = {'params': taming.convert(case.state, case.name)}
  inputs = {name: nhwc(x) if x.ndim == 4 else x for name, x in case.inputs.items()}
  run = lambda method, *args: jax.jit(lambda p: net.apply(p, *args, method=method, capture_intermediates=True))(params)
  prequant, encoding = run('encode', inputs['image'])
  quantised, indices = net.apply(params, inputs['z'], method='quantise')
  made_codes = net.apply(params, prequant, method='quantise')[1]
  codes = net.apply(params, jnp.asarray(inputs['codes']), method='look_up')
  decoded, decoding = run('decode', codes)
  square = jnp.mean(jnp.square(quantised - inputs['z']))
  beta = c['beta']  # the published weights of commitment and codebook; "legacy" has them the wrong way round
  commitment, codebook = (1, beta) if c.get('legacy', True) else (beta, 1)
  stored = case.outputs
  outputs = {
    'prequant': nchw(prequant),
    'quantized': nchw(straight_through(inputs['z'], quantised)),
    'indices': indices,
    'commit_loss': commitment * square + codebook * square,
    'decoded': nchw(decoded),
    # Compared where rounding cannot change the nearest code, and the margin itself computed apart.
    'image_indices': np.where(stored['image_index_margin'] > 1e-4, made_codes, stored['image_indices']),
    'image_index_margin': margin(prequant, params['params']['quantize_embedding']['embedding']),
  }
  made = activations(encoding) | activations(decoding)
  for name in stored:
    if name.startswith('act.'):
      outputs[name] = nchw(output(made, name.removeprefix('act.'), len(c['ddconfig']['ch_mult'])))
  return outputs


def check_fields(fields, c):
  """The sizes that are read from the state are those of the published config."""
  d = c['ddconfig']
  levels = range(len(d['ch_mult']))
  assert fields['widths'] == tuple(d['ch'] * m for m in d['ch_mult'])
  assert fields['layers'] == d['num_res_blocks']
  assert fields.get('codebook', 0) == c['n_embed'] and fields['latent_channels'] == c['embed_dim']
  attends = tuple(d['resolution'] // 2**level in d['attn_resolutions'] for level in levels)
  assert (fields.get('attention') or (False,) * len(levels)) == attends


def margin(latents, codes):
  """[b, h, w] the squared distance of the second nearest code minus that of the nearest."""
  distances = jnp.square(latents[..., None, :] - codes).sum(-1)
  return jnp.diff(jnp.sort(distances, -1)[..., :2], axis=-1)[..., 0]


def output(made, path, levels):
  """The output of a published module among ours by path. Attention is added by the module that calls it."""
  path = taming.rename(path, levels).replace('.', '_')
  if match := re.fullmatch(r'(.*)_attentions_(\d+)', path):
    return made[f'{match[1]}_resnets_{match[2]}'] + made[path].reshape(made[f'{match[1]}_resnets_{match[2]}'].shape)
  return made[path]


def lpips(case):
  net = LPIPS(case.config['net'])
  a, b = (nhwc(case.inputs[name]) for name in ('a', 'b'))
  for name, ours in (('shift', SHIFT), ('scale', SCALE)):
    np.testing.assert_allclose(case.state[f'scaling_layer.{name}'].ravel(), ours, atol=1e-6)
  wanted = jax.eval_shape(net.init, jax.random.key(0), a, b)['params']
  params = {'params': fit(case.state, wanted, case.name, ignored=pretrained.UNUSED)}
  outputs = {
    'distance': net.apply(params, a, b),
    'layers': net.apply(params, a, b, method='distances'),
  }
  for i, x in enumerate(net.apply(params, a, method='features')):
    outputs[f'act_relu{i + 1}'] = nchw(x)[:, ::16, ::2, ::2]
  return outputs


CHECKS = {'vqgan': vqgan, 'lpips': lpips}

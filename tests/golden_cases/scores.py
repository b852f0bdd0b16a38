"""Golden cases of the networks that scores are computed with: SyncNet, Hopenet, Inception, I3D."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.metrics import sync
from talkjax.nn.hopenet import Hopenet
from talkjax.nn.i3d import I3D
from talkjax.nn.inception import InceptionV3
from talkjax.nn.syncnet import SyncNet, Wav2LipExpert
from talkjax.nn.wav2lip import Wav2Lip
from talkjax.weights import pretrained
from talkjax.weights.fit import fit


def imported(net, case, *example):
  """The network's parameters from the case's state dict."""
  wanted = jax.eval_shape(net.init, jax.random.key(0), *example)['params']
  return fit(case.state, wanted, case.name, ignored=pretrained.UNUSED)


def thinned(value, described) -> np.ndarray:
  """The slice of an activation (channels first) that a description such as 'slice [:, ::8, ::4]' names."""
  match = re.search(r'slice \[([^\]]*)\]', described.get('meaning', ''))
  if not match:
    return np.asarray(value)
  steps = [part.strip() for part in match[1].split(',')]
  return np.asarray(value)[tuple(slice(None, None, int(s[2:]) if s.startswith('::') else None) for s in steps)]


def channels_first(x):
  return jnp.moveaxis(x, -1, 1)


def hopenet(case):
  net = Hopenet(tuple(case.config['layers']), case.config['num_bins'])
  images = jnp.asarray(case.inputs['image'], jnp.float32).transpose(0, 2, 3, 1)
  params = imported(net, case, images)
  angles, made = jax.jit(net.apply)({'params': params}, images)
  made = {**made, 'angles': angles}
  outputs = {}
  for name, described in case.json['outputs'].items():
    value = made[name.removeprefix('act_')]
    outputs[name] = thinned(channels_first(value) if value.ndim > 2 else value, described)
  return outputs


def syncnet_v2(case):
  net = SyncNet(case.config['num_layers_in_fc_layers'])
  frames = jnp.asarray(case.inputs['frames'], jnp.float32).transpose(0, 2, 3, 4, 1)
  mfcc = jnp.asarray(case.inputs['mfcc']).transpose(0, 2, 3, 1)
  params = {'params': imported(net, case, frames, mfcc)}
  run = jax.jit(lambda p, x, method: net.apply(p, x, method=method), static_argnames='method')
  layers = {'lip': run(params, frames, 'lip_layers'), 'aud': run(params, mfcc, 'speech_layers')}
  outputs = {'lip': run(params, frames, 'lip'), 'audio': run(params, mfcc, 'speech')}
  outputs['lipfeat'] = layers['lip'][-1].reshape(len(frames), -1)
  lip, speech = (np.asarray(outputs[k]) for k in ('lip', 'audio'))
  outputs['pair_dist'] = sync.pairwise_distance(*np.broadcast_arrays(lip, speech))
  for name, described in case.json['outputs'].items():
    if match := re.fullmatch(r'act_(lip|aud)_(\d+)', name):
      outputs[name] = thinned(channels_first(layers[match[1]][int(match[2])]), described)
  return outputs


def wav2lip_syncnet(case):
  net = Wav2LipExpert()
  face, mel = (jnp.asarray(case.inputs[k]).transpose(0, 2, 3, 1) for k in ('face', 'mel'))
  params = {'params': imported(net, case, face, mel)}
  run = jax.jit(lambda p, *x, method=None: net.apply(p, *x, method=method), static_argnames='method')
  layers = {'face': run(params, face, method='face_layers'), 'audio': run(params, mel, method='speech_layers')}
  outputs = {
    'face_emb': run(params, face, method='face'),
    'audio_emb': run(params, mel, method='speech'),
    'cosine': run(params, face, mel),
    **{f'{k}_raw': v[-1].reshape(len(face), -1) for k, v in layers.items()},
  }
  for name, described in case.json['outputs'].items():
    if match := re.fullmatch(r'act_(face|audio)_(\d+)', name):
      outputs[name] = thinned(channels_first(layers[match[1]][int(match[2])]), described)
  return outputs


def wav2lip_generator(case):
  """The generated frame and every block's output; clips [b, c, t, h, w] have their time folded into the batch."""
  net = Wav2Lip()
  face, mel = case.inputs['face'], case.inputs['audio']
  clips, count = face.ndim == 5, len(face)
  if clips:
    face, mel = (np.concatenate(list(np.moveaxis(x, axis, 0))) for x, axis in ((face, 2), (mel, 1)))
  face, mel = (jnp.asarray(x).transpose(0, 2, 3, 1) for x in (face, mel))
  params = {'params': imported(net, case, mel, face)}
  frame, state = jax.jit(lambda p: net.apply(p, mel, face, capture_intermediates=True))(params)
  made = state['intermediates']
  block = lambda name: made[name]['__call__'][0]
  frame = channels_first(frame)
  if clips:
    frame = np.stack(np.split(np.asarray(frame), len(frame) // count), axis=2)
  outputs = {'frame': frame, 'act_audio': channels_first(block('audio_encoder')[-1])}
  for name, described in case.json['outputs'].items():
    if match := re.fullmatch(r'act_(face|dec)_(\d+)', name):
      kind = {'face': 'encoder', 'dec': 'decoder'}[match[1]]
      value = block(f'face_{kind}_blocks_{match[2]}')
      value = value[-1] if isinstance(value, list) else value
      outputs[name] = thinned(channels_first(value), described)
  return outputs


def inception_fid(case):
  net = InceptionV3(case.config['resize_input'], case.config['normalize_input'])
  run = jax.jit(net.apply)
  params, outputs = None, {}
  for key, picture in case.inputs.items():
    x = jnp.asarray(picture, jnp.float32).transpose(0, 2, 3, 1)
    x = x / 255 if picture.dtype == np.uint8 else x
    params = params or {'params': imported(net, case, x)}
    pooled, made = run(params, x)
    made = {k: channels_first(v) for k, v in made.items()}
    made |= {'pool3': pooled, 'pre_pool': made['Mixed_7c'], 'block3': pooled[:, :, None, None]}
    prefix = '' if key == 'image' else f'{key}_'
    outputs |= named(case, made, prefix)
  return outputs


def i3d_logits(case):
  net = I3D(case.config['num_classes'])
  run = jax.jit(net.apply)
  params, outputs = None, {}
  for key, video in case.inputs.items():
    x = jnp.asarray(video, jnp.float32)
    params = params or {'params': imported(net, case, x)}
    logits, made = run(params, x)
    made = {k: channels_first(v) for k, v in made.items()} | {'logits': logits}
    outputs |= named(case, made, '' if key == 'video' else f'{key}_')
  return outputs


def named(case, made, prefix):
  """The outputs of a case whose names begin with a prefix; slices are described at the output without it."""
  outputs, described = {}, case.json['outputs']
  for name in described:
    plain = name.removeprefix(prefix)
    value = made.get(plain.removeprefix('act_'))
    if name.startswith(prefix) and value is not None:
      outputs[name] = thinned(value, described.get(plain, described[name]))
  return outputs


CHECKS = {
  'hopenet': hopenet,
  'syncnet_v2': syncnet_v2,
  'wav2lip_syncnet': wav2lip_syncnet,
  'wav2lip_generator': wav2lip_generator,
  'inception_fid': inception_fid,
  'i3d_logits': i3d_logits,
}

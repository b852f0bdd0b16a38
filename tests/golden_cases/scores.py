"""Golden cases of the networks that scores are computed with: SyncNet, Hopenet, Inception, I3D."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.nn.hopenet import Hopenet
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


CHECKS = {'hopenet': hopenet}

"""Golden cases of Deep3DFaceRecon: the coefficient network, and the arithmetic of the face model."""

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.faces import bfm, morphable
from talkjax.nn.deep3d import HEADS
from talkjax.weights import deep3d
from tests.golden_cases.scores import channels_first, thinned


def deep3d_recon(case):
  net, params = deep3d.of_state(case.state, case.name)
  images = jnp.asarray(case.inputs['image'], jnp.float32).transpose(0, 2, 3, 1) / 255
  coefficients, made = jax.jit(net.apply)({'params': params}, images)
  made = {**{f'act_{name}': value for name, value in made.items()}, 'coeffs': coefficients}
  outputs = {}
  for name, described in case.json['outputs'].items():
    value = made[name]
    outputs[name] = thinned(channels_first(value) if value.ndim > 2 else value, described)
  return outputs


def deep3d_bfm_math(case):
  config, arrays = case.config, {**case.inputs, **case.state}
  model, texture = bfm.model(arrays, config['recenter']), bfm.texture(arrays)
  sizes = model.sizes
  counts = [sizes.identity, sizes.expression, texture.basis.shape[-1], *HEADS[3:5], 3]
  alpha, beta, delta, angles, gamma, translation = np.split(case.inputs['coeffs'], np.cumsum(counts)[:-1], -1)
  shape, rotation = model.shape(alpha, beta), morphable.rotation(angles)
  vertices = bfm.to_camera(morphable.posed(shape, angles, translation), config['camera_distance'])
  projection = bfm.to_image(vertices, config['focal'], config['center'])
  normals = bfm.vertex_normals(shape, model.triangles, texture.triangles_of)
  colours = texture.colours(delta)
  return {
    'shape': shape,
    'rotation': rotation,
    'vertex': vertices,
    'projection': projection,
    'landmarks': projection[:, model.landmarks68],
    'texture': colours,
    'normals': normals,
    'color': bfm.lit(colours, normals @ rotation, gamma),
  }


CHECKS = {'deep3d_recon': deep3d_recon, 'deep3d_bfm_math': deep3d_bfm_math}

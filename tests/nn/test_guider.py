"""The encoder of spatial conditions."""

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.nn.guider import Guider


def test_fresh_features_are_zero_and_halved_per_further_width():
  net = Guider(6, (4, 8, 8))
  image = jax.random.normal(jax.random.key(0), (2, 16, 12, 3))
  params = net.init(jax.random.key(1), image)['params']
  features = net.apply({'params': params}, image)
  assert features.shape == (2, 4, 3, 6) and not np.any(features)
  trained = {**params, 'conv_out': jax.tree.map(jnp.ones_like, params['conv_out'])}
  assert np.any(net.apply({'params': trained}, image) != net.apply({'params': trained}, image[::-1]))

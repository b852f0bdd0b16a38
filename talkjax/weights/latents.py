"""The frozen autoencoder that `talkjax.build` runs once over a corpus to precompute latents of its frames.

It computes in float32 on the accelerator, in batches of one size, so that one shape is compiled.
"""

import concurrent.futures
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from talkjax.corpora import feature_cache
from talkjax.corpora.records import Record
from talkjax.errors import UsageError, UserError
from talkjax.media import picture
from talkjax.nn.autoencoder import Autoencoder
from talkjax.training import checkpoint, sharding
from talkjax.weights import autoencoders, packaged
from talkjax.weights.encoders import Encoder

BATCH = 8  # images per device and batch


def encoder(workdir: str, size: int) -> Encoder:
  """Latent mean and log variance of every frame, before scaling: rows [size / 8, size / 8, 2c].

  Args:
    workdir: folder of a converted sd_vae or vqgan, or of a system that has an autoencoder; or the name of one that
      comes with the package (`talkjax.weights.packaged`).
    size: side of the encoded square frames in pixels.

  Raises:
    UsageError: the size is not a multiple of the autoencoder's downsampling factor.
    UserError: the workdir has no autoencoder.
  """
  net, params, about = _load_autoencoder(workdir)
  factor = net.factor
  if size % factor:
    raise UsageError(f'--size={size}: expected a multiple of {factor}')
  batch = BATCH * jax.device_count()
  params = sharding.replicate(params)
  place = sharding.batch_placement(params)
  threads = concurrent.futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1))

  @jax.jit
  def moments(params, images):
    mean_and_logvar = net.apply({'params': params}, picture.to_float(images), method='moments')
    return jnp.concatenate(mean_and_logvar, -1).astype(jnp.float16)

  def encode(record: Record) -> Iterator[np.ndarray]:
    count, pending = len(record.frames), []
    for first in range(0, count, batch):
      index = np.minimum(np.arange(first, first + batch), count - 1)  # pads the last batch
      images = np.stack(list(threads.map(lambda i: picture.fit_square(record.frame(i), size), index)))
      rows = moments(params, place(images))
      pending.append(rows[: count - first])
      if len(pending) > 1:  # images of the next batch are decoded while this one is encoded
        yield np.asarray(pending.pop(0))
    yield from map(np.asarray, pending)

  shape = [size // factor, size // factor, 2 * net.latent_channels]
  return Encoder({**about, 'size': size, 'shape': shape}, encode)


def _load_autoencoder(workdir: str) -> tuple[Autoencoder, Any, dict[str, Any]]:
  """The network, its parameters, and a description that identifies them."""
  if workdir in packaged.NETWORKS:
    net, params = autoencoders.packaged_network(workdir), unflatten_dict(packaged.load(workdir), sep='/')
  else:
    net, params = _of_workdir(workdir)
  wanted = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, net.factor, net.factor, 3)))['params']
  checkpoint.check_fit(params, wanted, workdir)
  weights = feature_cache.fingerprint({p: np.asarray(x) for p, x in flatten_dict(params, sep='/').items()})
  return net, params, {'branch': 'autoencoder', 'weights': weights, 'workdir': workdir}


def _of_workdir(workdir: str) -> tuple[Autoencoder, Any]:
  config, params, _ = checkpoint.load_params(workdir)
  if config.get('pretrained_network') == 'sd_vae':
    net = Autoencoder()
  elif config.get('pretrained_network') == 'vqgan':
    net = autoencoders.network(config.vqgan)
  elif 'autoencoder' in params:
    params, net = params['autoencoder'], autoencoders.network(config.latents)
  else:
    raise UserError(
      f'--latents={workdir} has no autoencoder: expected a workdir made by `talkjax.convert --source=sd_vae`, '
      'the workdir of a system that has one, or puppets_autoencoder'
    )
  return net, params

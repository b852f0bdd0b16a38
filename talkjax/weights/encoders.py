"""The frozen encoders that run once over a corpus to precompute features of records (`corpora.feature_cache`).

They compute in float32 on the accelerator. Only a few shapes are compiled: images are encoded in batches of one size,
audio in chunks (`talkjax.weights.speech`).
"""

import concurrent.futures
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.experimental import multihost_utils

from talkjax.corpora import feature_cache
from talkjax.corpora.records import Record
from talkjax.errors import UsageError, UserError
from talkjax.media import picture
from talkjax.nn.autoencoder import Autoencoder
from talkjax.training import checkpoint, input_pipeline, sharding
from talkjax.training.workdir import read_config
from talkjax.weights import speech as speech_encoders

BATCH = 8  # images per device and batch


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Computes feature rows of records; `about` is the description stored by `talkjax.corpora.feature_cache`."""

  about: dict[str, Any]
  encode: Callable[[Record], Iterator[np.ndarray]]


def latents(workdir: str, size: int) -> Encoder:
  """Latent mean and log variance of every frame, before scaling: rows [size / 8, size / 8, 2c].

  Args:
    workdir: folder of a converted sd_vae, or of a system that has an autoencoder.
    size: side of the encoded square frames in pixels.

  Raises:
    UsageError: the size is not a multiple of the autoencoder's downsampling factor.
    UserError: the workdir has no autoencoder.
  """
  net, params, about = _load_autoencoder(workdir)
  factor = 2 ** (len(net.widths) - 1)
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


def speech(workdir: str, layers: str) -> Encoder:
  """The states of a speech encoder, 50 per second: rows [layers, d]; no rows without audio.

  Args:
    workdir: folder of a converted wav2vec2, of a trained speech_encoder, or of a system that has one of them.
    layers: of wav2vec 2.0, 'all' for the outputs of all layers, 'last' for that of the last one.

  Raises:
    UserError: the workdir has no speech encoder.
  """
  config = read_config(workdir)
  if config.get('pretrained_network') == 'wav2vec2':
    settings = ml_collections.ConfigDict({'kind': 'wav2vec2', 'wav2vec2': {}})
  elif config.get('system') == 'speech_encoder':
    settings = ml_collections.ConfigDict({'kind': 'speech_encoder', 'speech_encoder': config.model})
  else:
    settings = config.get('audio', {'kind': 'none'})
  encoder = speech_encoders.make(settings, layers) if settings['kind'] in speech_encoders.KINDS else None
  if encoder is None:
    raise UserError(
      f'--speech={workdir} has no speech encoder: expected a workdir made by `talkjax.convert --source=wav2vec2` or '
      '`talkjax.train --config=configs/speech_encoder.py`, or the workdir of a system that has one'
    )
  return _of_speech(encoder, speech_encoders.load(encoder, workdir), workdir)


def _of_speech(encoder: speech_encoders.Encoder, params: Mapping[str, np.ndarray], workdir: str) -> Encoder:
  """`encoder` with these parameters by path."""
  tree = sharding.replicate(unflatten_dict(params, sep='/'))

  def encode(record: Record) -> Iterator[np.ndarray]:
    if len(record.audio):
      waveform = speech_encoders.fit_duration(record.audio.astype(np.float32) / 32768, len(record.frames) / record.fps)
      yield from (states.astype(np.float16) for states in encoder.encode(tree, waveform))

  about = {'branch': encoder.kind, 'weights': feature_cache.fingerprint(params), 'workdir': workdir}
  return Encoder({**about, 'shape': list(encoder.shape)}, encode)


def open_caches(
  config, encoder: speech_encoders.Encoder | None
) -> tuple[list[feature_cache.FeatureCache], dict[str, np.ndarray]]:
  """The feature caches that training reads, and the parameters of the speech encoder that it starts with, by path.

  The states of the speech encoder are computed here where no cache has them: in a folder of the corpus that is named
  after encoder and weights.

  Args:
    config: of a system.
    encoder: the system's, or None.

  Raises:
    UserError: the corpus is not built, a named cache does not exist or fit, or the encoder has no weights.
  """
  data, caches = config.data, []
  builder = input_pipeline.open_builder(data, data.split)
  split = data.split.partition('[')[0]
  if name := data.get('feature_cache', ''):
    caches.append(feature_cache.open_cache(builder, name, split))
  if encoder is None:
    return caches, {}
  params = speech_encoders.load(encoder, config.audio.weights, config.init_from)
  branch = {f'{encoder.kind}/{path}': value for path, value in params.items()}
  if any(cache.about.get('speech', {}).get('branch') == encoder.kind for cache in caches):
    return caches, branch
  computed = _of_speech(encoder, params, config.audio.weights or config.init_from)
  name = '_'.join([encoder.kind, computed.about['weights'], *map(str, encoder.shape)])
  if jax.process_index() == 0:
    feature_cache.write(
      pathlib.Path(builder.data_dir) / name,
      'speech',
      {'corpus': builder.info.full_name, **computed.about},
      input_pipeline.all_splits(builder),
      computed.encode,
    )
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('feature cache')
  return [*caches, feature_cache.open_cache(builder, name, split)], branch


def _load_autoencoder(workdir: str) -> tuple[Autoencoder, Any, dict[str, Any]]:
  """The network, its parameters, and a description that identifies them."""
  config, params, _ = checkpoint.load_params(workdir)
  if config.get('pretrained_network') == 'sd_vae':
    net = Autoencoder()
  elif 'autoencoder' in params:
    params, net = params['autoencoder'], Autoencoder(tuple(config.latents.widths))
  else:
    raise UserError(
      f'--latents={workdir} has no autoencoder: expected a workdir made by `talkjax.convert --source=sd_vae`, or '
      'the workdir of a system that has one'
    )
  wanted = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
  checkpoint.check_fit(params, wanted, workdir)
  leaves = jax.tree_util.tree_leaves_with_path(params)
  weights = feature_cache.fingerprint({sharding.path_name(p): np.asarray(x) for p, x in leaves})
  return net, params, {'branch': 'autoencoder', 'weights': weights, 'workdir': workdir}

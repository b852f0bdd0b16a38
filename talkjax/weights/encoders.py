"""The frozen encoders that `talkjax.build` runs once to precompute features of records (`corpora.feature_cache`).

They compute in float32 on the accelerator. Only a few shapes are compiled: images are encoded in batches of one size,
audio in the chunks of `talkjax.nn.wav2vec2.encode_in_chunks`.
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.corpora import feature_cache
from talkjax.corpora.records import Record
from talkjax.errors import UsageError, UserError
from talkjax.media import mel, picture
from talkjax.media.segments import AUDIO_RATE
from talkjax.nn.autoencoder import Autoencoder
from talkjax.nn.wav2vec2 import Wav2Vec2, encode_in_chunks
from talkjax.training import checkpoint, sharding

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
  net, params, about = _load(workdir, 'latents')
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
  """wav2vec 2.0 hidden states of the normalised audio, 50 per second: rows [layers, d]; no rows without audio.

  Args:
    workdir: folder of a converted wav2vec2, or of a system that has a wav2vec 2.0 encoder.
    layers: 'all' for the outputs of all layers, 'last' for the output of the last one.

  Raises:
    UserError: the workdir has no wav2vec 2.0 encoder.
  """
  net, params, about = _load(workdir, 'speech')

  @jax.jit
  def states(params, waveform, samples):
    selected = net.apply({'params': params}, waveform, samples)[1 if layers == 'all' else -1 :]
    return jnp.stack(selected, axis=2).astype(jnp.float16)

  def encode(record: Record) -> Iterator[np.ndarray]:
    if not len(record.audio):
      return
    waveform = np.pad(record.audio.astype(np.float32) / 32768, (0, max(0, AUDIO_RATE // 10 - len(record.audio))))
    yield from encode_in_chunks(net, lambda *chunk: states(params, *chunk), mel.normalised(waveform))

  return Encoder({**about, 'shape': [net.layers if layers == 'all' else 1, net.width]}, encode)


def _load(workdir: str, kind: str) -> tuple[Any, Any, dict[str, Any]]:
  """The network of a kind, its parameters, and a description that identifies them."""
  source, branch = feature_cache.KINDS[kind]
  config, params, _ = checkpoint.load_params(workdir)
  if config.get('pretrained_network') == source:
    fields = {}
  elif branch in params:
    params = params[branch]
    fields = {'widths': tuple(config.latents.widths)} if kind == 'latents' else config.audio.encoder.to_dict()
  else:
    raise UserError(
      f'--{kind}={workdir} has no {branch}: expected a workdir made by `talkjax.convert --source={source}`, or '
      'the workdir of a system that has one'
    )
  net, example = (Autoencoder, (1, 8, 8, 3)) if kind == 'latents' else (Wav2Vec2, (1, 800))
  net = net(**fields)
  wanted = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(example))['params']
  checkpoint.check_fit(params, wanted, workdir)
  leaves = jax.tree_util.tree_leaves_with_path(params)
  weights = feature_cache.fingerprint({sharding.path_name(p): np.asarray(x) for p, x in leaves})
  return net, params, {'weights': weights, 'workdir': workdir}

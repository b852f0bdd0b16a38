"""The frozen encoders that `talkjax.build` runs once, on the accelerator: records to rows (`corpora.feature_cache`).

They compute in float32. Shapes are few, whatever the records: pictures go in batches of one size, sound as
`talkjax.nn.wav2vec2.in_pieces` cuts it.
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
from talkjax.media import audio, picture
from talkjax.media.segments import AUDIO_RATE
from talkjax.nn.autoencoder import Autoencoder
from talkjax.nn.wav2vec2 import Wav2Vec2, in_pieces
from talkjax.training import checkpoint, sharding

BATCH = 8  # pictures at once on a device


@dataclasses.dataclass(frozen=True)
class Encoder:
  """What makes rows of records, and what `talkjax.corpora.feature_cache` writes down of it."""

  about: dict[str, Any]
  encode: Callable[[Record], Iterator[np.ndarray]]


def latents(workdir: str, size: int) -> Encoder:
  """Mean and log variance, before scaling, of every frame: rows [size / 8, size / 8, 2c].

  Args:
    workdir: a conversion's (sd_vae), or of a system that has an autoencoder.
    size: pixels of the squares that are encoded.

  Raises:
    UsageError: a size that the autoencoder cannot halve.
    UserError: a workdir without one.
  """
  net, params, about = _load(workdir, 'latents')
  factor = 2 ** (len(net.widths) - 1)
  if size % factor:
    raise UsageError(f'--size={size}: expected a multiple of {factor}')
  batch = BATCH * jax.device_count()
  layout = sharding.spread(batch)
  params = jax.device_put(params, layout[1] if layout else None)
  threads = concurrent.futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1))

  @jax.jit
  def moments(params, pictures):
    found = net.apply({'params': params}, picture.to_float(pictures), method='moments')
    return jnp.concatenate(found, -1).astype(jnp.float16)

  def encode(record: Record) -> Iterator[np.ndarray]:
    count, waiting = len(record.frames), []
    for first in range(0, count, batch):
      index = np.minimum(np.arange(first, first + batch), count - 1)  # the last batch is filled up
      shown = np.stack(list(threads.map(lambda i: picture.fit_square(record.frame(i), size), index)))
      made = moments(params, jax.device_put(shown, layout[0] if layout else None))
      waiting.append(made[: count - first])
      if len(waiting) > 1:  # pictures are decoded while those before are encoded
        yield np.asarray(waiting.pop(0))
    yield from map(np.asarray, waiting)

  shape = [size // factor, size // factor, 2 * net.latent_channels]
  return Encoder({**about, 'size': size, 'shape': shape}, encode)


def speech(workdir: str, layers: str) -> Encoder:
  """wav2vec 2.0's states of the whole sound, normalised, fifty a second: rows [layers, d], none of a silent clip.

  Args:
    workdir: a conversion's (wav2vec2), or of a system that has it.
    layers: 'all' that leave a layer, or the 'last' one's.

  Raises:
    UserError: a workdir without it.
  """
  net, params, about = _load(workdir, 'speech')

  @jax.jit
  def states(params, waveform, samples):
    kept = net.apply({'params': params}, waveform, samples)[1 if layers == 'all' else -1 :]
    return jnp.stack(kept, axis=2).astype(jnp.float16)

  def encode(record: Record) -> Iterator[np.ndarray]:
    if not len(record.audio):
      return
    sound = np.pad(record.audio.astype(np.float32) / 32768, (0, max(0, AUDIO_RATE // 10 - len(record.audio))))
    yield from in_pieces(net, lambda *heard: states(params, *heard), audio.normalised(sound))

  return Encoder({**about, 'shape': [net.layers if layers == 'all' else 1, net.width]}, encode)


def _load(workdir: str, kind: str) -> tuple[Any, Any, dict[str, Any]]:
  """The network of a kind, its parameters, and what identifies them."""
  foundation, branch = feature_cache.KINDS[kind]
  config, params, _ = checkpoint.load_params(workdir)
  if config.get('foundation') == foundation:
    fields = {}
  elif branch in params:
    params = params[branch]
    fields = {'widths': tuple(config.latents.widths)} if kind == 'latents' else config.audio.encoder.to_dict()
  else:
    raise UserError(
      f'--{kind}={workdir} has no {branch}: expected a workdir that `talkjax.convert --source={foundation}` made, or '
      'that of a system with it'
    )
  net, example = (Autoencoder, (1, 8, 8, 3)) if kind == 'latents' else (Wav2Vec2, (1, 800))
  net = net(**fields)
  wanted = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(example))['params']
  checkpoint.check_fit(params, wanted, workdir)
  leaves = jax.tree_util.tree_leaves_with_path(params)
  weights = feature_cache.fingerprint({sharding.path_name(p): np.asarray(x) for p, x in leaves})
  return net, params, {'weights': weights, 'workdir': workdir}

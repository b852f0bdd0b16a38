"""Stage 2 of FD2Talk: an autoencoder whose decoder is given the portrait's latents too (section 3.4.2, eq. 13-15)."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.media import picture
from talkjax.metrics.suites import Generated, Truth
from talkjax.nn.autoencoder import Autoencoder
from talkjax.nn.lpips import LPIPS
from talkjax.systems import System, reconstruction, reconstruction_scores
from talkjax.systems.fd2talk import motion
from talkjax.weights import autoencoders


def build(config) -> System:
  """The system of stage 2 (see configs/fd2talk.py).

  Raises:
    UserError: the decoder is not given two latents, or the size is not a multiple of the autoencoder's factor.
  """
  from talkjax.metrics import suites

  net = autoencoders.network(config.latents, dtype=jnp.dtype(config.dtype))
  if net.decoded != 2:
    raise UserError(f'config.latents.decoded={net.decoded}: expected 2, the latents of the portrait and of the frame')
  if config.size % net.factor:
    raise UserError(f'config.size={config.size}: expected a multiple of {net.factor}, the pixels per latent')
  lpips = LPIPS(config.lpips) if config.loss.lpips or config.loss.features else None
  carried = first_stage(config) if config.init_from else {}
  return System(
    read=functools.partial(read, config=config),
    init=functools.partial(init, net=net, lpips=lpips, carried=carried),
    loss=functools.partial(loss, net=net, lpips=lpips, weights=config.loss),
    scores=(suites.IMAGES, reconstruction_scores.scores(net.codebook)),
    frozen=(*carried, *(('lpips',) if lpips else ())),
    predict=functools.partial(predict, net=net, config=config),
  )


def read(record: Record, generator: np.random.Generator, *, config) -> dict[str, np.ndarray]:
  """Pairs of random frames of a record, F1 and F2: the same random square of both.

  Args:
    record: the record.
    generator: of frames and squares.
    config: of the system.

  Returns:
    reference (F1) and image (F2) [k, size, size, 3] uint8; id [k].
  """
  count = config.data.examples_per_record
  pairs = []
  for _ in range(count):
    frames = tuple(int(i) for i in generator.integers(0, len(record.frames), 2))
    pairs.append(reconstruction.squares(record, frames, generator, config))
  reference, image = (np.stack(images) for images in zip(*pairs))
  return {'reference': reference, 'image': image, 'id': np.array([record.id] * count)}


def first_stage(config) -> dict[str, Any]:
  """The shapes of what stage 1 learned, by branch: frozen here, so that the last stage's workdir has all there is.

  Without `config.init_from` this stage is trained alone, and its workdir has none of it.
  """
  shared = {name: config[name] for name in ('audio', 'morphable', 'dtype')}
  first = ml_collections.ConfigDict({**config.first_stage, **shared})
  audio = motion.make_audio(first)
  example = {'audio': jnp.zeros((1, first.frames, audio.channels))}
  initialise = functools.partial(motion.init, config=first, encoder=audio.encoder, expert=None)
  return jax.eval_shape(initialise, jax.random.key(0), example)


def init(
  rng: jax.Array,
  batch: Mapping[str, jax.Array],
  *,
  net: Autoencoder,
  lpips: LPIPS | None,
  carried: Mapping[str, Any],
) -> Any:
  """Fresh parameters by branch; those of `carried` are replaced by training."""
  keys, image = jax.random.split(rng), picture.to_float(batch['image'][:1])
  params = {'autoencoder': net.init(keys[0], image)['params']}
  params |= jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), dict(carried))
  return params | ({'lpips': lpips.init(keys[1], image, image)['params']} if lpips else {})


def loss(
  params, batch, rng: jax.Array, train: bool, *, net: Autoencoder, lpips: LPIPS | None, weights: Mapping[str, float]
) -> tuple[jax.Array, dict]:
  """L_e&d, eq. 15.

  Args:
    params: from `init`.
    batch: from `read`.
    rng: of the samples of the posteriors.
    train: whether they are sampled.
    net: the autoencoder.
    lpips: the network of the perceptual terms, or None.
    weights: `config.loss`: `l2` of eq. 13 and `features` of eq. 14; the others are ours.

  Returns:
    (loss, the unweighted terms).
  """
  images = picture.to_float(jnp.concatenate([batch['reference'], batch['image']]))
  apply = lambda *args, method: net.apply({'params': params['autoencoder']}, *args, method=method)
  mean, logvar = (x.astype(jnp.float32) for x in apply(images, method='moments'))
  latents = net.draw(mean, logvar, rng if train and not net.codebook else None)
  made = apply(jnp.concatenate(jnp.split(latents, 2), axis=-1), method='decode')
  true = jnp.split(images, 2)[1]
  terms = reconstruction.pixel_terms(true, made, weights)
  if lpips:
    terms |= reconstruction.perceptual_terms(lpips, params['lpips'], true, made, weights)
  terms |= reconstruction.latent_terms(net, params['autoencoder'], mean, logvar, weights)
  return reconstruction.total(terms, weights), terms


def predict(
  params, clips: Sequence[Record], speech: Sequence[Record] | None = None, *, net: Autoencoder, config
) -> tuple[list[Truth], list[Generated]]:
  """The frames of records and what is kept of them, with the first frame as the portrait; `speech` is not used."""
  run = _compiled(net)

  def reconstruct(images, first):
    made, square = run(params['autoencoder'], first[None], images)
    return picture.to_uint8(made), {'latent_square': np.asarray(square)}

  return reconstruction_scores.predict(clips, config.size, reconstruct)


@functools.cache
def _compiled(net: Autoencoder):
  def run(params, portrait, images):
    encode = lambda x: net.apply({'params': params}, picture.to_float(x), method='encode')
    latents, reference = encode(images), encode(portrait)
    both = jnp.concatenate([jnp.broadcast_to(reference, latents.shape), latents], axis=-1)
    return net.apply({'params': params}, both, method='decode'), jnp.square(latents).mean((1, 2, 3))

  return jax.jit(run)

"""The networks of an autoencoder's training and their loss."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from talkjax.errors import UserError
from talkjax.media import picture
from talkjax.nn.autoencoder import Autoencoder
from talkjax.nn.lpips import LPIPS
from talkjax.nn.patch_discriminator import PatchDiscriminator
from talkjax.systems import reconstruction
from talkjax.weights import autoencoders

LAST = ('decoder', 'conv_out', 'kernel')  # at which the adversarial term is weighted


@dataclasses.dataclass(frozen=True)
class Parts:
  """The networks by branch of the parameters; those that the loss does not need are None."""

  autoencoder: Autoencoder
  lpips: LPIPS | None = None
  discriminator: PatchDiscriminator | None = None


def make_parts(config) -> Parts:
  """The networks of a config."""
  dtype = jnp.dtype(config.dtype)
  return Parts(
    autoencoders.network(config.latents, dtype=dtype),
    LPIPS(config.lpips) if config.loss.lpips else None,
    PatchDiscriminator(**config.discriminator, dtype=dtype) if config.loss.adversarial else None,
  )


def check(config, net: Autoencoder) -> None:
  """Raises UserError if images of `config.size` cannot be encoded."""
  if config.size % net.factor:
    raise UserError(f'config.size={config.size}: expected a multiple of {net.factor}, the pixels per latent')


def init(rng: jax.Array, batch: dict[str, jax.Array], *, parts: Parts) -> Any:
  """Fresh parameters by branch."""
  keys, image = jax.random.split(rng, 3), picture.to_float(batch['image'][:1])
  params = {'autoencoder': parts.autoencoder.init(keys[0], image)['params']}
  if parts.lpips:
    params['lpips'] = parts.lpips.init(keys[1], image, image)['params']
  if parts.discriminator:
    params['discriminator'] = parts.discriminator.init(keys[2], image)['params']
  return params


def loss(params, batch, rng: jax.Array, train: bool, *, parts: Parts, weights: Mapping[str, float]):
  """The weighted sum of the terms of `config.loss`.

  Args:
    params: from `init`.
    batch: from `data.read`.
    rng: of the sample of the posterior.
    train: whether it is sampled.
    parts: the networks.
    weights: `config.loss`.

  Returns:
    (loss, the unweighted terms).
  """
  images = picture.to_float(batch['image'])
  net, own = parts.autoencoder, params['autoencoder']
  latents, terms = _encode(net, own, images, rng if train else None, weights)
  decode = lambda kernel: net.apply({'params': _with_last(own, kernel)}, latents, method='decode')
  made = decode(own[LAST[0]][LAST[1]][LAST[2]])

  def reconstruction_terms(made):
    found = reconstruction.pixel_terms(images, made, weights)
    if parts.lpips:
      found |= reconstruction.perceptual_terms(parts.lpips, params['lpips'], images, made, weights)
    return found

  terms |= reconstruction_terms(made)
  value = reconstruction.total(terms, weights)
  if parts.discriminator:
    players = reconstruction.adversarial_terms(
      parts.discriminator,
      params['discriminator'],
      images,
      made,
      decode,
      own[LAST[0]][LAST[1]][LAST[2]],
      lambda made: reconstruction.total(reconstruction_terms(made), weights),
    )
    value += weights['adversarial'] * players['adversarial'] + players['discriminator']
    terms |= players
  return value, terms


def _encode(net, params, images, rng, weights) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The latents that are decoded, and their terms."""
  apply = lambda *args, method: net.apply({'params': params}, *args, method=method)
  mean, logvar = (x.astype(jnp.float32) for x in apply(images, method='moments'))
  latents = net.draw(mean, logvar, None if net.codebook else rng)
  return latents, reconstruction.latent_terms(net, params, mean, logvar, weights)


def _with_last(params, kernel):
  """The parameters with another kernel of the decoder's last layer."""
  part, layer, leaf = LAST
  return {**params, part: {**params[part], layer: {**params[part][layer], leaf: kernel}}}

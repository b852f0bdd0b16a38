"""The latent spaces that portrait systems diffuse in, behind one interface."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.conv import depth_to_space, space_to_depth


@dataclasses.dataclass(frozen=True)
class FoldedLatents:
  """Patches of pixels as channels, without parameters."""

  patch: int
  residual_scale = 6.0  # gives the residual from a portrait a variance of about one

  @property
  def channels(self) -> int:
    return 3 * self.patch**2

  def init(self, rng: jax.Array) -> dict[str, Any]:
    return {}

  def encode(self, params, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    """Images [b, h, w, 3] -> [b, h / patch, w / patch, channels]."""
    return space_to_depth(images, self.patch)

  def sample(self, moments: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    raise TypeError('folded images have no moments: their cached latents are refused when they are read')

  def decode(self, params, latents: jax.Array) -> jax.Array:
    """The inverse of `encode`."""
    return depth_to_space(latents, self.patch)


@dataclasses.dataclass(frozen=True)
class AutoencoderLatents:
  """The latents of a KL autoencoder that is never trained here; its parameters are params['autoencoder'].

  It computes in float32 whatever `config.dtype`: rounding would be in every target, and in every pixel of a video.
  """

  net: nn.Module
  residual_scale = 1.5

  @property
  def channels(self) -> int:
    return self.net.latent_channels

  def init(self, rng: jax.Array) -> dict[str, Any]:
    """{'autoencoder': fresh parameters}."""
    side = self.net.factor
    return {'autoencoder': self.net.init(rng, jnp.zeros((1, side, side, 3)))['params']}

  def encode(self, params, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    """Images [b, h, w, 3] -> [b, h', w', channels] float32: a sample of the posterior, or its mean without `rng`."""
    latents = self.net.apply({'params': params['autoencoder']}, images, rng, method='encode')
    return jax.lax.stop_gradient(latents).astype(jnp.float32)

  def sample(self, moments: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    """As `encode`, from the precomputed mean and log variance [b, h', w', 2 channels]."""
    return self.net.draw(*jnp.split(moments.astype(jnp.float32), 2, axis=-1), rng)

  def decode(self, params, latents: jax.Array) -> jax.Array:
    """Latents [b, h', w', channels] -> images [b, h, w, 3]."""
    return self.net.apply({'params': params['autoencoder']}, latents, method='decode')


def make(config) -> FoldedLatents | AutoencoderLatents:
  """The latent space of a config."""
  if config.latents.kind == 'fold':
    return FoldedLatents(config.latents.patch)
  from talkjax.weights import autoencoders

  return AutoencoderLatents(autoencoders.network(config.latents))


def factor(settings) -> int:
  """Pixels per latent, along each axis, of `config.latents`."""
  if settings.kind == 'fold':
    return settings.patch
  from talkjax.weights import autoencoders

  return autoencoders.network(settings).factor

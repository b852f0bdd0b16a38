"""What autoencoders are trained with: squares of frames, and the terms of their losses.

Shared by `autoencoder` and by FD2Talk's second stage.
"""

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from talkjax.corpora.records import Record
from talkjax.nn.autoencoder import Autoencoder
from talkjax.nn.lpips import LPIPS
from talkjax.nn.patch_discriminator import PatchDiscriminator

LARGEST_RATIO = 1e4  # of the gradients that weight the adversarial term, as published


def random_square(box: np.ndarray, shape: tuple[int, int], generator: np.random.Generator, augment) -> tuple[int, ...]:
  """A random square of a frame: (top, left, side) in pixels.

  Args:
    box: x0, y0, x1, y1 of the face in the frame.
    shape: (h, w) of the frame.
    generator: of the square.
    augment: `scale`, the range of the side over the frame's shorter side; `whole`, the share of centred squares of the
      largest side; `face`, the share of the others whose centre is in the box.
  """
  largest = min(shape)
  if generator.random() < augment.whole:
    return (shape[0] - largest) // 2, (shape[1] - largest) // 2, largest
  side = int(round(largest * generator.uniform(*augment.scale)))
  if generator.random() < augment.face:
    centre = generator.uniform(box[1], box[3]), generator.uniform(box[0], box[2])
    corner = [int(np.clip(round(c - side / 2), 0, n - side)) for c, n in zip(centre, shape)]
  else:
    corner = [int(generator.integers(0, n - side + 1)) for n in shape]
  return *corner, side


def cut(frame: np.ndarray, square: tuple[int, ...], size: int, mirrored: bool = False) -> np.ndarray:
  """A square (top, left, side) of a frame [h, w, 3] as [size, size, 3], mirrored if asked."""
  top, left, side = square
  inside = frame[top : top + side, left : left + side]
  if side != size:
    inside = cv2.resize(inside, (size, size), interpolation=cv2.INTER_AREA if size < side else cv2.INTER_CUBIC)
  return inside[:, ::-1] if mirrored else inside


def squares(record: Record, frames: tuple[int, ...], generator: np.random.Generator, config) -> tuple[np.ndarray, ...]:
  """The same random square of several frames of a record: uint8 [size, size, 3] each.

  Args:
    record: the record.
    frames: their numbers.
    generator: of the square.
    config: with `size` and `augment`.
  """
  square = random_square(record.box[frames[0]], record.size, generator, config.augment)
  mirrored = generator.random() < config.augment.flip
  return tuple(cut(record.frame(i), square, config.size, mirrored) for i in frames)


def pixel_terms(true: jax.Array, made: jax.Array, weights: Mapping[str, float]) -> dict[str, jax.Array]:
  """The unweighted terms of pixels whose weight is not 0: `l1`, `l2` and `gradient`, means over all values.

  Args:
    true, made: [b, h, w, 3] in about [-1, 1].
    weights: by name.
  """
  difference = made - true
  terms = {
    'l1': lambda: jnp.mean(jnp.abs(difference)),
    'l2': lambda: jnp.mean(jnp.square(difference)),
    'gradient': lambda: sum(jnp.mean(jnp.abs(jnp.diff(difference, axis=axis))) for axis in (1, 2)),
  }
  return {name: term() for name, term in terms.items() if weights[name]}


def perceptual_terms(
  net: LPIPS, params: Any, true: jax.Array, made: jax.Array, weights: Mapping[str, float]
) -> dict[str, jax.Array]:
  """Those whose weight is not 0 of `lpips`, the distance, and `features`, L1 of the features (FD2Talk, eq. 14).

  Args:
    net, params: LPIPS.
    true, made: [b, h, w, 3] in about [-1, 1].
    weights: by name; a name may be absent.
  """
  terms = {}
  if weights.get('lpips', 0):
    terms['lpips'] = jnp.mean(net.apply({'params': params}, true, made))
  if weights.get('features', 0):
    pairs = zip(*(net.apply({'params': params}, x, method='features') for x in (true, made)))
    terms['features'] = sum(jnp.mean(jnp.abs(x - y)) for x, y in pairs)
  return terms


def kl(mean: jax.Array, logvar: jax.Array) -> jax.Array:
  """KL divergence of N(mean, exp(logvar)) from N(0, 1), per value, mean over all."""
  return 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(logvar) - 1 - logvar)


def deviation(mean: jax.Array, logvar: jax.Array) -> jax.Array:
  """How far the latents' channels are from mean 0 and standard deviation 1: the mean of m^2 + (log variance)^2."""
  axes = tuple(range(mean.ndim - 1))
  centre = jnp.mean(mean, axes)
  variance = jnp.mean(jnp.square(mean - centre) + jnp.exp(logvar), axes)
  return jnp.mean(jnp.square(centre) + jnp.square(jnp.log(variance)))


def latent_terms(
  net: Autoencoder, params: Any, mean: jax.Array, logvar: jax.Array, weights: Mapping[str, float]
) -> dict[str, jax.Array]:
  """Those whose weight is not 0 of `kl` and `deviation`, or of a VQ autoencoder's `commitment` and `codebook`.

  Args:
    net, params: the autoencoder.
    mean, logvar: unscaled latents as from its `moments`.
    weights: by name.
  """
  if net.codebook:
    found = codebook_terms(mean, net.apply({'params': params}, mean, method='quantise')[0])
  else:
    found = {'kl': kl(mean, logvar), 'deviation': deviation(mean, logvar)}
  return {name: value for name, value in found.items() if weights[name]}


def codebook_terms(latents: jax.Array, codes: jax.Array) -> dict[str, jax.Array]:
  """`commitment`, which moves the latents to their codes, and `codebook`, the opposite (VQ-VAE, eq. 3)."""
  distance = lambda a, b: jnp.mean(jnp.square(jax.lax.stop_gradient(a) - b))
  return {'commitment': distance(codes, latents), 'codebook': distance(latents, codes)}


def adversarial_terms(
  net: PatchDiscriminator,
  params: Any,
  true: jax.Array,
  made: jax.Array,
  reconstruct: Callable[[jax.Array], jax.Array],
  last: jax.Array,
  loss: Callable[[jax.Array], jax.Array],
) -> dict[str, jax.Array]:
  """Both players' terms in one pass; each has a gradient with respect to its own parameters only.

  `adversarial` is the autoencoder's, times the ratio of the gradients of reconstruction and adversarial loss at the
  decoder's last layer (VQGAN, eq. 7); `discriminator` is the hinge loss of the other.

  Args:
    net, params: the discriminator.
    true, made: [b, h, w, 3].
    reconstruct: the kernel of the decoder's last layer -> `made`.
    last: that kernel.
    loss: made images -> the weighted reconstruction loss.
  """
  judge = lambda images, params: net.apply({'params': params}, images)
  frozen = jax.lax.stop_gradient(params)
  fool = lambda images: -jnp.mean(judge(images, frozen))
  norms = [jnp.linalg.norm(jax.grad(lambda k, f=f: f(reconstruct(k)))(last)) for f in (loss, fool)]
  ratio = jnp.clip(norms[0] / (norms[1] + 1e-4), 0, LARGEST_RATIO)
  real, fake = (judge(jax.lax.stop_gradient(images), params) for images in (true, made))
  return {
    'adversarial': jax.lax.stop_gradient(ratio) * fool(made),
    'discriminator': 0.5 * (jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake))),
  }


def total(terms: Mapping[str, jax.Array], weights: Mapping[str, float]) -> jax.Array:
  """The weighted sum of terms."""
  return sum(weights[name] * value for name, value in terms.items())

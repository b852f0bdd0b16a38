"""A portrait laid over a face that is elsewhere (ours, for small networks): what they need not learn to move.

Points are in sides of the square picture, x right and y down from its top left corner.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.nn.conv import depth_to_space

REACH = 0.03  # sides of the picture within which the motion of a landmark is followed
ENLARGED = 4  # times the size; a moved face keeps 0.90 of its gradient energy, at 2 times 0.86
FLOW_SCALE = 0.03  # sides of the picture that a flow of 1 moves a pixel by
TURN = 14  # numbers of `turn`
TURN_SCALE = 25.0  # gives those that tell two faces apart a deviation of about one


@dataclasses.dataclass(frozen=True)
class Overlay:
  """Portraits laid over the faces of frames.

  Attributes:
    latents: [b, ..., h, w, c]; in place of the frames f of a clip there is 1 where all have the same.
    points: [b, ..., size, size, 2], where in the portrait each pixel has its colour from.
    images: [b, H, H, 3] in [-1, 1], the enlarged portraits; None where they are kept elsewhere.
    shown: [b, ...], 0 for frames whose portrait was dropped; None: for none.
  """

  latents: jax.Array
  points: jax.Array
  images: jax.Array | None = None
  shown: jax.Array | None = None


jax.tree_util.register_dataclass(Overlay, ['latents', 'points', 'images', 'shown'], [])


def used(aids) -> bool:
  """Whether portraits are laid over faces, with these `config.aids`."""
  return aids.reference in ('overlay', 'flow')


def pixel_centres(size: int) -> jax.Array:
  """[size * size, 2]."""
  centres = (np.arange(size, dtype=np.float32) + 0.5) / size
  return jnp.asarray(np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2))


def enlarge(images: jax.Array) -> jax.Array:
  """Images [b, h, w, c] at ENLARGED times their size, which lose little where they are sampled between their pixels."""
  b, h, w, c = images.shape
  return jax.image.resize(images, (b, ENLARGED * h, ENLARGED * w, c), 'cubic')


def follow(source: jax.Array, target: jax.Array, size: int) -> jax.Array:
  """Where in a picture the pixels of a moved face are, by the similarity that fits a few of its points best.

  Args:
    source: [b, n, 2], the points in the picture.
    target: [b, f, n, 2], the points in each of the results.
    size: of the results.

  Returns:
    Points [b, f, size, size, 2], for `sample`.
  """
  (_, source_mean), (_, target_mean), factor = _similarity(source, target)
  grid = pixel_centres(size)
  moved = factor * (grid[:, 0] + 1j * grid[:, 1] - target_mean) + source_mean
  return jnp.stack([moved.real, moved.imag], -1).reshape(*target.shape[:2], size, size, 2)


def turn(source: jax.Array, target: jax.Array) -> jax.Array:
  """How a face has turned, as far as a few of its points tell: what `follow` leaves of them, and its own numbers.

  Args:
    source: [b, 3, 2], the keypoints in the portrait.
    target: [b, f, 3, 2], the keypoints in each frame.

  Returns:
    [b, f, TURN]: the points of the portrait around their mean, how far those of the frame are from them once they are
    laid over each other, in units of their spread, and the angle and the logarithm of the scale that this takes.
  """
  (source, _), (target, _), factor = _similarity(source, target)
  spread = jnp.sqrt(jnp.mean(jnp.square(jnp.abs(source)), -1, keepdims=True) + 1e-12)
  source = jnp.broadcast_to(source / spread, target.shape)
  rest = factor * target / spread - source
  numbers = [source.real, source.imag]
  numbers += [TURN_SCALE * x for x in (rest.real, rest.imag, jnp.angle(factor), jnp.log(jnp.abs(factor) + 1e-6))]
  return jnp.concatenate(numbers, -1)


def _similarity(source: jax.Array, target: jax.Array):
  """The similarity from points [b, f, n, 2] to those [b, n, 2] of a portrait: z -> factor * z + shift.

  Returns:
    ((the portrait's points around their mean, that mean), the same of the others, factor), complex [b, f or 1, n or 1].
  """
  source, target = (p[..., 0] + 1j * p[..., 1] for p in (source[:, None], target))
  source_mean, target_mean = (p.mean(-1, keepdims=True) for p in (source, target))
  source, target = source - source_mean, target - target_mean
  spread = jnp.maximum(jnp.sum(jnp.square(jnp.abs(target)), -1, keepdims=True), 1e-12)
  factor = jnp.sum(jnp.conj(target) * source, -1, keepdims=True) / spread
  return (source, source_mean), (target, target_mean), factor


def add_flow(points: jax.Array, flow: jax.Array) -> jax.Array:
  """Points [..., size, size, 2] moved by FLOW_SCALE times a flow.

  Args:
    points: from `follow`.
    flow: [..., h, w, 2 k^2], k x k patches of the coarser picture that it is interpolated from.
  """
  shape, size = flow.shape, points.shape[-2]
  flow = depth_to_space(flow.reshape(-1, *shape[-3:]), round((shape[-1] / 2) ** 0.5))
  flow = jax.image.resize(flow, (len(flow), size, size, 2), 'linear')
  return points + FLOW_SCALE * flow.reshape(*shape[:-3], size, size, 2)


def follow_landmarks(source: jax.Array, target: jax.Array, size: int) -> jax.Array:
  """The same by many landmarks: where `target` has one, the result shows what the picture has at that of `source`.

  An affine map follows the head, and the remaining motion of the landmarks is interpolated near them. It knows nothing
  of depth, or of what the picture does not show.

  Args:
    source, target: [b, n, 2], the landmarks in the pictures and in the results.
    size: of the results.

  Returns:
    Points [b, size, size, 2], for `sample`.
  """
  one = jnp.ones((*target.shape[:2], 1), target.dtype)
  known = jnp.concatenate([target, one], -1)  # [b, n, 3]
  across = jnp.swapaxes(known, 1, 2)
  affine = jnp.linalg.solve(across @ known + 1e-6 * jnp.eye(3), across @ source)  # [b, 3, 2]
  rest = source - known @ affine
  # Near a landmark the motion is smooth: it is computed for every second pixel.
  coarse = max(1, size // 2)
  grid = pixel_centres(coarse)
  squared = jnp.sum(jnp.square(grid[None, :, None] - target[:, None]), -1)  # [b, coarse^2, n]
  near = jnp.exp(squared * (-0.5 / REACH**2))
  moved = (near @ rest) / (near.sum(-1, keepdims=True) + 0.1)
  moved = jax.image.resize(moved.reshape(-1, coarse, coarse, 2), (len(moved), size, size, 2), 'linear')
  grid = pixel_centres(size)
  return moved + (jnp.concatenate([grid, jnp.ones((len(grid), 1))], -1) @ affine).reshape(moved.shape)


def sample(images: jax.Array, points: jax.Array) -> jax.Array:
  """The colours of images [b, h, w, c] at points [b, ..., 2]: [b, ..., c], bilinear; the edge is repeated outside."""
  b, h, w, c = images.shape
  flat = images.reshape(b, h * w, c)
  position = points.reshape(b, -1, 2) * jnp.array([w, h], points.dtype) - 0.5
  position = jnp.clip(position, 0, jnp.array([w - 1, h - 1], points.dtype))
  low = jnp.floor(position)
  fraction = position - low
  x0, y0 = low[..., 0].astype(jnp.int32), low[..., 1].astype(jnp.int32)
  x1, y1 = jnp.minimum(x0 + 1, w - 1), jnp.minimum(y0 + 1, h - 1)
  colour = lambda x, y: jnp.take_along_axis(flat, (y * w + x)[..., None], axis=1)
  fx, fy = fraction[..., :1], fraction[..., 1:]
  top = colour(x0, y0) * (1 - fx) + colour(x1, y0) * fx
  bottom = colour(x0, y1) * (1 - fx) + colour(x1, y1) * fx
  return (top * (1 - fy) + bottom * fy).reshape(*points.shape[:-1], c)

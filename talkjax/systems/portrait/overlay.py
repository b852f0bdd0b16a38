"""A portrait laid over a face that is elsewhere (ours, for small networks): what they need not learn to move.

Points are in sides of the square picture, x right and y down from its top left corner.
"""

import jax
import jax.numpy as jnp
import numpy as np

REACH = 0.03  # sides of the picture within which the motion of a landmark is followed


def pixel_centres(size: int) -> jax.Array:
  """[size * size, 2]."""
  centres = (np.arange(size, dtype=np.float32) + 0.5) / size
  return jnp.asarray(np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2))


def enlarge(images: jax.Array) -> jax.Array:
  """Images [b, h, w, c] at twice their size, which lose little where they are sampled between their pixels."""
  b, h, w, c = images.shape
  return jax.image.resize(images, (b, 2 * h, 2 * w, c), 'cubic')


def move(images: jax.Array, source: jax.Array, target: jax.Array, size: int) -> jax.Array:
  """Moves a face by the similarity (rotation, scale, translation) that fits a few of its points best.

  Args:
    images: [b, h, h, c].
    source, target: [b, n, 2], the points in the images and in the result.
    size: of the result.

  Returns:
    [b, size, size, c], bilinear; the edge is repeated outside.
  """
  # Points as complex numbers: the similarity is z -> factor * z + shift.
  source, target = (p[..., 0] + 1j * p[..., 1] for p in (source, target))
  source_mean, target_mean = (p.mean(-1, keepdims=True) for p in (source, target))
  offset = target - target_mean
  spread = jnp.maximum(jnp.sum(jnp.square(jnp.abs(offset)), -1, keepdims=True), 1e-12)
  factor = jnp.sum(jnp.conj(offset) * (source - source_mean), -1, keepdims=True) / spread
  grid = pixel_centres(size)
  moved = factor * (grid[:, 0] + 1j * grid[:, 1] - target_mean) + source_mean
  return sample(images, jnp.stack([moved.real, moved.imag], -1).reshape(-1, size, size, 2))


def lay_over(images: jax.Array, source: jax.Array, target: jax.Array, size: int) -> jax.Array:
  """Moves a face: where `target` has a landmark, the result shows what the image has at that of `source`.

  An affine map follows the head, and the remaining motion of the landmarks is interpolated near them. It knows nothing
  of depth, or of what the image does not show.

  Args:
    images: [b, h, h, c].
    source, target: [b, n, 2], the landmarks in the images and in the result.
    size: of the result.

  Returns:
    [b, size, size, c], bilinear; the edge is repeated outside.
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
  moved += (jnp.concatenate([grid, jnp.ones((len(grid), 1))], -1) @ affine).reshape(moved.shape)
  return sample(images, moved)


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

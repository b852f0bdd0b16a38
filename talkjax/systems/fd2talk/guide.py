"""What small frame networks are helped with (ours, not the paper's): the portrait laid over the face that is asked for,
and a picture of that face's mouth and eyes. Both follow from the coefficients.

Points are in sides of the square picture, x right and y down from its top left corner.
"""

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.faces.morphable import MorphableModel

# Of the 68 landmarks: closed outlines, whose inside is drawn, and points, which are drawn as dots.
OUTLINES = (range(60, 68), range(48, 60), range(36, 42), range(42, 48))  # inner and outer lips, left and right eye
DOTS = (range(17, 27), range(27, 36), range(17))  # brows, nose, jaw
CHANNELS = len(OUTLINES) + len(DOTS)
REACH = 0.03  # sides of the picture within which the motion of a landmark is followed


def landmarks(model: MorphableModel, rows: jax.Array) -> jax.Array:
  """The 68 landmarks [b, 68, 2] of faces with these rows of coefficients [b, k]."""
  return model.part(model.landmarks68).project(rows, (1, 1))[..., :2]


def pixel_centres(size: int) -> jax.Array:
  """[size * size, 2]."""
  centres = (np.arange(size, dtype=np.float32) + 0.5) / size
  return jnp.asarray(np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2))


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


def face_map(points: jax.Array, size: int) -> jax.Array:
  """Mouth, eyes, brows, nose and jaw of landmarks [b, 68, 2], drawn in channels of their own: [b, size, size, 7]."""
  grid = pixel_centres(size)
  inside = [jax.nn.sigmoid(-2 * size * outline_distance(grid, points[:, np.array(o)])) for o in OUTLINES]
  dots = [
    jnp.exp(-0.5 * size**2 * jnp.sum(jnp.square(grid[:, None] - points[:, None, np.array(d)]), -1).min(-1))
    for d in DOTS
  ]
  return jnp.stack([*inside, *dots], -1).reshape(len(points), size, size, CHANNELS)


def outline_distance(grid: jax.Array, outline: jax.Array) -> jax.Array:
  """Signed distance of pixels [m, 2] from closed outlines [b, n, 2], negative inside: [b, m]."""
  start = outline[:, None]  # [b, 1, n, 2]
  edge = jnp.roll(start, -1, axis=2) - start
  offset = grid[None, :, None] - start  # [b, m, n, 2]
  along = jnp.sum(offset * edge, -1) / jnp.maximum(jnp.sum(edge * edge, -1), 1e-12)
  away = offset - edge * jnp.clip(along, 0, 1)[..., None]
  distance = jnp.sqrt(jnp.sum(away * away, -1).min(-1) + 1e-12)
  # A pixel is inside if a ray from it crosses the outline an odd number of times.
  above, next_above = offset[..., 1] >= 0, offset[..., 1] - edge[..., 1] >= 0
  left = edge[..., 0] * offset[..., 1] > edge[..., 1] * offset[..., 0]
  crossings = (above & ~next_above & left) | (~above & next_above & ~left)
  return jnp.where(crossings.sum(-1) % 2 == 1, -distance, distance)

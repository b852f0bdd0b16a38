"""What small frame networks are helped with (ours, not the paper's): a picture of the face that is asked for, and the
landmarks over which the portrait is laid. Both follow from the coefficients.

Points are in sides of the square picture, x right and y down from its top left corner.
"""

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.faces.morphable import MorphableModel
from talkjax.systems.portrait.overlay import pixel_centres

# Of the 68 landmarks: closed outlines, whose inside is drawn, and points, which are drawn as dots.
OUTLINES = (range(60, 68), range(48, 60), range(36, 42), range(42, 48))  # inner and outer lips, left and right eye
DOTS = (range(17, 27), range(27, 36), range(17))  # brows, nose, jaw
CHANNELS = len(OUTLINES) + len(DOTS)


def landmarks(model: MorphableModel, rows: jax.Array) -> jax.Array:
  """The 68 landmarks [b, 68, 2] of faces with these rows of coefficients [b, k]."""
  return model.part(model.landmarks68).project(rows, (1, 1))[..., :2]


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

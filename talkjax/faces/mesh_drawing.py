"""Pictures of a morphable model's mesh: what coefficients look like, with neither a network nor a renderer."""

from collections.abc import Iterator

import cv2
import numpy as np

from talkjax.faces.morphable import MorphableModel, normals

STYLES = ('shaded', 'wireframe')
SKIN, PAPER, INK = (222, 196, 178), (250, 250, 248), (60, 72, 92)  # RGB
LIGHT = np.array([-0.3, 0.45, 1.0]) / np.linalg.norm([-0.3, 0.45, 1.0])  # from the upper left, in the axes of the model
AMBIENT = 0.25
OVERSAMPLING = 2  # the mesh is drawn at this multiple of the size, because OpenCV's smooth edges show seams
_SHIFT = 4  # fractional bits of OpenCV's coordinates


def draw(
  model: MorphableModel, rows: np.ndarray, size: tuple[int, int], style: str = 'shaded', frames=None
) -> Iterator[np.ndarray]:
  """Draws the mesh of every row of coefficients, the nearer triangles over the farther ones.

  Args:
    model: of the coefficients.
    rows: [f, k].
    size: (h, w) of the pictures in pixels.
    style: 'shaded' (Lambert's law) or 'wireframe'.
    frames: f pictures uint8 [h, w, 3] RGB to draw on; None: paper.

  Yields:
    uint8 [h, w, 3] RGB for each row.

  Raises:
    ValueError: an unknown style.
  """
  if style not in STYLES:
    raise ValueError(f'style is {style!r}, expected one of {", ".join(STYLES)}')
  (height, width), triangles = size, np.asarray(model.triangles)
  canvas_size = (width * OVERSAMPLING, height * OVERSAMPLING)
  paper = np.full((height, width, 3), PAPER, np.uint8)
  for i, row in enumerate(np.asarray(rows, np.float32)):
    canvas = cv2.resize(paper if frames is None else frames[i], canvas_size, interpolation=cv2.INTER_LINEAR)
    points = model.project(row, size)
    facing = normals(points * [1, -1, -1], triangles)  # back to the axes of the model
    visible = np.flatnonzero(facing[:, 2] > 0)
    visible = visible[np.argsort(-points[triangles[visible], 2].mean(1), kind='stable')]  # the farthest first
    # The centre of the first pixel is at 0 in OpenCV and at half a pixel in our coordinates.
    corners = np.round((points[:, :2] * OVERSAMPLING - 0.5) * 2**_SHIFT).astype(np.int32)[triangles[visible]]
    if style == 'shaded':
      brightness = AMBIENT + (1 - AMBIENT) * np.maximum(facing[visible] @ LIGHT, 0)
      colours = np.round(brightness[:, None] * SKIN).astype(int).tolist()
      for corner, colour in zip(corners, colours, strict=True):
        cv2.fillConvexPoly(canvas, corner, colour, shift=_SHIFT)
    else:
      cv2.polylines(canvas, list(corners), True, INK, 1, cv2.LINE_AA, _SHIFT)
    yield cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)

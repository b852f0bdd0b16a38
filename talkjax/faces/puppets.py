"""What a program may know about drawn faces (data/puppets): the colours that make an open mouth measurable from pixels.

The inside of a puppet's mouth is a deep crimson that nothing else in the lower face comes near in chroma: neither lips,
skin, beard, teeth nor tongue, under any light, and so it still stands out after blur, compression or half resolution.
The rows of it that are seen between the lips grow with the opening, except where teeth or tongue fill it (f, s, l).
"""

import numpy as np

MOUTH_INSIDE = (116, 10, 34)  # RGB of the space between a puppet's lips
TEETH = (240, 234, 226)
TONGUE = (176, 96, 92)
INSIDE_CHROMA = (0.44, 0.60)  # chroma below the first is never the inside; above the second it surely is


def chroma(rgb: np.ndarray) -> np.ndarray:
  """How red a colour is for its brightness: [..., 3] RGB 0 to 255 -> [...] float32, (r - g) / (r + g + 30)."""
  red, green = (rgb[..., i].astype(np.float32) for i in (0, 1))
  return (red - green) / (red + green + 30)


def mouth_inside(rgb: np.ndarray) -> np.ndarray:
  """How much of each pixel is the inside of a puppet's mouth: uint8 [..., 3] RGB -> float32 [...] in [0, 1]."""
  low, high = INSIDE_CHROMA
  return np.clip((chroma(rgb) - low) / (high - low), 0, 1)

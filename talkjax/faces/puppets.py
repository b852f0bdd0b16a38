"""Colours of the drawn faces of data/puppets, from which the mouth opening can be measured in pixels.

The inside of a puppet's mouth is a deep crimson. Nothing else in the lower face has a similar chroma under any light:
neither lips, skin, beard, teeth nor tongue. It therefore remains detectable after blur, compression or at half
resolution. Its visible height grows with the opening, except if teeth or tongue fill the mouth (f, s, l).
"""

import numpy as np

MOUTH_INSIDE = (116, 10, 34)  # RGB of the space between a puppet's lips
TEETH = (240, 234, 226)
TONGUE = (176, 96, 92)
INSIDE_CHROMA = (0.44, 0.60)  # chroma below the first is never the inside of the mouth; above the second it always is


def chroma(rgb: np.ndarray) -> np.ndarray:
  """Redness relative to brightness: [..., 3] RGB 0 to 255 -> [...] float32, (r - g) / (r + g + 30)."""
  red, green = (rgb[..., i].astype(np.float32) for i in (0, 1))
  return (red - green) / (red + green + 30)


def mouth_inside(rgb: np.ndarray) -> np.ndarray:
  """Fraction of each pixel that is the inside of a puppet's mouth: uint8 [..., 3] RGB -> float32 [...] in [0, 1]."""
  low, high = INSIDE_CHROMA
  return np.clip((chroma(rgb) - low) / (high - low), 0, 1)

"""Identities: 48 people with shape, colours, hair, clothes and voice, deterministic for a seed."""

import dataclasses

import numpy as np

from .geometry import Shape

COUNT = 48
# Test and validation people: not in training, half women, with various hair styles and skin tones.
TEST = (4, 9, 14, 19, 25, 30, 36, 43)
VALIDATION = (7, 18, 28, 41)

Color = tuple[int, int, int]  # RGB

SKINS: tuple[Color, ...] = (
  (250, 219, 198),
  (243, 203, 176),
  (234, 190, 158),
  (228, 178, 140),
  (214, 160, 120),
  (196, 142, 102),
  (176, 122, 84),
  (152, 102, 70),
  (126, 84, 58),
  (104, 68, 48),
)
# For darker skin, hair is chosen from the dark end.
HAIRS: tuple[Color, ...] = (
  (38, 30, 28),
  (58, 42, 34),
  (84, 56, 38),
  (110, 72, 44),
  (146, 100, 58),
  (198, 152, 88),
  (226, 190, 128),
  (172, 82, 42),
  (196, 108, 58),
  (150, 146, 144),
  (206, 204, 200),
)
EYES: tuple[Color, ...] = ((92, 58, 34), (64, 42, 28), (84, 132, 168), (104, 140, 92), (128, 110, 62), (112, 138, 150))
CLOTHES: tuple[Color, ...] = (
  (46, 84, 128),
  (182, 62, 58),
  (62, 120, 98),
  (232, 176, 72),
  (98, 72, 128),
  (222, 216, 204),
  (60, 64, 76),
  (216, 124, 92),
  (96, 150, 170),
  (148, 164, 92),
  (206, 140, 158),
  (40, 44, 60),
)
WALLS: tuple[Color, ...] = (
  (202, 220, 222),
  (238, 222, 196),
  (206, 214, 190),
  (226, 204, 204),
  (188, 202, 224),
  (232, 214, 168),
  (168, 192, 186),
  (212, 202, 226),
  (184, 176, 168),
  (120, 148, 160),
)

MEN_HAIR = ('parted', 'quiff', 'short', 'curly', 'buzz', 'fringe', 'bald', 'waves')
WOMEN_HAIR = ('long', 'bob', 'bun', 'wavy', 'bangs', 'pony', 'curls', 'pixie', 'scarf')
BEARDS = ('', 'stubble', '', 'full', '', 'moustache', '', 'goatee')
GARMENTS = ('crew', 'shirt', 'vneck', 'hoodie', 'turtleneck', 'blazer')
PATTERNS = ('plain', 'stripes', 'dots', 'panels', 'window', 'shelf', 'bokeh', 'plain', 'diamonds', 'plant')


@dataclasses.dataclass(frozen=True)
class Identity:
  """One person. Colours are RGB 0 to 255."""

  number: int
  gender: str  # 'male' or 'female'
  shape: Shape
  skin: Color
  hair: Color
  hair_style: str
  brow: float  # thickness factor
  beard: str
  eyes: Color
  lips: Color
  makeup: float  # 0 to 1: lashes and lids
  freckles: bool
  mole: bool
  wrinkles: float
  glasses: str  # '', 'round', 'square' or 'thin'
  glasses_color: Color
  earrings: bool
  garment: str
  cloth: Color
  cloth_pattern: str
  wall: Color
  wall_pattern: str
  light: tuple[float, float]  # direction towards the light: x, y in [-1, 1]
  voice: str  # of talkjax.media.speech
  rate_wpm: int
  pitch: int

  @property
  def name(self) -> str:
    return f'p{self.number:02d}'


def identity(number: int, seed: int = 0) -> Identity:
  """Person `number` of a corpus made with `seed`."""
  rng = np.random.default_rng([seed, 1, number])
  # Cycles instead of random choices, so that every style and tone occurs and neighbours differ.
  kind, turn = number % 2, number // 2
  gender = ('female', 'male')[kind]
  man = gender == 'male'
  tone = int((turn * 7 + kind * 3 + rng.integers(0, 2)) % len(SKINS))
  style = MEN_HAIR[turn % len(MEN_HAIR)] if man else WOMEN_HAIR[turn % len(WOMEN_HAIR)]
  older = rng.random() < 0.22
  hair = HAIRS[int(rng.integers(0, 3 if tone >= 6 else 5 if tone >= 4 else 9))]
  if older or (man and style == 'bald' and rng.random() < 0.4):
    hair = HAIRS[int(rng.integers(9, 11))]
  skin = SKINS[tone]
  beard = BEARDS[(turn * 3 + turn // 8) % len(BEARDS)] if man else ''
  # Lips: a redder skin colour, with chroma well below that of the mouth's inside (faces/puppets.py).
  red = np.array([204, 112, 106]) if not man else np.array([186, 112, 100])
  if not man and rng.random() < 0.45:
    red = np.array([(200, 98, 104), (206, 104, 96), (190, 96, 116)][int(rng.integers(3))])
  lips = tuple(
    int(c) for c in (0.42 * np.array(skin) * (0.94, 0.82, 0.80) + 0.58 * red * (0.55 + 0.45 * skin[0] / 250))
  )
  eye_range = 2 if tone >= 5 else len(EYES)
  return Identity(
    number=number,
    gender=gender,
    shape=_shape(rng, man),
    skin=skin,
    hair=hair,
    hair_style=style,
    brow=float(rng.uniform(1.0, 1.45) if man else rng.uniform(0.65, 0.95)),
    beard=beard,
    eyes=EYES[int(rng.integers(0, eye_range))],
    lips=lips,
    makeup=0.0 if man else float(rng.uniform(0.3, 1.0)),
    freckles=bool(tone <= 3 and rng.random() < 0.3),
    mole=bool(rng.random() < 0.15),
    wrinkles=float(rng.uniform(0.6, 1.0) if older else rng.uniform(0.0, 0.3)),
    glasses=('round', 'square', 'thin')[int(rng.integers(3))] if rng.random() < 0.3 else '',
    glasses_color=((40, 36, 38), (120, 76, 44), (150, 120, 60), (60, 76, 110))[int(rng.integers(4))],
    earrings=bool(not man and rng.random() < 0.4),
    garment=GARMENTS[int(rng.integers(len(GARMENTS)))],
    cloth=CLOTHES[(number * 5 + int(rng.integers(2))) % len(CLOTHES)],
    cloth_pattern=('plain', 'plain', 'stripes', 'knit')[int(rng.integers(4))],
    wall=WALLS[(number * 3 + int(rng.integers(2))) % len(WALLS)],
    wall_pattern=PATTERNS[(number * 3 + number // 10) % len(PATTERNS)],
    light=(float(rng.choice([-1, 1]) * rng.uniform(0.25, 0.7)), float(rng.uniform(-0.75, -0.35))),
    voice='en-us+' + (f'm{1 + turn % 7}' if man else f'f{1 + turn % 5}'),
    rate_wpm=int(rng.integers(140, 176)),
    pitch=int(rng.integers(32, 62) if man else rng.integers(42, 72)),
  )


def _shape(rng: np.random.Generator, man: bool) -> Shape:
  between = lambda middle, deviation: float(middle + deviation * np.clip(rng.normal() / 2, -1, 1))  # noqa: E731
  return Shape(
    width=between(1.0 if man else 0.96, 0.07),
    jaw=between(1.04 if man else 0.92, 0.09),
    chin=between(0.8 if man else -0.6, 2.2),
    eye_size=between(1.06 if man else 1.16, 0.09),
    eye_height=between(0.98 if man else 1.08, 0.14),
    eye_spacing=between(0.0, 0.8),
    eye_tilt=between(0.0 if man else 0.3, 0.8),
    brow_height=between(-0.6 if man else 0.5, 1.1),
    brow_arch=between(0.9 if man else 1.15, 0.5),
    nose_width=between(1.06 if man else 0.9, 0.18),
    nose_length=between(0.4 if man else -0.4, 1.4),
    nose_depth=between(1.0, 0.2),
    mouth_width=between(1.04 if man else 1.0, 0.10),
    mouth_height=between(0.0, 0.8),
    smile=between(0.9, 0.7),
    upper_lip=between(0.82 if man else 1.1, 0.25),
    lower_lip=between(0.9 if man else 1.12, 0.2),
  )

"""EMO: Emote Portrait Alive (Tian et al., 2024): a portrait and a voice become a video of any length.

Stable Diffusion's U-Net with reference, audio and temporal attention generates clips, each continued from the last
frames of the one before. A region of the face and a speed of the head control its motion. No code was published.
"""

from talkjax.errors import UserError
from talkjax.options import Option
from talkjax.systems import System, portrait

OPTIONS = (
  *portrait.OPTIONS,
  Option(
    'speed', float, 'How fast the head turns, degrees per second.', key='speed.default', sweep=True, evaluate=True,
    minimum=0,
  ),
  Option('face_box', str, 'Where the face may be: x0,y0,x1,y1 as fractions of the square image.'),
  Option('motion_frames', bool, 'Whether clips continue from one another.', key='use_motion_frames', evaluate=True),
)  # fmt: skip
SOURCES = {}


def build(config) -> System:
  """The system of a config (see configs/emo.py)."""
  from talkjax.systems.emo import data, model

  if config.frames < config.motion_frames and config.frames > 1:
    raise UserError(
      f'config.frames={config.frames} is fewer than config.motion_frames={config.motion_frames}: a clip must provide '
      'the motion frames of the next one'
    )
  nets = model.make_networks(config)
  return portrait.build(
    config,
    modules=_modules,
    nets=nets,
    read=data.read,
    condition=model.condition,
    options=OPTIONS,
    oracle=('face region', 'head speed'),
  )


def _modules():
  """The modules that only generation needs, imported when the system first generates."""
  from talkjax.systems.emo import conditions, generation

  return conditions, generation

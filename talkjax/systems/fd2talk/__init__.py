"""FD2Talk: Towards Generalized Talking Head Generation with Facial Decoupled Diffusion Model (Yao et al., 2024).

Motion first, then pixels. Stage 1 learns to generate the expression and pose coefficients of a morphable model from
speech (sections 3.2 and 3.4.1), stage 2 the decoder that is given the portrait's latents too, and stage 3 a latent
diffusion U-Net that draws each frame from its coefficients and the portrait (sections 3.3 and 3.4.2). No code was
published.
"""

import importlib

from talkjax.errors import UserError
from talkjax.options import SAMPLER, Option
from talkjax.systems import System, portrait

OPTIONS = (
  *(option for option in portrait.OPTIONS if option.required),  # image and audio
  *SAMPLER,
  Option('pose', str, 'The head pose: predicted, still, or a video to take it from.', key='pose', evaluate=True),
  Option('motion', str, 'A file of motion to render, in place of generated motion (--save_motion).'),
  Option('save_motion', str, 'An .npz file for the motion, which can be edited and rendered with --motion.'),
  Option('mesh', bool, 'Show the mesh of each frame on the left of it.'),
  Option(
    'noise', str, 'What frames start from: one noise for the whole video, or one for each frame, which flickers.',
    key='sampler.noise', evaluate=True, choices=('video', 'frame'),
  ),
  Option('seed', int, 'Of the noise.', sweep=True),
)  # fmt: skip
SOURCES = {}
_STAGES = {1: 'motion', 2: 'decoder', 3: 'frames'}  # module of each stage, with `build(config) -> System`


def build(config) -> System:
  """The system of a stage (see configs/fd2talk.py).

  Raises:
    UserError: there is no such stage, or the config contradicts itself.
  """
  if config.stage not in _STAGES:
    raise UserError(f'config.stage={config.stage} is not one of {", ".join(map(str, _STAGES))}')
  return importlib.import_module(f'{__name__}.{_STAGES[config.stage]}').build(config)

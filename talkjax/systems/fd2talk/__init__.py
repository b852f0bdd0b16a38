"""FD2Talk: Towards Generalized Talking Head Generation with Facial Decoupled Diffusion Model (Yao et al., 2024).

Motion first, then pixels. Stage 1 learns to generate the expression and pose coefficients of a morphable model from
speech (sections 3.2 and 3.4.1), stage 2 the decoder that is given the portrait's latents too, and stage 3 a latent
diffusion U-Net that draws each frame from its coefficients and the portrait (sections 3.3 and 3.4.2). No code was
published.
"""

import importlib

from talkjax.errors import UserError
from talkjax.systems import System

OPTIONS = ()
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

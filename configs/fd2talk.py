"""FD2Talk. Sizes `paper`, `tiny`; stage 1 (motion).

python -m talkjax.train --config=configs/fd2talk.py:tiny,stage=1 --workdir=runs/fd_1
"""

import ml_collections

from configs import common

SIZES = ('paper', 'tiny')


def get_config(arg: str | None = None):
  size, stage, changes = common.parse_stage(arg, SIZES, tuple(_STAGES))
  c = common.base()
  c.system = 'fd2talk'
  c.stage = stage
  _STAGES[stage](c, size)
  return common.finish(c, changes)


def _motion(c: ml_collections.ConfigDict, size: str) -> None:
  """Stage 1: the expression and pose transformers (sections 3.2, 3.4.1 and 4.1)."""
  c.fps = 25.0
  c.frames = 25  # of a training clip, and of a window in generation
  c.audio = common.audio('wav2vec2' if size == 'paper' else 'speech_encoder')
  c.diffusion = dict(schedule='linear', steps=1000, start=1e-4, end=0.02, zero_snr=False)
  c.sampler = dict(name='ddim', steps=50, eta=0.0, spacing='trailing')


_STAGES = {1: _motion}

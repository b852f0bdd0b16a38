"""FD2Talk. Sizes `paper`, `tiny`; stage 1 (motion).

  python -m talkjax.train --config=configs/lip_expert.py:tiny --workdir=runs/lip_expert
  python -m talkjax.train --config=configs/fd2talk.py:tiny,stage=1 --workdir=runs/fd_1 \\
    --config.lip_expert=runs/lip_expert

Stage 1 learns the coefficients of a morphable model from speech. `paper` has the numbers of section 4.1 and reads those
of Deep3D (`talkjax.build --coefficients=deep3d:NETWORK,BFM`); `tiny` learns puppets on two CPU cores, with a model that
is fitted to their meshes, our own speech encoder and a narrower network of fewer layers.
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
  c.frames = 25  # of a training clip, and of a window in generation
  c.model = dict(width=512, layers=6, heads=8, radius=3)  # radius: k of the alignment mask, None for no mask
  c.morphable = common.morphable(size)
  c.audio = common.audio('wav2vec2', bands=80, columns=2)
  c.diffusion = dict(schedule='linear', steps=1000, start=1e-4, end=0.02, zero_snr=False)
  c.sampler = dict(name='ddim', steps=50, eta=1.0, spacing='trailing')  # eta: 0 is deterministic, 1 as noisy as DDPM
  # Factors of all noise in generation: 1 is the paper's; below, motion is nearer to what is most probable (ours).
  c.temperature = dict(expression=1.0, pose=1.0)
  # Generation: frames that two neighbouring windows share at least; windows at once on a device, which bounds memory.
  c.windows = dict(overlap=12, batch_size=64)
  # Weights of the losses of eq. 12. The lip expert is the workdir of configs/lip_expert.py; without it, set sync to 0.
  c.loss = dict(expression=1.0, pose=1.0, sync=0.05)
  c.lip_expert = ''
  c.expert = common.lip_expert(size)
  c.optimizer.learning_rate = 1e-4
  c.data.update(corpus='hdtf', workers=4, coefficients='deep3d')
  c.batch_size = 1
  c.steps = 500_000
  c.checkpoint_every = 5000
  if size == 'tiny':
    c.model.update(width=96, layers=4, heads=4)
    c.audio.kind = 'speech_encoder'
    c.sampler.update(steps=10, eta=0.0)
    c.temperature.expression = 0.0  # the coefficients of drawn faces are noisy
    c.optimizer.update(learning_rate=1.5e-3, schedule='cosine', warmup=50)
    c.data.update(corpus='puppets', workers=0, examples_per_record=4, coefficients='mesh_pca')
    c.batch_size = 32
    c.steps = 1500
    c.ema = 0.99
    c.checkpoint_every = 250


_STAGES = {1: _motion}

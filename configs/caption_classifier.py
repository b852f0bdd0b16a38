"""The joint noisy classifier of captions. Sizes `tiny`, `puppets`, `paper`, `gpu`, `pixels`, as of configs/joint_av.py.

  python -m talkjax.train --config=configs/caption_classifier.py:tiny --workdir=runs/captions

It guides the joint_av of the same size: --config.caption_classifier=runs/captions in training, or
--caption_classifier=runs/captions in generation.
"""

from configs import common, joint_av

SIZES = ('tiny', *(size for size in joint_av.SIZES if size != 'tiny'))


def get_config(arg: str | None = None):
  size, changes = common.parse(arg, SIZES)
  c = common.base()
  c.system = 'caption_classifier'
  c.captions = joint_av.CAPTIONS
  # "learning rate decay" (section V.B) is taken to be a cosine.
  c.optimizer.update(learning_rate=1e-3, weight_decay=0.05, schedule='cosine')
  if size in ('tiny', 'puppets'):
    joint_av.common_motion(c)
    c.model.update(width=96, blocks=2)
    c.diffusion = dict(schedule='cosine', steps=1000, start=None, end=None, zero_snr=False)
    c.optimizer.warmup = 20
    c.batch_size = 32
    c.steps = 400
    c.ema = 0.98
    c.checkpoint_every = 100
  else:
    joint_av.common_pixels(c, size)
    c.diffusion = dict(schedule='linear', steps=1000, start=1e-4, end=0.02, zero_snr=False)
    c.batch_size = 8
    c.steps = 300_000
    c.checkpoint_every = 5000
    if size == 'pixels':
      c.batch_size = 16
      c.steps = 300
      c.ema = 0.98
      c.checkpoint_every = 100
  return common.finish(c, changes)

"""Super-resolution of videos, with one noise for all frames of a clip. Sizes `paper`, `tiny`.

  python -m talkjax.build data/hdtf --manual_dir=HDTF
  python -m talkjax.train --config=configs/super_resolution.py --workdir=runs/super_resolution

  python -m talkjax.build data/puppets
  python -m talkjax.train --config=configs/super_resolution.py:tiny --workdir=runs/super_resolution_tiny

`paper` has the network and the sampler of MM-Diffusion's 64 to 256 pixels, which are guided-diffusion's; the published
weights (`convert --source=super_resolution`) generate, or are trained further with `--config.init_from`. `tiny` is not
from the papers: 64 to 128 pixels, a network that predicts the residual from bicubic interpolation, learned on crops. It
is convolutional throughout, so that frames may have any size.
"""

from configs import common

SIZES = ('paper', 'tiny')


def get_config(arg: str | None = None):
  size, changes = common.parse(arg, SIZES)
  c = common.base()
  c.system = 'super_resolution'
  c.size = 256  # of the large frames
  c.scale = 4  # large over small
  c.crop_size = 0  # side of the random crops of large frames that are learned from; 0: whole frames
  c.model = dict(
    width=192,
    multipliers=(1, 1, 2, 2, 4, 4),
    attention_downsamples=(8, 16, 32),
    num_res_blocks=2,
    head_channels=64,
    heads=(4, 4),  # of the encoder and the decoder; (): as many as head_channels says
    dropout=0.0,
    patch_size=1,
    noise_embedding='timestep',
    scale_shift=True,
    resize_blocks=True,
    learned_variance=True,
    skip=False,  # predict the residual from bicubic interpolation
  )
  c.diffusion = dict(schedule='linear', steps=1000, start=1e-4, end=0.02, zero_snr=False, target='epsilon')
  c.sampler = dict(name='ddim', steps=25, eta=0.0, spacing='leading')
  c.augment = dict(flip=0.5)  # the share of frames that are mirrored
  c.optimizer.learning_rate = 1e-4
  c.data.update(corpus='hdtf', workers=4)
  c.dtype = 'bfloat16'
  c.batch_size = 32
  c.steps = 300_000
  c.sample_every = 10_000
  c.checkpoint_every = 5000

  if size == 'tiny':
    c.size, c.scale, c.crop_size = 128, 2, 64
    c.model.update(
      width=64,
      multipliers=(1, 2),
      attention_downsamples=(),
      num_res_blocks=1,
      head_channels=32,
      heads=(),
      patch_size=4,
      noise_embedding='log_snr',
      learned_variance=False,
      skip=True,
    )
    c.diffusion.update(schedule='cosine', target='x0')
    c.sampler.update(steps=4, spacing='trailing')
    c.optimizer.update(learning_rate=1e-3, schedule='cosine', warmup=50)
    c.data.update(corpus='puppets', workers=0, examples_per_record=4)
    c.dtype = 'float32'
    c.ema = 0.99
    c.batch_size = 32
    c.steps = 2000
    c.sample_every = 500
    c.checkpoint_every = 250
  return common.finish(c, changes)

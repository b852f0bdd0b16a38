"""Speech Driven Video Editing via an Audio-Conditioned Diffusion Model. Sizes `paper`, `grid_s1`, `tiny`, `grid_small`.

  python -m talkjax.build data/crema_d --manual_dir=CREMA-D
  python -m talkjax.train --config=configs/speech_edit.py --workdir=runs/speech_edit --config.batch_size=160

  python -m talkjax.build data/puppets
  python -m talkjax.train --config=configs/speech_edit.py:tiny --workdir=runs/tiny

  python -m talkjax.build data/grid --manual_dir=GRID
  python -m talkjax.train --config=configs/speech_encoder.py:landmarks --workdir=runs/speech_encoder_grid
  python -m talkjax.train --config=configs/speech_edit.py:grid_small --workdir=runs/grid_small

`paper` and `grid_s1` are the columns of Table 1 of the paper (multi-speaker and single speaker). The table has 10 input
channels; the text and the published code have 9, as here. An epoch is one pass over all frames, so `steps` = epochs x
frames / batch. The published multi-speaker weights were trained with dropout 0.1 and 64 channels per head; `convert`
writes those settings. `tiny` and `grid_small` are not from the paper: 64 x 64 pixels, folded 4 x 4 into channels, and a
network that predicts the residual from the identity frame. Their lips move after minutes of training on two CPU cores.
"""

from configs import common

SIZES = ('paper', 'grid_s1', 'tiny', 'grid_small')


def get_config(arg: str | None = None):
  size, changes = common.parse(arg, SIZES)
  c = common.base()
  c.system = 'speech_edit'
  c.size = 128
  c.mask = 'published'  # the generated region: 'published' (jaw quadrilateral to the bottom) or 'rectangle'
  c.model = dict(
    width=64,
    multipliers=(1, 2, 3),
    attention_downsamples=(4,),  # 32 x 32
    num_res_blocks=2,
    head_channels=32,
    dropout=0.2,
    patch_size=1,
    noise_embedding='gamma',
    skip='',  # 'identity' or 'previous': predict the residual from that frame
  )
  c.diffusion = dict(schedule='cosine', steps=1000, start=1e-6, end=0.01, zero_snr=False, target='epsilon')
  c.sampler = dict(name='palette', steps=500, eta=0.0, spacing='trailing')
  c.audio = common.audio('mel', offset=0.0, scale=1.0)  # of 'mel' the network gets (dB + offset) * scale
  # Of the previous frame, see talkjax.systems.speech_edit.data.augment. The results of Table 2 are without; warping by
  # "small amounts" is what section 4.4 suggests against drift: --config.augment.warp=0.02 --config.augment.noise=0.05.
  c.augment = dict(warp=0.0, noise=0.0)
  c.optimizer.learning_rate = 5e-5
  c.data.corpus = 'crema_d'
  c.data.align = False  # records of grid, crema_d and clips/aligned are already aligned
  c.data.workers = 4
  c.data.mouth = 'landmarks'  # how scores measure the mouth: 'landmarks' of real faces, 'pixels' of drawn ones
  c.batch_size = 160  # 40 on each of 4 GPUs
  c.steps = 735 * 432_000 // 160
  c.sample_every = 10_000
  c.checkpoint_every = 5000

  if size == 'grid_s1':
    c.data.corpus = 'grid/s1'
    c.model.multipliers = (1, 2, 4, 8)
    c.model.attention_downsamples = ()
    c.diffusion.update(schedule='linear', steps=2000)
    c.batch_size = 40  # 10 on each of 4 GPUs
    c.steps = 2000 * 73_704 // 40
  elif size in ('tiny', 'grid_small'):
    c.size = 64
    c.model.update(
      width=64,
      multipliers=(1, 1, 2),
      attention_downsamples=(),
      num_res_blocks=1,
      head_channels=32,
      dropout=0.0,
      patch_size=4,
      noise_embedding='log_snr',
    )
    c.diffusion.target = 'x0'
    c.model.skip = 'identity'
    c.sampler.update(name='ddim', steps=2)
    c.augment.update(warp=0.06, noise=1.0)
    c.mask = 'rectangle'
    c.audio.update(kind='speech_encoder', offset=40.0, scale=0.025)
    c.optimizer.update(learning_rate=1e-3, schedule='cosine', warmup=50)
    c.data.update(examples_per_record=8, workers=0)
    c.ema = 0.99
    c.batch_size = 32
    c.steps = 1200
    c.sample_every = 600
    c.checkpoint_every = 300
    c.data.corpus, c.data.align, c.data.mouth = 'puppets', True, 'pixels'
    if size == 'grid_small':
      c.data.corpus, c.data.align, c.data.mouth = 'grid/s1', False, 'landmarks'
      c.mask = 'published'
      c.audio.weights = 'runs/speech_encoder_grid'  # that of the package knows synthetic voices only
      c.augment.update(warp=0.03, noise=0.15)
      c.data.examples_per_record = 4
      c.sampler.steps = 4
      c.steps = 1600
      c.ema = 0.999
      c.checkpoint_every = 500
      c.sample_every = 500
  return common.finish(c, changes)

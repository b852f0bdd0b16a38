"""Wav2Lip: lips that follow given speech, in any video or picture. Sizes `paper`, `tiny`.

  python -m talkjax.convert --source=wav2lip_syncnet --path=lipsync_expert.pth --output=runs/lipsync_expert
  python -m talkjax.train --config=configs/wav2lip.py --workdir=runs/wav2lip \\
    --config.pretrained.wav2lip_syncnet=runs/lipsync_expert

  python -m talkjax.build data/puppets
  python -m talkjax.train --config=configs/wav2lip.py:tiny --workdir=runs/wav2lip_tiny

`paper` has the published network and loss. Its authors train with `--config.loss.sync=0` and
`--config.loss.adversarial=0` until the expert's loss on held-out clips is below 0.75, and then with the weights here,
from the earlier workdir (`--config.init_from`); so can the published generator (`convert --source=wav2lip`) be trained
further. `tiny` is not from the paper: a U-Net for aligned faces of 64 pixels, folded 4 x 4, which learns puppets on two
CPU cores within minutes.
"""

from configs import common

SIZES = ('paper', 'tiny')


def get_config(arg: str | None = None):
  size, changes = common.parse(arg, SIZES)
  c = common.base()
  c.system = 'wav2lip'
  c.size = 96
  # The crop of a face: 'box', upright and stretched to a square, as a detector's boxes are in the published code;
  # 'aligned', a similarity that brings eyes and nose to fixed places.
  c.crop = 'box'
  # What is hidden of the frame: 'half', the crop's lower half, and the whole crop is generated; 'rectangle', from below
  # the nose to below the chin of an open mouth, and nothing else is generated.
  c.mask = 'half'
  # The frame that shows the face whole: 'own', the one whose mouth is generated; 'first', that of the video. In
  # training it is another one of the clip.
  c.reference = 'own'
  c.frames = 5  # consecutive ones of an example, which the expert sees together
  c.model = dict(kind='wav2lip')
  c.discriminator = dict(widths=(32, 64, 128, 256, 512, 512, 512))
  c.loss = dict(sync=0.03, adversarial=0.07)
  c.mouth_weight = 0.0  # added to the weight of pixels at the lips, in L1
  # Of the frames that the network is given; each amplitude is drawn uniformly from 0 up. `shrink`: lost resolution, 0.5
  # for half; `noise`: standard deviation in units of [-1, 1]; `shift`: of a crop, as a fraction of its side.
  c.augment = dict(shrink=0.0, noise=0.0, shift=0.0)
  c.audio = common.audio('mel')
  c.pretrained.wav2lip_syncnet = ''
  c.init_new = ('^discriminator/', '^expert/')
  c.train = (('/running_(mean|var)$', False), ('.*', True))
  c.optimizer.update(learning_rate=1e-4, b1=0.5)
  c.data.update(corpus='hdtf', workers=4, mouth='landmarks')
  c.batch_size = 80
  c.steps = 200_000
  c.sample_every = 10_000
  c.checkpoint_every = 3000

  if size == 'tiny':
    c.size = 64
    c.crop, c.mask, c.reference, c.frames = 'aligned', 'rectangle', 'first', 1
    c.model = dict(
      kind='unet', width=64, multipliers=(1, 1, 2), num_res_blocks=1, head_channels=32, dropout=0.0, patch_size=4
    )
    c.train = (('.*', True),)
    c.loss.update(sync=0.0, adversarial=0.0)
    c.mouth_weight = 3.0
    c.augment.update(shrink=0.5, noise=0.03, shift=0.02)
    c.audio.kind = 'speech_encoder'
    c.optimizer.update(learning_rate=1e-3, b1=0.9, schedule='cosine', warmup=50)
    c.data.update(corpus='puppets', workers=0, mouth='pixels', examples_per_record=2)
    c.ema = 0.99
    c.batch_size = 16
    c.steps = 1200
    c.sample_every = 600
    c.checkpoint_every = 200
  return common.finish(c, changes)

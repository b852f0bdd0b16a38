"""A speech encoder of our own, the embedded stand-in for wav2vec 2.0. Sizes `tiny`, `landmarks`.

  python -m talkjax.build data/puppets
  python -m talkjax.train --config=configs/speech_encoder.py:tiny --workdir=runs/speech_encoder

  python -m talkjax.train --config=configs/speech_encoder.py:landmarks --workdir=runs/speech_encoder_grid \\
    --config.data.corpus=grid/s1

It learns from sound how a mouth moves: `tiny` the mouth opening and the articulation coefficients of puppets,
`landmarks` opening, width and protrusion of filmed mouths, normalised per clip. Other systems are then conditioned on
its frozen features (config.audio.kind=speech_encoder).
"""

from configs import common

SIZES = ('tiny', 'landmarks')


def get_config(arg: str | None = None):
  size, changes = common.parse(arg, SIZES)
  c = common.base()
  c.system = 'speech_encoder'
  c.bands = 80
  c.frames = 50  # of a training segment, 25 per second; the sound around it is read too
  c.model = dict(width=128, dilations=(1, 2, 4, 8, 4))
  # Names of the corpus's first expression coefficients, which are predicted with the opening.
  c.coefficients = ('jaw', 'wide', 'round', 'closed', 'teeth', 'tongue')
  c.per_clip = False  # predict measures of landmarks alone, normalised to mean 0 and deviation 1 in every clip
  # Largest change of speed (a factor) and gain (dB), share of examples with noise, and its range of SNR (dB).
  c.augment = dict(speed=0.15, gain=12.0, noise=0.5, snr=(5.0, 40.0))
  c.optimizer.update(learning_rate=5e-3, schedule='cosine', warmup=50, weight_decay=0.01)
  c.data.examples_per_record = 4
  c.batch_size = 16
  c.steps = 1200  # the weights that come with the package have 2,500: launch/speech_encoder.sh
  c.ema = 0.99
  c.checkpoint_every = 500
  c.pretrained = {}
  if size == 'landmarks':
    c.data.corpus = 'grid/s1'
    c.per_clip = True
    c.coefficients = ()
    c.steps = 2500
  return common.finish(c, changes)

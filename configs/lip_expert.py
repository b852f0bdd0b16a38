"""A lip expert: whether the motion of a mouth belongs to a sound. Sizes `tiny`, `paper`.

  python -m talkjax.train --config=configs/lip_expert.py:tiny --workdir=runs/lip_expert

It is trained on the coefficients of a morphable model (config.data.coefficients; those of mesh_pca are computed when
training first needs them), and frozen in the synchronisation loss of fd2talk (--config.lip_expert=runs/lip_expert).
`tiny` learns puppets on two CPU cores, from the features of our own speech encoder; `paper` is for filmed faces and
wav2vec 2.0.
"""

from configs import common

SIZES = ('tiny', 'paper')


def get_config(arg: str | None = None):
  size, changes = common.parse(arg, SIZES)
  c = common.base()
  c.system = 'lip_expert'
  c.model = common.lip_expert(size)
  c.morphable = common.morphable(size)
  c.audio = common.audio('speech_encoder', bands=80, columns=4)
  c.optimizer.update(learning_rate=1e-3, schedule='cosine', warmup=50, weight_decay=0.01)
  c.data.update(examples_per_record=16, coefficients='mesh_pca')
  c.batch_size = 128
  c.steps = 2000
  c.ema = 0.99
  c.checkpoint_every = 500
  if size == 'paper':
    c.audio.kind = 'wav2vec2'
    c.data.update(corpus='hdtf/fd2talk', workers=4, coefficients='deep3d')
    c.optimizer.update(learning_rate=1e-4, schedule='constant', weight_decay=0.0)
    c.batch_size = 64
    c.steps = 200_000
    c.ema = 0.9999
    c.checkpoint_every = 5000
  return common.finish(c, changes)

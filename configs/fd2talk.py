"""FD2Talk. Sizes `paper`, `tiny`; stages 1 (motion), 2 (decoder).

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


def _decoder(c: ml_collections.ConfigDict, size: str) -> None:
  """Stage 2: the autoencoder, whose decoder is given the portrait's latents too (section 3.4.2)."""
  # The networks of stage 1, which this stage passes on: keys as there, which must be those that it was trained with.
  first = common.base()
  _motion(first, size)
  c.first_stage = {key: first[key] for key in ('frames', 'model')}
  c.audio, c.morphable = first.audio, first.morphable
  c.init_new = ('^autoencoder/', '^lpips/')
  c.init_ignored = '^lip_expert/'  # of stage 1, which only its loss needs
  c.size = 256
  # The first level of VQGAN as latent diffusion publishes it; see configs/autoencoder.py.
  c.latents = dict(
    kind='vae', widths=(128, 256, 512), latent_channels=3, layers=2, groups=32, scaling=1.0, attention=(),
    middle_attention=True, folding=1, shortcut=False, inner_channels=0, codebook=8192, decoded=2,
  )  # fmt: skip
  # Weights of the terms, see talkjax.systems.reconstruction: `l2` is eq. 13, `features` eq. 14.
  c.loss = dict(
    l1=0.0, l2=1.0, gradient=0.0, lpips=0.0, features=1.0, kl=0.0, deviation=0.0, codebook=0.25, commitment=1.0
  )
  c.lpips = 'alex'
  c.augment = dict(scale=(0.5, 1.0), whole=0.5, face=0.5, flip=0.5)
  c.optimizer.update(learning_rate=4.5e-6, b1=0.5, b2=0.9)
  c.data.update(corpus='hdtf:2,vfhq:1', workers=4, examples_per_record=2)
  c.batch_size = 16
  c.steps = 50_000
  c.ema = 0.999
  c.checkpoint_every = 5000
  # The reference's part of the first convolution is new; to substitute the whole of it, as the paper does, ignore
  # '^decoder/conv_in/' too.
  new = '^decoder/conv_in_reference/'
  c.pretrained = dict(vqgan='', lpips='')
  c.load = (('vqgan', 'autoencoder', '', new), ('lpips', 'lpips', '', ''))
  if size == 'tiny':
    c.size = 64
    c.latents.update(common.packaged_latents('puppets_autoencoder'))
    # Without the weights of LPIPS, the differences of neighbouring pixels stand in for its features.
    c.loss.update(l1=1.0, l2=0.0, gradient=1.0, features=0.0, kl=1e-4, deviation=0.01, codebook=0.0, commitment=0.0)
    c.augment.update(scale=(0.375, 1.0))
    c.optimizer.update(learning_rate=5e-4, b1=0.9, b2=0.99, schedule='cosine', warmup=50)
    c.data.update(corpus='puppets', workers=0)
    c.batch_size = 8
    c.steps = 800
    c.checkpoint_every = 200
    c.pretrained = dict(autoencoder='puppets_autoencoder')
    c.load = (('autoencoder', 'autoencoder', '', new),)


_STAGES = {1: _motion, 2: _decoder}

"""Autoencoders: the latent spaces that other systems diffuse in. Sizes `tiny`, `vq_f4`, `kl_f8`.

  python -m talkjax.build data/puppets
  python -m talkjax.train --config=configs/autoencoder.py:tiny --workdir=runs/autoencoder

  python -m talkjax.train --config=configs/autoencoder.py:vq_f4 --workdir=runs/vq_f4 \\
    --config.pretrained.vqgan=runs/vqgan --config.pretrained.lpips=runs/lpips

  python -m talkjax.train --config=configs/autoencoder.py:vq_f4,loss.adversarial=0.75 --workdir=runs/vq_f4_sharp \\
    --config.init_from=runs/vq_f4

`tiny` is a small KL autoencoder of puppets: 64 x 64 pixels become 16 x 16 x 8 latents of about mean 0 and standard
deviation 1. `vq_f4` has the layout of VQGAN as latent diffusion publishes it (FD2Talk's), `kl_f8` that of Stable
Diffusion; both fine-tune imported weights, or start from scratch with config.pretrained.NAME=random. The discriminator
joins in a later run, after as many steps as the first has. Without the weights of LPIPS, train with loss.lpips=0.
"""

from configs import common

SIZES = ('tiny', 'vq_f4', 'kl_f8')


def get_config(arg: str | None = None):
  size, changes = common.parse(arg, SIZES)
  c = common.base()
  c.system = 'autoencoder'
  c.size = 256  # of training images; the network takes any multiple of its factor
  # Fields of talkjax.nn.autoencoder.Autoencoder.
  c.latents = dict(
    kind='vae',
    widths=(128, 256, 512, 512),
    latent_channels=4,
    layers=2,
    groups=32,
    scaling=0.18215,
    attention=(),
    middle_attention=True,
    folding=1,
    shortcut=False,
    inner_channels=0,
    codebook=0,
  )
  # Weights of the terms, see talkjax.systems.reconstruction. 0: not computed.
  c.loss = dict(
    l1=1.0,
    l2=0.0,
    gradient=0.0,  # L1 of the differences of neighbouring pixels
    lpips=1.0,  # needs pretrained.lpips
    kl=1e-6,
    deviation=0.0,  # that latents have mean 0 and standard deviation 1, so that they need no scaling (ours)
    codebook=0.0,
    commitment=0.0,
    adversarial=0.0,  # with a discriminator
  )
  c.lpips = 'vgg'  # or 'alex': the trunk
  c.discriminator = dict(width=64, layers=3)
  # Crops: the range of their side over the frame's, the share of whole frames, of the rest the share that are centred
  # near the face, and the share that are mirrored.
  c.augment = dict(scale=(0.5, 1.0), whole=0.25, face=0.5, flip=0.5)
  c.optimizer.update(learning_rate=4.5e-6, b1=0.5, b2=0.9, clip=0.0)
  c.data.update(corpus='hdtf:2,vfhq:1', examples_per_record=2, workers=4)
  c.batch_size = 16
  c.steps = 100_000
  c.sample_every = 5000
  c.checkpoint_every = 5000
  c.ema = 0.999
  c.dtype = 'bfloat16'
  c.init_new = ('^discriminator/',)
  c.pretrained = dict(sd_vae='', lpips='')
  c.load = (('sd_vae', 'autoencoder', '', ''), ('lpips', 'lpips', '', ''))
  if size == 'vq_f4':
    c.latents.update(widths=(128, 256, 512), latent_channels=3, scaling=1.0, codebook=8192)
    # The published quantiser weights commitment by 1 and the codebook by 0.25 ("legacy").
    c.loss.update(kl=0.0, codebook=0.25, commitment=1.0)
    c.pretrained = dict(vqgan='', lpips='')
    c.load = (('vqgan', 'autoencoder', '', ''), ('lpips', 'lpips', '', ''))
  if size == 'tiny':
    c.size = 64
    c.latents.update(
      widths=(48, 96),
      latent_channels=8,
      layers=1,
      groups=8,
      scaling=1.0,
      middle_attention=False,
      folding=2,
      shortcut=True,
    )
    c.loss.update(l1=1.0, gradient=1.0, lpips=0.0, kl=1e-4, deviation=0.01)
    c.augment.update(scale=(0.375, 1.0), whole=0.35)
    c.batch_size = 8
    c.optimizer.update(learning_rate=1e-3, b1=0.9, b2=0.99, clip=1.0, schedule='cosine', warmup=100)
    c.data.update(corpus='puppets', workers=0)
    c.steps = 6000
    c.sample_every = 500
    c.checkpoint_every = 250
    c.dtype = 'float32'
    c.pretrained, c.load = {}, ()
  c = common.finish(c, changes)
  if not c.loss.lpips:
    c.load = tuple(entry for entry in c.load if entry[0] != 'lpips')
  return c

"""FD2Talk. Sizes `paper`, `tiny`, `puppets`; stages 1 (motion), 2 (decoder), 3 (frames).

  python -m talkjax.train --config=configs/lip_expert.py:tiny --workdir=runs/lip_expert
  python -m talkjax.train --config=configs/fd2talk.py:tiny,stage=1 --workdir=runs/fd_1 \\
    --config.lip_expert=runs/lip_expert
  python -m talkjax.train --config=configs/fd2talk.py:tiny,stage=2 --workdir=runs/fd_2 --config.init_from=runs/fd_1
  python -m talkjax.train --config=configs/fd2talk.py:tiny,stage=3 --workdir=runs/fd_3 --config.init_from=runs/fd_2

Stage 1 learns the coefficients of a morphable model from speech. `paper` has the numbers of section 4.1 and reads those
of Deep3D (`talkjax.build --coefficients=deep3d:NETWORK,BFM`), of corpora that are split 70/10/20 (`talkjax.build
--config=fd2talk`); `tiny` learns puppets on two CPU cores, with a model that
is fitted to their meshes, our own speech encoder and a narrower network of fewer layers. `puppets` has finer frames,
trained for longer; its first two stages are those of `tiny`.

Stage 3 learns to draw a frame from its coefficients and a portrait. Its workdir has all that generation needs. Its
`tiny` folds pixels into channels in place of an autoencoder, so that it can start from stage 1 too.
"""

import ml_collections

from configs import common

SIZES = ('paper', 'tiny', 'puppets')


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
  c.data.update(corpus='hdtf/fd2talk', workers=4, coefficients='deep3d')
  c.batch_size = 1
  c.steps = 500_000
  c.checkpoint_every = 5000
  if size != 'paper':
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
  c.data.update(corpus='hdtf/fd2talk:2,vfhq/fd2talk:1', workers=4, examples_per_record=2)
  c.batch_size = 16
  c.steps = 50_000
  c.ema = 0.999
  c.checkpoint_every = 5000
  # The reference's part of the first convolution is new; to substitute the whole of it, as the paper does, ignore
  # '^decoder/conv_in/' too.
  new = '^decoder/conv_in_reference/'
  c.pretrained = dict(vqgan='', lpips='')
  c.load = (('vqgan', 'autoencoder', '', new), ('lpips', 'lpips', '', ''))
  if size != 'paper':
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


def _frames(c: ml_collections.ConfigDict, size: str) -> None:
  """Stage 3: the latent diffusion U-Net (sections 3.3, 3.4.2 and 4.1)."""
  # The networks of stage 1, which generation needs: keys as there, which must be those that it was trained with.
  first = common.base()
  _motion(first, size)
  c.first_stage = {k: first[k] for k in ('frames', 'model', 'diffusion', 'sampler', 'temperature', 'windows')}
  c.audio, c.morphable = first.audio, first.morphable
  c.fps = 25.0
  c.size = 256
  # The expression that frames are learned from: 'predicted' by stage 1, or 'true'. The pose is the true one.
  c.motion = 'predicted'
  c.framing = 0.0  # side of the square around the portrait's face, in longer sides of that; 0: the whole picture
  c.clip = 25  # frames of a clip, whose first one is the portrait; 0: to the end of the video
  # Of the latent space, see configs/autoencoder.py: 'vae', or 'fold' without an autoencoder.
  c.latents = dict(
    kind='vae', widths=(128, 256, 512), latent_channels=3, layers=2, groups=32, scaling=1.0, attention=(),
    middle_attention=True, folding=1, shortcut=False, inner_channels=0, codebook=8192, decoded=2,
  )  # fmt: skip
  # The paper gives no sizes; these are those of latent diffusion on faces of 256 pixels in the same latent space.
  c.model = dict(
    widths=(224, 448, 672, 896),
    attention=(False, True, True, True),
    layers=2,
    heads=(7, 14, 21, 28),
    groups=32,
    context=512,  # channels of the motion token and of the portrait's tokens
    joint=False,  # one attention reads both conditions, concatenated (the ablation of section 4.5.2)
    guider=(16, 32, 96),  # widths of the encoder of `aids.face_map`
  )
  # What small networks are helped with (ours), see talkjax/systems/fd2talk/guide.py.
  c.aids = dict(
    # 'overlay': the portrait is laid over the face that is asked for, and the residual from it is predicted; 'flow':
    # the network predicts how it is moved further, too; 'none': neither.
    reference='none',
    face_map=False,  # a drawing of mouth, eyes, brows, nose and jaw is added to the first features
    modulation=False,  # the coefficients scale and shift the features of residual blocks
    hidden_mouth=0.0,  # share of noisier training examples whose mouth is replaced by noise
  )
  c.mouth_weight = 1.0  # of the loss in twice the lips' box
  c.diffusion = dict(
    schedule='linear', steps=1000, start=1e-4, end=0.02, zero_snr=False, target='x0', min_snr=0.0, noise_offset=0.0,
    huber=0.0,  # c of the pseudo-Huber loss in place of the squared one, which blurs (ours); 0: the squared error
  )  # fmt: skip
  # noise: 'video', every frame of a video starts from the same noise; 'frame', each from its own.
  c.sampler = dict(name='ddim', steps=50, eta=0.0, spacing='trailing', clip=0.0, noise='video')
  c.frames_at_once = 8  # generated together on a device, which bounds memory
  c.pose = 'predicted'  # of generated videos: 'predicted', 'still', or a video
  c.optimizer.learning_rate = 1e-4
  # Corpora without sound (vfhq) train on true expressions; `first_frames` is the share of clips from the first frame.
  c.data.update(
    corpus='hdtf/fd2talk:2,vfhq/fd2talk:1', workers=4, feature_cache='', mouth='landmarks', first_frames=0.0
  )
  c.data.coefficients = first.data.coefficients
  c.train = (('^frames/', True), ('.*', False))
  c.init_new = ('^frames/',)
  # What earlier stages have and generation does not need: the networks of their losses.
  c.init_ignored = '^(lip_expert|lpips|discriminator)/'
  c.batch_size = 32
  c.steps = 400_000
  c.checkpoint_every = 5000
  c.sample_every = 10_000
  if size != 'paper':
    c.size, c.framing = 64, 1.5
    c.clip = 0
    c.motion = 'true'
    c.latents = dict(kind='fold', patch=4)
    c.init_ignored += '|^autoencoder/'
    c.model.update(
      widths=(48, 64), attention=(False, True), layers=1, heads=(4, 4), groups=8, context=48, guider=(8, 16, 32)
    )
    c.aids.update(reference='overlay', face_map=True, modulation=True, hidden_mouth=1.0)
    c.mouth_weight = 16.0
    c.diffusion.update(schedule='log_snr', start=4.0, end=-8.0)
    c.sampler.update(steps=1, clip=1.0)  # more steps do not change the scores
    c.frames_at_once = 32
    c.optimizer.update(learning_rate=1.5e-3, schedule='cosine', warmup=30)
    c.data.update(corpus='puppets', workers=0, examples_per_record=4, mouth='found', first_frames=0.5)
    c.ema = 0.99
    c.batch_size = 16
    c.steps = 2400
    c.checkpoint_every = 100
    c.sample_every = 300
  if size == 'puppets':
    c.latents.patch = 2
    c.model.update(widths=(24, 48, 64), attention=(False, False, True), heads=(4, 4, 4))
    c.aids.reference = 'flow'
    c.mouth_weight = 8.0
    c.diffusion.huber = 0.01
    c.ema = 0.998
    c.steps = 3000


_STAGES = {1: _motion, 2: _decoder, 3: _frames}

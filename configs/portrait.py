"""What the configs of portrait systems (emo, vexpress) share.

Sizes: `paper` is 512 x 512 in Stable Diffusion 1.5's latents. `tiny` is 64 x 64 puppets, folded 4 x 4 into channels in
place of an autoencoder, which two CPU cores train in minutes; `puppets` is the same, folded 2 x 2 and trained for
longer. `grid_small` is `puppets` on real faces, those of GRID's speaker 1, conditioned on a speech encoder that learns
from the same clips (configs/speech_encoder.py:landmarks). `small` learns 128 x 128 from scratch on one GPU.
`config.aids` has what these small networks are helped with.
A later stage starts from the earlier one's workdir: what it adds is initialised, everything else must fit.
"""

import ml_collections

from configs import common

SIZES = ('paper', 'tiny', 'puppets', 'grid_small', 'small')


def base(stage: int) -> ml_collections.ConfigDict:
  """The settings of both systems at size `paper`."""
  c = common.base()
  c.size = 512
  c.framing = 0.0  # side of the square around the portrait's face, in longer sides of that; 0: the whole picture
  c.frames = 1 if stage == 1 else 12  # of a training clip
  c.margin = 2  # neighbouring frames on each side whose audio features a frame is conditioned on
  # 'vae', or 'fold': patches of pixels as channels.
  c.latents = dict(kind='vae', widths=(128, 256, 512, 512), scaling=0.18215, patch=4)
  c.model = dict(
    widths=(320, 640, 1280, 1280),
    attention=(True, True, True, False),
    layers=2,
    heads=8,
    groups=32,
    zero_contexts=True,  # audio, reference and speed attention are zero-initialised
    temporal_layers=2,  # temporal attentions in each block
    context=768,  # channels of audio tokens, and of Stable Diffusion's text
  )
  # As in the papers, from the stage with audio on. Columns of a log-mel spectrogram ('mel') need no weights.
  c.audio = common.audio('none' if stage == 1 else 'wav2vec2', bands=80, columns=2)
  c.diffusion = dict(
    schedule='scaled_linear',
    steps=1000,
    start=0.00085,
    end=0.012,
    zero_snr=False,
    target='epsilon',
    min_snr=0.0,
    noise_offset=0.0,
    huber=0.0,  # c of the pseudo-Huber loss in place of the squared one, which blurs (ours); 0: the squared error
  )
  c.sampler = dict(name='ddim', steps=40, eta=0.0, spacing='trailing', clip=0.0)
  c.guidance = 3.5
  c.context_scales = dict(reference=1.0, audio=1.0)  # factors of the attention outputs at generation
  c.mouth_weight = 1.0  # of the loss in twice the lips' box
  c.augment = dict()
  # What small networks are helped with (ours); docs/experiments.md has what each brings.
  c.aids = dict(
    # How the portrait is shown, besides by attention ('none'): 'concatenated', and the residual from it is diffused; so
    # is an 'overlay', the portrait laid over the face that is asked for, whose residual it is then; and with 'flow'
    # the network predicts how that is moved further.
    reference='none',
    prior=0.0,  # preconditioning: variance of x0 for which the posterior mean is added to the prediction of x0
    # The audio features scale and shift those of residual blocks (FiLM), and so does how a face has turned that the
    # portrait is laid over.
    modulation=False,
    hidden_mouth=0.0,  # share of noisier training examples whose mouth is replaced by noise
  )
  c.optimizer.learning_rate = 1e-5
  c.data.corpus = 'hdtf'
  c.data.workers = 4
  c.data.mouth = 'landmarks'  # how scores measure the mouth opening, see metrics.suites.mouth_opening
  # A folder in that of the corpus, or a path, with what `talkjax.build --latents= --speech=` precomputed. Training
  # reads latents there in place of running the autoencoder at every step; generation never does. '': it runs.
  c.data.feature_cache = ''
  # Largest distance in frames of the portrait from its clip, or of what it is laid over where a clip has no motion
  # frames; 0: anywhere in the video.
  c.data.reference_within = 0
  c.dtype = 'bfloat16'
  c.remat = True
  c.sample_every = 10_000
  c.checkpoint_every = 5000
  c.pretrained = dict(sd15='', sd_vae='', animatediff='')
  c.load = LOAD[stage]
  return c


# What each stage of `paper` loads of pretrained networks. The text attention is not used.
LOAD = {
  1: (
    ('sd15', 'backbone', 'transformer_blocks_0/(attn2|norm2)', 'transformer_blocks_0/(attn1_5|norm1_5)'),
    ('sd15', 'reference', '^conv_(norm_)?out', ''),
    ('sd_vae', 'autoencoder', '', ''),
  ),
  2: (('animatediff', 'backbone', '', '^(?!.*motion_modules)'),),
  3: (),
}


def finish(c: ml_collections.ConfigDict, size: str, stage: int, changes: dict) -> ml_collections.ConfigDict:
  """`common.finish`; with `latents.kind=vae`, small sizes diffuse in the latents of puppets_autoencoder."""
  c = common.finish(c, changes)
  if size != 'paper' and c.latents.kind == 'vae':
    c.latents.update(common.packaged_latents('puppets_autoencoder'))
    if 'aids.reference' not in changes:  # a flow moves pixels
      c.aids.reference = 'overlay'
    if stage == 1:
      c.pretrained = dict(autoencoder='puppets_autoencoder')
      c.load = (('autoencoder', 'autoencoder', '', ''),)
  return c


def from_scratch(c: ml_collections.ConfigDict, size: str, stage: int) -> None:
  """The changes of the other sizes, which learn from scratch; docs/experiments.md has what each setting gave."""
  c.pretrained, c.load = {}, ()
  c.latents.kind = 'fold'
  c.dtype, c.remat = 'float32', False
  c.diffusion.update(
    schedule='log_snr',
    start=4.0,
    end=-8.0,
    zero_snr=False,
    target='x0',
    min_snr=0.0,
    noise_offset=0.0,
    huber=0.05,
  )
  c.aids.update(reference='flow', prior=0.03, modulation=True, hidden_mouth=1.0)
  c.audio.kind = 'mel'
  c.mouth_weight = 20.0
  # Fresh noise at every step: what a small network gets wrong in one is not taken for signal in the next. Few steps,
  # as the network is least accurate at low noise levels.
  c.sampler.update(name='ddpm', steps=2)
  c.optimizer.update(learning_rate=5e-4 if size == 'small' else 1e-3, schedule='cosine', warmup=50)
  c.guidance = 1.0
  c.ema = 0.995
  if size == 'small':
    c.size = 128
    c.model.update(widths=(128, 256, 512), attention=(False, True, True), context=256)
    c.data.update(corpus='clips', examples_per_record=1)
    c.batch_size = 64 if stage == 1 else 8
    return
  c.size, c.framing = 64, 1.5
  c.audio.kind = 'speech_encoder'
  c.frames = 1 if stage == 1 else 8
  c.model.update(
    widths=(64, 96),
    attention=(False, True),
    groups=8,
    temporal_layers=1,
    zero_contexts=False,
    layers=1,
    heads=4,
    context=64,
    audio_tokens=2,
  )
  c.data.update(corpus='puppets', examples_per_record=4 if stage == 1 else 1, workers=0, mouth='found')
  c.batch_size = 16 if stage == 1 else 4
  c.steps = {1: 1800, 2: 700, 3: 700}[stage]
  c.sample_every = 200
  c.checkpoint_every = 100
  if size != 'tiny':
    c.latents.patch = 2
    c.model.update(widths=(32, 64, 96), attention=(False, False, True))
    c.mouth_weight = 10.0
    c.ema = 0.998
  if size == 'grid_small':
    c.data.update(corpus='grid/s1', mouth='landmarks')
    if stage == 1:
      c.audio.weights = 'runs/speech_encoder_grid'  # that of the package knows synthetic voices only

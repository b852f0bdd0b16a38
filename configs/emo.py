"""EMO: Emote Portrait Alive. Sizes `paper`, `tiny`, `small`; stages 1 (images), 2 (video and sound), 3 (speed).

  python -m talkjax.train --config=configs/emo.py:paper,stage=1 --workdir=runs/emo_1
  python -m talkjax.train --config=configs/emo.py:paper,stage=2 --workdir=runs/emo_2 --config.init_from=runs/emo_1
  python -m talkjax.train --config=configs/emo.py:paper,stage=3 --workdir=runs/emo_3 --config.init_from=runs/emo_2

  python -m talkjax.train --config=configs/emo.py:tiny,stage=1 --workdir=runs/emo_tiny_1

`paper` is 512 x 512 in Stable Diffusion 1.5's latents, with the numbers of section 4.1. `tiny` is 64 x 64 puppets,
folded 4 x 4 into channels instead of an autoencoder, for two CPU cores; `small` learns 128 x 128 from scratch on one
GPU. Both see the portrait beside the noise and learn what changes from it, lest they have to learn to copy it first. A
later stage starts from the earlier one's workdir: what it adds is new, all else must fit.
"""

from configs import common

SIZES = ('paper', 'tiny', 'small')


def get_config(arg: str | None = None):
  size, changes = common.parse(arg, SIZES)
  stage = changes.pop('stage', 1)
  if stage not in (1, 2, 3):
    raise ValueError(f'stage={stage} is not one of 1, 2, 3')
  c = common.base()
  c.system = 'emo'
  c.size = 512
  c.frames = 1 if stage == 1 else 12  # of a clip
  c.motion_frames = 4
  c.use_motion_frames = True  # at generation; without them every clip begins anew
  c.margin = 2  # frames heard on each side
  # 'vae', or 'fold'; where `change` is not 0, what is learned is the change from the portrait's latents, times this.
  c.latents = dict(kind='vae', widths=(128, 256, 512, 512), scaling=0.18215, patch=4, change=0.0)
  c.model = dict(
    widths=(320, 640, 1280, 1280),
    attention=(True, True, True, False),
    layers=2,
    heads=8,
    groups=32,
    zero_contexts=True,  # sound, reference and speed start as nothing
    modulated=False,  # sound also scales and shifts the residual blocks' features (ours)
    locator=(16, 32, 96, 256),
    max_frames=24,  # of the temporal layers, motion frames included
    temporal_middle=False,
    temporal_layers=2,  # attentions over time in each
    context=768,  # channels of sound tokens, and of Stable Diffusion's text
    audio_tokens=32,
    audio_hidden=512,
    speed_features=256,
  )
  # What a frame hears: 'wav2vec2' (with foundations.wav2vec2), which wants `context` frames more on each side; 'mel',
  # columns of a log-mel spectrogram, the default that needs no weights; nothing ('none': stage 1 learns from silence).
  c.audio = dict(kind='none' if stage == 1 else 'mel', bands=80, columns=2, context=0, encoder={})
  if stage > 1 and changes.get('audio.kind') == 'wav2vec2':
    c.audio.context = 12
  c.speed = dict(
    learned=stage == 3,
    default=15.0,  # of generation, degrees/s
    centres=(0.0, 7.5, 15.0, 22.5, 30.0, 45.0, 60.0, 90.0, 120.0),
    radii=(7.5, 7.5, 7.5, 7.5, 10.0, 15.0, 20.0, 30.0, 30.0),
  )
  c.diffusion = dict(
    schedule='scaled_linear',
    steps=1000,
    start=0.00085,
    end=0.012,
    zero_snr=False,
    target='epsilon',
    prior=0.0,  # variance of what is diffused, for small networks that predict x0 (see model.predict)
    min_snr=0.0,
  )
  c.sampler = dict(name='ddim', steps=40, eta=0.0, spacing='leading', clip=0.0)
  c.guidance = 3.5
  c.weights = dict(reference=1.0, audio=1.0)  # of the attentions' outputs at generation
  c.drop = dict(all=0.05, motion=0.1)  # shares of examples without conditions, without motion frames
  c.mouth_weight = 1.0  # of the loss in twice the lips' box (ours; V-Express has 100)
  # Largest standard deviation; most frames on either side whose faces count for the region too; share of examples whose
  # mouth is all noise, to be painted from sound (all ours; 0 in the paper but for the first).
  c.augment = dict(motion_noise=0.1, region_frames=0, hidden_mouth=0.0)
  c.optimizer.learning_rate = 1e-5
  c.data.corpus = 'hdtf'
  c.data.workers = 4
  c.data.mouth = 'landmarks'
  c.data.encoded = ''  # see configs/common.py
  c.data.reference_within = 0  # frames from the clip, for the portrait of an example; 0: anywhere in the video
  c.batch_size = 48 if stage == 1 else 4
  c.steps = 200_000 if stage == 1 else 100_000
  c.dtype = 'bfloat16'
  c.remat = True
  c.sample_every = 10_000
  c.checkpoint_every = 5000

  if size != 'paper':
    common.narrow(c, size, stage)
    c.augment.update(region_frames=75, motion_noise=0.6)
    c.drop.motion = 0.25
    if stage == 3:  # it learns how heads move, and must not forget mouths
      c.mouth_weight = 3.0
  if size == 'small':
    c.model.update(audio_tokens=8, speed_features=128)
    c.steps = 100_000
  if size == 'tiny':
    c.motion_frames = 2
    c.weights.audio = 1.5  # mouths open too little otherwise
    c.model.update(locator=(16, 32, 64), audio_hidden=256, speed_features=64)
    # Puppets turn by 5 to 30 degrees/s.
    c.speed.update(centres=(5.0, 10.0, 15.0, 20.0, 25.0, 30.0), radii=(5.0,) * 6)

  # What trains (section 3.3). Temporal and speed layers alone in the last stage, lest speed take over from sound.
  frozen = ('^autoencoder/',) * (c.latents.kind == 'vae') + ('^wav2vec2/',) * (changes.get('audio.kind') == 'wav2vec2')
  c.train = (*((name, False) for name in frozen), ('.*', True))
  if stage == 3:
    c.train = (('motion_modules', True), ('^speed/', True), ('.*', False))
  if size != 'paper':
    # What is learned of pictures stays, and what comes beside is learned slowly: few clips a step, each of one level of
    # noise, would blur it again.
    if stage == 2:
      c.train = (('motion_modules|attn2|modulation|^audio/', 0.5), ('.*', False))
    if stage == 3:
      c.train = (('motion_modules.*/speed_|^speed/', True), ('motion_modules', 0.1), ('.*', False))
  c.foundations, c.load = common.FOUNDATIONS, common.LOAD[stage]  # section 3.3
  # What each stage brings in; anything else must be in `init_from`.
  c.init_new = (
    (),
    ('motion_modules', 'transformer_blocks_0/(attn2|norm2)/', 'modulation', '^audio/', '^wav2vec2/'),
    ('speed',),
  )[stage - 1]
  return common.finish(c, changes)

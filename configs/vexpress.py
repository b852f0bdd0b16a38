"""V-Express. Sizes `paper`, `tiny`, `small`; stages 1 (single frames), 2 (sound and motion), 3 (everything).

  python -m talkjax.train --config=configs/vexpress.py:paper,stage=1 --workdir=runs/vx_1
  python -m talkjax.train --config=configs/vexpress.py:paper,stage=2 --workdir=runs/vx_2 --config.init_from=runs/vx_1
  python -m talkjax.train --config=configs/vexpress.py:paper,stage=3 --workdir=runs/vx_3 --config.init_from=runs/vx_2

  python -m talkjax.train --config=configs/vexpress.py:tiny,stage=1 --workdir=runs/vx_tiny_1

`paper` is 512 x 512 in Stable Diffusion 1.5's latents, with the numbers of section 3.1 and the released code's where it
has none. `tiny` is 64 x 64 puppets, folded 4 x 4 into channels instead of an autoencoder, for two CPU cores; `small`
learns 128 x 128 from scratch on one GPU; both are told what configs/emo.py says of its own. A corpus without sound
(vfhq) trains stage 1 of `paper` alone; smaller sizes hear from the first stage on, but for audio.kind=none.
"""

from configs import common

SIZES = ('paper', 'tiny', 'small')


def get_config(arg: str | None = None):
  size, changes = common.parse(arg, SIZES)
  stage = changes.pop('stage', 1)
  if stage not in (1, 2, 3):
    raise ValueError(f'stage={stage} is not one of 1, 2, 3')
  c = common.base()
  c.system = 'vexpress'
  c.size = 512
  c.frames = 1 if stage == 1 else 12  # of a training clip; the released configs have 1, 20, 8
  c.fps = 30.0  # of generated videos
  c.compat = 'paper'  # or 'published': with the released code's slips (retargeting, lengths cut to whole windows)
  # Generation: frames of a window and how many two neighbours share at least (released: 24 and 4); windows at once on a
  # device, which bounds memory; MiB of what windows are told that are kept from step to step, not made again.
  c.windows = dict(frames=c.frames, overlap=0 if stage == 1 else 4, budget=12 if stage == 1 else 1, kept=2048)
  c.margin = 2  # frames heard on each side
  c.kps_canvas = 0  # pixels of the square that V-Kps are drawn on before they are shrunk; 0: the picture's own size
  c.latents = dict(kind='vae', widths=(128, 256, 512, 512), scaling=0.18215, patch=4, change=0.0)
  c.model = dict(
    widths=(320, 640, 1280, 1280),
    attention=(True, True, True, False),
    layers=2,
    heads=8,
    groups=32,
    zero_contexts=True,  # sound and reference start as nothing
    modulated=False,
    guider=(16, 32, 96, 256),
    max_frames=32,  # of the temporal layers
    temporal_middle=True,
    temporal_layers=2,
    temporal_heads=8,
    temporal_groups=32,
    context=768,  # channels of sound tokens, and of Stable Diffusion's text
    audio_tokens=5,
    audio_features=768,
    audio_layers=4,
    audio_heads=12,
    audio_head_features=64,
    audio_expansion=4,
  )
  # What a frame hears, two features of it: 'wav2vec2' (with foundations.wav2vec2), which wants `context` frames more on
  # each side; 'mel', columns of a log-mel spectrogram, the default that needs no weights; 'none'.
  c.audio = dict(kind='none' if stage == 1 else 'mel', bands=80, columns=2, context=0, encoder={})
  if changes.get('audio.kind') == 'wav2vec2':
    c.audio.context = 12
  c.diffusion = dict(
    schedule='scaled_linear',
    steps=1000,
    start=0.00085,
    end=0.012,
    zero_snr=True,
    target='velocity',
    prior=0.0,
    min_snr=5.0,
    noise_offset=0.05,
  )
  c.sampler = dict(name='ddim', steps=25, eta=0.0, spacing='trailing', clip=0.0)
  c.guidance = 3.5
  c.weights = dict(reference=1.0, audio=1.0)  # of the attentions' outputs at generation; the released script: 0.95, 3
  # Conditional dropout (sections 2.4 and 3.1), shares of frames from stage 2 on; `all`: of examples without conditions.
  c.drop = dict(all=0.1, kps=0.0 if stage == 1 else 0.5, reference=0.0 if stage == 1 else 0.2)
  c.mouth_weight = 100.0  # of the loss in twice the lips' box
  c.augment = dict(flip=0.5, hidden_mouth=0.0)  # shares of examples mirrored, of those with a mouth that is all noise
  c.optimizer.learning_rate = 1e-6 if stage == 3 else 1e-5
  c.data.corpus = 'hdtf'
  c.data.workers = 4
  c.data.mouth = 'landmarks'
  c.data.encoded = ''  # see configs/common.py
  c.data.reference_within = 0  # frames from the clip, for the portrait of an example; 0: anywhere in the video
  c.batch_size = 32 if stage == 1 else 4
  c.steps = 100_000
  c.dtype = 'bfloat16'
  c.remat = True
  c.sample_every = 10_000
  c.checkpoint_every = 5000

  if size != 'paper':
    common.narrow(c, size, stage)
    c.fps = 25.0
    c.kps_canvas = 256
    c.diffusion.noise_offset = 0.0
    c.augment.flip = 0.0
    c.drop.all = 0.05
    if stage == 3:
      c.optimizer.learning_rate /= 10  # as in the paper
  if size == 'small':
    c.model.update(audio_features=256, audio_layers=2, audio_heads=4)
    c.windows.budget *= 4
  if size == 'tiny':
    c.windows.update(frames=c.frames, overlap=0 if stage == 1 else 2, budget=64 if stage == 1 else 8)
    c.model.update(
      temporal_heads=4,
      temporal_groups=8,
      guider=(16, 32, 64),
      audio_features=64,
      audio_layers=1,
      audio_heads=4,
      audio_head_features=16,
      audio_expansion=2,
    )

  # What trains (section 2.3): images, then sound and motion alone, then everything.
  frozen = ('^autoencoder/',) * (c.latents.kind == 'vae') + ('^wav2vec2/',) * (changes.get('audio.kind') == 'wav2vec2')
  frozen = tuple((name, False) for name in frozen)
  # Small sizes know sound from the first stage; few clips a step, each of one level of noise, would blur that again.
  sound = ('^audio/|modulation|^backbone/.*transformer_blocks_0/(attn2|norm2)/', True if size == 'paper' else 0.1)
  c.train = {
    1: (*frozen, ('.*', True)),
    2: (sound, ('motion_modules', True), ('.*', False)),
    3: (*frozen, sound, ('.*', True)),
  }[stage]
  c.foundations, c.load = common.FOUNDATIONS, common.LOAD[stage]
  # What each stage brings in; anything else must be in `init_from`.
  c.init_new = (
    (),
    ('motion_modules', '^backbone/.*transformer_blocks_0/(attn2|norm2)/', 'modulation', '^audio/', '^wav2vec2/'),
    (),
  )[stage - 1]
  return common.finish(c, changes)

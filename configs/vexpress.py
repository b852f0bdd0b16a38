"""V-Express. Sizes `paper`, `tiny`, `puppets`, `grid_small`, `small`.

Stages 1 (single frames), 2 (audio and motion), 3 (everything).

  python -m talkjax.train --config=configs/vexpress.py:paper,stage=1 --workdir=runs/vx_1
  python -m talkjax.train --config=configs/vexpress.py:paper,stage=2 --workdir=runs/vx_2 --config.init_from=runs/vx_1
  python -m talkjax.train --config=configs/vexpress.py:paper,stage=3 --workdir=runs/vx_3 --config.init_from=runs/vx_2

  python -m talkjax.train --config=configs/vexpress.py:tiny,stage=1 --workdir=runs/vx_tiny_1

`paper` has the numbers of section 3.1, and the released code's where the paper has none. From stage 2 on it is
conditioned on the last hidden state of wav2vec 2.0 (section 2.2): docs/recipes.md has the keys of its pretrained
networks. configs/portrait.py describes the sizes. A corpus without sound (vfhq) can train stage 1 of `paper` only;
smaller sizes are conditioned on audio from the first stage on, unless audio.kind=none.
"""

from configs import common, portrait


def get_config(arg: str | None = None):
  size, stage, changes = common.parse_stage(arg, portrait.SIZES)
  c = portrait.base(stage)
  c.system = 'vexpress'  # the released configs have clips of 1, 20 and 8 frames, and context_scales of 0.95 and 3
  # Of generated videos: the rate that the weights were trained at, that of every corpus (`convert` sets the released
  # weights' own, 30).
  c.fps = 25.0
  c.compat = 'paper'  # or 'published': with the released code's errors (retargeting, lengths cut to whole windows)
  # Generation: frames of a window and how many two neighbours share at least (released: 24 and 4); windows at once on a
  # device, which bounds memory; MiB of the windows' conditioning that are cached from step to step.
  c.windows = dict(frames=c.frames, overlap=0 if stage == 1 else 4, batch_size=12 if stage == 1 else 1, cache_mib=2048)
  c.kps_canvas = 0  # pixels of the square that V-Kps are drawn on before they are downscaled; 0: the image size
  c.model.update(
    guider=(16, 32, 96, 256),
    max_frames=32,  # of the temporal layers
    temporal_middle=True,
    temporal_heads=8,
    temporal_groups=32,
    audio_tokens=5,
    audio_features=768,
    audio_layers=4,
    audio_heads=12,
    audio_head_features=64,
    audio_expansion=4,
  )
  c.diffusion.update(zero_snr=True, target='velocity', min_snr=5.0, noise_offset=0.05)
  c.sampler.steps = 25
  # Conditional dropout (sections 2.4 and 3.1), shares of frames from stage 2 on; `all`: of examples without conditions.
  c.drop = dict(all=0.1, kps=0.0 if stage == 1 else 0.5, reference=0.0 if stage == 1 else 0.2)
  c.mouth_weight = 100.0
  c.augment.flip = 0.5  # share of examples that are mirrored
  c.optimizer.learning_rate = 1e-6 if stage == 3 else 1e-5
  c.batch_size = 32 if stage == 1 else 4
  c.steps = 100_000

  if size != 'paper':
    portrait.from_scratch(c, size, stage)
    c.kps_canvas = 256
    c.augment.flip = 0.0
    c.drop.update(all=0.05, kps=0.0, reference=0.0)
    if stage == 3:
      c.optimizer.learning_rate /= 10 if size == 'small' else 2  # a tenth in the paper
  if size == 'small':
    c.model.update(audio_features=256, audio_layers=2, audio_heads=4)
    c.windows.batch_size *= 4
  if size in ('tiny', 'puppets', 'grid_small'):
    c.steps = {1: {'tiny': 1800, 'puppets': 2300, 'grid_small': 1000}[size], 2: 400, 3: 600}[stage]
    if stage == 3:  # mouths have been learned, the rest of the picture has not
      c.mouth_weight = 4.0
    c.windows.update(frames=c.frames, overlap=0 if stage == 1 else 2, batch_size=64 if stage == 1 else 8)
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

  # What trains (section 2.3): images, then audio and motion only, then everything. Small sizes learn audio from the
  # first stage on; a step has few clips, each at one noise level, which would blur that again.
  audio = ('^audio/|modulation|^backbone/.*transformer_blocks_0/(attn2|norm2)/', True if size == 'paper' else 0.1)
  c.train = {
    1: (('.*', True),),
    2: (audio, ('motion_modules', True), ('.*', False)),
    3: (audio, ('.*', True)),
  }[stage]
  # What each stage adds; everything else must be in `init_from`.
  c.init_new = (
    (),
    ('motion_modules', '^backbone/.*transformer_blocks_0/(attn2|norm2)/', 'modulation', '^audio/'),
    (),
  )[stage - 1]
  return portrait.finish(c, size, stage, changes)

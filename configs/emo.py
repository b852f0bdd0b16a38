"""EMO. Sizes `paper`, `tiny`, `puppets`, `grid_small`, `small`; stages 1 (images), 2 (video and audio), 3 (speed).

  python -m talkjax.train --config=configs/emo.py:paper,stage=1 --workdir=runs/emo_1
  python -m talkjax.train --config=configs/emo.py:paper,stage=2 --workdir=runs/emo_2 --config.init_from=runs/emo_1
  python -m talkjax.train --config=configs/emo.py:paper,stage=3 --workdir=runs/emo_3 --config.init_from=runs/emo_2

  python -m talkjax.train --config=configs/emo.py:tiny,stage=1 --workdir=runs/emo_tiny_1

`paper` has the numbers of section 4.1. From stage 2 on it is conditioned on the outputs of all layers of wav2vec 2.0
(section 3.2): docs/recipes.md has the keys of its pretrained networks. configs/portrait.py describes the sizes.
"""

from configs import common, portrait


def get_config(arg: str | None = None):
  size, stage, changes = common.parse_stage(arg, portrait.SIZES)
  c = portrait.base(stage)
  c.system = 'emo'
  c.motion_frames = 4
  c.use_motion_frames = True  # at generation; without them every clip starts afresh
  c.model.update(
    locator=(16, 32, 96, 256),
    max_frames=24,  # of the temporal layers, motion frames included
    temporal_middle=False,
    audio_tokens=32,
    audio_hidden=512,
    speed_features=256,
  )
  c.speed = dict(
    learned=stage == 3,
    default=15.0,  # of generation, degrees/s
    centres=(0.0, 7.5, 15.0, 22.5, 30.0, 45.0, 60.0, 90.0, 120.0),
    radii=(7.5, 7.5, 7.5, 7.5, 10.0, 15.0, 20.0, 30.0, 30.0),
  )
  c.drop = dict(all=0.05, motion=0.1)  # shares of examples without conditions, without motion frames
  # Largest standard deviation of the noise on motion frames (ours); frames whose faces the region includes: -1 for all
  # of the video (section 3.2), otherwise those of the clip and at most so many on each side (ours).
  c.augment.update(motion_noise=0.1, region_frames=-1)
  c.batch_size = 48 if stage == 1 else 4
  c.steps = 200_000 if stage == 1 else 100_000

  if size != 'paper':
    portrait.from_scratch(c, size, stage)
    c.augment.update(region_frames=75, motion_noise=0.6)
    c.drop.motion = 0.25
    if stage == 3:  # it learns how heads move, and must not forget mouths
      c.mouth_weight = 3.0
  if size == 'small':
    c.model.update(audio_tokens=8, speed_features=128)
    c.steps = 100_000
  if size in ('tiny', 'puppets', 'grid_small'):
    if size != 'tiny':
      c.steps = {1: 2000 if size == 'puppets' else 1000, 2: 300, 3: 300}[stage]
    c.motion_frames = 2
    c.data.reference_within = 8  # frames, as far as a clip's last one is from its motion frames
    c.context_scales.audio = 1.5  # mouths open too little otherwise
    c.model.update(locator=(16, 32, 64), audio_hidden=256, speed_features=64)
    # Puppets turn by 5 to 30 degrees/s.
    c.speed.update(centres=(5.0, 10.0, 15.0, 20.0, 25.0, 30.0), radii=(5.0,) * 6)

  # What trains (section 3.3). The last stage trains temporal and speed layers only, so that speed does not take over
  # from the audio.
  c.train = (('.*', True),)
  if stage == 3:
    c.train = (('motion_modules', True), ('^speed/', True), ('.*', False))
  if size != 'paper':
    # What was learned from images stays fixed, and what is new trains slowly: a step has few clips, each at one noise
    # level, which would blur it again.
    if stage == 2:
      c.train = (('motion_modules|attn2|modulation|^audio/', 0.5), ('.*', False))
    if stage == 3:
      c.train = (('motion_modules.*/speed_|^speed/', True), ('motion_modules', 0.1), ('.*', False))
  # What each stage adds; everything else must be in `init_from`.
  c.init_new = (
    (),
    ('motion_modules', 'transformer_blocks_0/(attn2|norm2)/', 'modulation', '^audio/'),
    ('speed',),
  )[stage - 1]
  return portrait.finish(c, size, stage, changes)

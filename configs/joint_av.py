"""Text to synchronised sound and picture. Sizes `paper`, `gpu`, `pixels`, `tiny`, `puppets`.

  python -m talkjax.train --config=configs/joint_av.py:tiny --workdir=runs/joint --config.renderer=runs/fd_3

`paper` generates 16 frames of 64 x 64 pixels and a second of sound, `gpu` is smaller, for a single GPU, and `pixels` is
the same design on two CPU cores, a proof that both modalities learn and see each other. `tiny` and `puppets` generate
motion and spectrograms; their renderer is the workdir of fd2talk's third stage, and puppets is trained for longer.
"""

from configs import common

SIZES = ('paper', 'gpu', 'pixels', 'tiny', 'puppets')
CAPTIONS = ('A man is talking', 'A woman is talking')


def get_config(arg: str | None = None):
  size, changes = common.parse(arg, SIZES)
  c = common.base()
  c.system = 'joint_av'
  c.captions = CAPTIONS
  c.caption_dropout = 0.1  # ours: for classifier-free guidance
  # Workdirs of other systems that work on what is generated: a trained workdir has them inside.
  c.joins = ('renderer', 'wav2lip', 'super_resolution', 'caption_classifier')
  c.renderer = c.wav2lip = c.super_resolution = c.caption_classifier = ''
  c.joined = {}
  # Workdirs that generation and evaluation open in place of those inside, and whether lips stay as they are generated.
  c.others = dict(renderer='', wav2lip='', super_resolution='', caption_classifier='', no_wav2lip=False)
  # caption_by: 'condition' (the paper's choice), where `caption` is 1 for the conditional model and more for
  # classifier-free guidance, or 'classifier' (eq. 8), whose scale is `classifier`. speech: 'none', 'replacement' (eq.
  # 10) or 'gradient' (eq. 10 and 11), whose C is `scale`. overlap: frames of a window that are those of the one before.
  c.guidance = dict(caption_by='condition', caption=1.0, classifier=1.0, speech='gradient', scale=1.0, overlap=4)
  c.evaluation = dict(speech='none')
  (_pixels if size in ('paper', 'gpu', 'pixels') else _motion)(c, size)
  return common.finish(c, changes)


def _pixels(c, size: str) -> None:
  common_pixels(c, size)
  # A workdir of `convert --source=mm_diffusion`, which it is fine-tuned from; '': none.
  c.pretrained = dict(mm_diffusion='')
  c.loss = dict(video=1.0, audio=1.0)
  c.diffusion = dict(schedule='linear', steps=1000, start=1e-4, end=0.02, zero_snr=False, target='epsilon')
  c.sampler = dict(name='ddpm', steps=1000, eta=0.0, spacing='leading', clip=1.0)
  c.optimizer.learning_rate = 1e-4
  c.batch_size = 8
  c.steps = 50_000
  c.checkpoint_every = 5000
  if size == 'pixels':
    c.diffusion.update(target='x0')
    c.sampler.update(name='ddim', steps=25, clip=0.0)
    c.optimizer.update(learning_rate=5e-4, schedule='cosine', warmup=50)
    c.batch_size = 16
    c.ema = 0.99
    c.steps = 900
    c.checkpoint_every = 100


def common_pixels(c, size: str) -> None:
  """Data, space and network of pixels and waveforms, which the caption classifier shares."""
  # GRID as the paper cut it: one-second segments with one digit and one keyword (section V.D).
  c.data.update(corpus='grid/speakers', workers=4, segments='digit')
  c.space = dict(
    kind='pixels', frames=16, fps=16.0, size=64, fold_pixels=1, fold_samples=1, sound_scale=1.0, ends=False
  )
  c.model = dict(
    width=128, multipliers=(1, 2, 3, 4), num_res_blocks=2, video_attention=(2, 4, 8), audio_attention=(),
    cross_attention=(2, 4, 8), windows=(1, 4, 8), shift=True, middle_window=16, heads=4, head_channels=64, dropout=0.1,
    scale_shift=True,
  )  # fmt: skip
  if size == 'gpu':
    c.model.update(width=64)
  if size == 'pixels':
    # Not every sentence of a puppet has a digit.
    c.data.update(corpus='puppets', workers=0, examples_per_record=4, segments='any')
    c.space.update(size=48, fold_pixels=6, fold_samples=25, sound_scale=10.0)
    c.model.update(
      width=64, multipliers=(1, 2), num_res_blocks=1, video_attention=(2,), cross_attention=(1, 2), windows=(1, 4),
      middle_window=None, head_channels=32, dropout=0.0,
    )  # fmt: skip


def _motion(c, size: str) -> None:
  common_motion(c)
  c.space.ends = True
  # Weights of both modalities, and within the video of who is shown, expression and pose.
  c.loss = dict(video=1.0, audio=1.0, code=0.5, expression=1.0, pose=1.0)
  c.diffusion = dict(schedule='cosine', steps=1000, start=None, end=None, zero_snr=False, target='velocity')
  c.sampler = dict(name='ddim', steps=50, eta=0.0, spacing='trailing', clip=0.0)
  c.guidance.update(caption=2.0, classifier=100.0, scale=3.0, overlap=12)  # chosen on the validation split
  c.optimizer.update(learning_rate=1e-3, schedule='cosine', warmup=50)
  c.batch_size = 32
  c.ema = 0.99
  c.steps = 1800
  c.checkpoint_every = 200
  if size == 'puppets':
    c.steps = 3600
    c.ema = 0.998
    c.checkpoint_every = 300


def common_motion(c) -> None:
  """Data, space and network of motion and spectrograms, which the caption classifier shares."""
  c.data.update(corpus='puppets', examples_per_record=4, segments='any', coefficients='mesh_pca', mouth='found')
  c.morphable = common.morphable('tiny')
  # people: portraits in the workdir; code: numbers that say who is shown; size: of the portraits, from which the
  # renderer crops the face; ends: frames are conditioned on how far the ends of the video are, which are silent.
  c.space = dict(kind='motion', frames=32, fps=25.0, size=128, people=36, code=8, ends=False)
  c.model = dict(width=192, blocks=4, heads=4, coupling='time', windows=(1, 4, 8, 8), dropout=0.0)

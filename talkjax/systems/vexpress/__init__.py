"""V-Express: conditional dropout for progressive training of portrait video generation (Wang et al., 2024).

A U-Net with Stable Diffusion 1.5's layout denoises windows of latents. In each block pixels attend to themselves, to a
ReferenceNet's features of the portrait, to the audio (a Q-Former's tokens of wav2vec 2.0's features) and, over time, to
the other frames; three keypoints drawn as a V are added after the first convolution (section 2.2). Keypoints and
portrait are strong conditions, the voice is a weak one: the strong ones are dropped for some frames (section 2.4).

Where the paper leaves something open this follows the released code, whose errors are corrected unless
`compat=published`.
"""

from talkjax.errors import UserError
from talkjax.faces import keypoints
from talkjax.options import Option
from talkjax.systems import System, portrait

OPTIONS = (
  *portrait.OPTIONS,
  Option('kps', str, 'Keypoints that drive the portrait: a video, or an array (.npy, .pth) of them.'),
  Option(
    'retarget',
    str,
    'How keypoints are fitted to the portrait: naive (default with --kps), offset, none, fix_face (default without).',
    choices=keypoints.STRATEGIES,
  ),
  Option(
    'compat', str, "'published' repeats the released code's errors, 'paper' does not.", key='compat',
    choices=keypoints.COMPAT,
  ),
  Option('window', int, 'Frames that are generated together.', key='windows.frames', minimum=1),
  Option('overlap', int, 'Frames that two neighbouring windows share.', key='windows.overlap', minimum=0),
  Option(
    'window_batch_size', int, 'Windows at once on a device: more is faster, fewer need less memory.',
    key='windows.batch_size', minimum=1,
  ),
)  # fmt: skip
SOURCES = {
  'vexpress': 'talkjax.systems.vexpress.published',
  'moore': 'talkjax.systems.vexpress.moore',
}


def build(config) -> System:
  """The system of a config (see configs/vexpress.py)."""
  from talkjax.systems.vexpress import data, model

  _check(config)
  nets = model.make_networks(config)
  return portrait.build(
    config,
    modules=_modules,
    nets=nets,
    read=data.read,
    condition=model.condition,
    options=OPTIONS,
    samplers=('ddim', 'ddpm'),  # a multistep solver does not work with predictions averaged over windows
    previous='stride' if config.compat == 'published' else 'next',
    true_conditions=('keypoints',),
  )


def _check(config) -> None:
  windows = config.windows
  if not 0 <= windows.overlap < windows.frames:
    raise UserError(
      f'config.windows.overlap={windows.overlap} must be at least 0 and less than '
      f'config.windows.frames={windows.frames}'
    )
  if windows.batch_size < 1:
    raise UserError(f'config.windows.batch_size={windows.batch_size}: expected 1 window or more')
  if config.frames > 1 and windows.frames > config.model.max_frames:
    raise UserError(
      f'config.windows.frames={windows.frames} is more than the {config.model.max_frames} frames that the temporal '
      'layers were made for (config.model.max_frames): set it lower'
    )
  if config.compat not in keypoints.COMPAT:
    raise UserError(f'config.compat={config.compat!r} is not one of {", ".join(keypoints.COMPAT)}')


def _modules():
  """The modules that only generation needs, imported when the system first generates."""
  from talkjax.systems.vexpress import conditions, generation

  return conditions, generation

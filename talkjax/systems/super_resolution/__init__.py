"""Super-resolution of videos: the last stage of MM-Diffusion (64 to 256 pixels), a network of guided-diffusion.

A diffusion model over single frames (arXiv 2105.05233, section 3; SR3, arXiv 2104.07636): the U-Net sees the noisy
large frame next to the small one, upsampled bilinearly. All frames of a clip start from one noise, as in MM-Diffusion,
so that what is made up does not flicker. Other systems enlarge what they generate through `System.upscale`.
"""

import functools

from talkjax.errors import UserError
from talkjax.options import SAMPLER, Option
from talkjax.systems import System, deferred

OPTIONS = (Option('video', str, 'The video to enlarge.', required=True), *SAMPLER)
SOURCES = {'super_resolution': 'talkjax.systems.super_resolution.published'}


def build(config) -> System:
  """The system of a config (see configs/super_resolution.py).

  Raises:
    UserError: its numbers contradict each other.
  """
  from talkjax.metrics import suites
  from talkjax.systems.sampling import check_sampler, make_schedule, make_table
  from talkjax.systems.super_resolution import data, model, scores

  check_sampler(config, ('ddim', 'ddpm', 'dpm++'))
  _check(config)
  net = model.make_network(config)
  predict = functools.partial(model.predict, net=net, skip=config.model.skip)
  variance = 'learned_range' if config.model.learned_variance else 'fixed_small'
  table = functools.partial(make_table, config, variance=variance)
  enlarge = deferred('super_resolution.generation.make_enlarge', {'table': table}, predict=predict, config=config)
  made = {'enlarge': functools.cache(enlarge)}
  return System(
    read=functools.partial(data.read, config=config),
    init=functools.partial(model.init, net=net),
    loss=functools.partial(model.loss, predict=predict, schedule=make_schedule(config.diffusion), config=config),
    generate=deferred('super_resolution.generation.generate', made),
    from_records=deferred('super_resolution.generation.from_records', config=config),
    from_files=deferred('super_resolution.generation.from_files', config=config),
    options=OPTIONS,
    scores=(suites.IMAGES, scores.bicubic(config.scale)),
    upscale=deferred('super_resolution.generation.upscale', made),
  )


def _check(config) -> None:
  """Raises UserError if the config contradicts itself."""
  crop = config.crop_size or config.size
  pixels = config.model.patch_size * 2 ** (len(config.model.multipliers) - 1)
  if config.scale < 2 or config.size % config.scale or crop % config.scale or crop % pixels or crop > config.size:
    raise UserError(
      f'config.scale={config.scale}, config.size={config.size} and config.crop_size={config.crop_size}: expected a '
      f'scale of 2 or more that divides size and crop, and a crop of at most the size, a multiple of {pixels}'
    )
  if config.model.learned_variance and (config.model.skip or config.diffusion.target != 'epsilon'):
    raise UserError(
      'config.model.learned_variance is for networks with config.diffusion.target=epsilon and without '
      'config.model.skip: set it to False, or change these'
    )
  if config.model.skip and config.diffusion.target != 'x0':
    raise UserError(f"config.model.skip with config.diffusion.target={config.diffusion.target!r}: expected 'x0'")

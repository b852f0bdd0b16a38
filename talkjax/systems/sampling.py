"""The noise schedule and the sampler that a config names."""

from typing import TYPE_CHECKING

from talkjax.diffusion import schedules
from talkjax.diffusion.targets import TARGETS
from talkjax.errors import UserError

if TYPE_CHECKING:
  from talkjax.diffusion import samplers

SPACINGS = ('trailing', 'leading', 'linspace')  # of timesteps, see `schedules.spaced`


def make_schedule(diffusion, steps: int | None = None) -> schedules.Schedule:
  """The noise schedule of `config.diffusion`, or one of `steps` timesteps that covers the same noise levels.

  Raises:
    UserError: the config names no schedule of `talkjax.diffusion.schedules`.
  """
  try:
    return schedules.make(
      diffusion.schedule,
      steps or diffusion.steps,
      diffusion.start,
      diffusion.end,
      zero_snr=diffusion.zero_snr,
      reference_steps=diffusion.steps,
    )
  except ValueError as error:
    raise UserError(f'config.diffusion.schedule: {error}') from error


def check_sampler(config, names: tuple[str, ...]) -> None:
  """Checks `config.sampler` before anything is computed.

  Args:
    config: with `diffusion` and `sampler`.
    names: the samplers that the system supports.

  Raises:
    UserError: the system does not support the sampler, or not with so many steps.
  """
  sampler = config.sampler
  if sampler.name not in names:
    raise UserError(f'sampler {sampler.name!r} is not one of {", ".join(names)}')
  for key, value, known in (
    ('sampler.spacing', sampler.get('spacing', SPACINGS[0]), SPACINGS),
    ('diffusion.target', config.diffusion.get('target', TARGETS[0]), TARGETS),
  ):
    if value not in known:
      raise UserError(f'config.{key}={value!r} is not one of {", ".join(known)}')
  if sampler.steps < 1 or (sampler.name != 'palette' and sampler.steps > config.diffusion.steps):
    raise UserError(
      f'sampler {sampler.name} cannot take {sampler.steps} steps: expected 1 to {config.diffusion.steps}, the steps of '
      'config.diffusion'
    )


def make_table(config, previous: str = 'next', variance: str = 'fixed_small') -> 'samplers.Table':
  """The coefficients of the sampler `config.sampler.name`: ddim, ddpm, dpm++, or palette.

  Palette takes a shorter schedule over the same noise levels, for networks that are conditioned on the noise level
  itself.

  Args:
    config: with `diffusion` and `sampler`, see `check_sampler`.
    previous: where a step of DDIM leads, see `samplers.ddim`.
    variance: of the steps of DDPM, see `samplers.ddpm`.

  Raises:
    UserError: the sampler cannot take so many steps.
  """
  from talkjax.diffusion import samplers

  schedule, settings = make_schedule(config.diffusion), config.sampler
  spacing = {'spacing': settings.spacing}
  tables = {
    'ddim': lambda: samplers.ddim(schedule, settings.steps, eta=settings.eta, previous=previous, **spacing),
    'ddpm': lambda: samplers.ddpm(schedule, settings.steps, variance=variance, **spacing),
    'dpm++': lambda: samplers.dpm_solver_pp_2m(schedule, settings.steps, spacing='trailing'),
    'palette': lambda: samplers.palette(make_schedule(config.diffusion, settings.steps)),
  }
  try:
    return tables[settings.name]()
  except ValueError as error:
    raise UserError(f'sampler {settings.name} cannot take {settings.steps} steps: {error}') from error

"""Golden cases of talkjax.diffusion: schedules, samplers, guidance and loss weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from golden_cases import Case, Elementwise
from talkjax.diffusion import guidance, losses, samplers, schedules, targets

TARGETS = {'epsilon': targets.EPSILON, 'v_prediction': targets.VELOCITY, 'sample': targets.X0}


def dve_schedule(case: Case) -> dict:
  out = {}
  for name, c in case.config['schedules'].items():
    schedule = schedules.make(c['schedule'], c['n_timestep'], c['linear_start'], c['linear_end'])
    with np.errstate(divide='ignore'):
      tables = {
        'betas': schedule.betas,
        'gammas': schedule.alpha_bar,
        'sqrt_recip_gammas': np.sqrt(1 / schedule.alpha_bar),
        'sqrt_recipm1_gammas': np.sqrt(1 / schedule.alpha_bar - 1),
      }
    posterior = schedules.posterior(schedule)
    tables |= {
      'posterior_log_variance_clipped': posterior.log_variance,
      'posterior_mean_coef1': posterior.x0_scale,
      'posterior_mean_coef2': posterior.x_scale,
    }
    # Where the last entry is not finite the published table is stored without it.
    out |= {f'{name}_{k}': v if np.isfinite(v[-1]) else v[:-1] for k, v in tables.items()}
  return out


def _schedule(config: dict, name: str, zero_snr: bool = False) -> schedules.Schedule:
  c = config['betas'][name]
  schedule = schedules.make(
    c.get('beta_schedule', name), config.get('num_train_timesteps', 1000), c.get('beta_start'), c.get('beta_end')
  )
  schedule = _rounded(schedule)
  if zero_snr or config.get('rescale_betas_zero_snr'):
    return _rounded(schedules.zero_terminal_snr(schedule))
  return schedule


def _rounded(schedule: schedules.Schedule) -> schedules.Schedule:
  """The schedule with its tables in float32, as diffusers has them: 1 - alpha_bar[0] is 0.03 to 0.4 % off the exact."""
  betas = schedule.betas.astype(np.float32)
  return schedules.Schedule(betas, np.cumprod((1 - betas).astype(np.float64)).astype(np.float32))


def _steps(case: Case, make_table) -> dict:
  """The stored fake network sampled with each of the case's schedules, targets and spacings."""
  config, start = case.config, jnp.asarray(case.inputs['start'])
  noises = case.inputs.get('noise')
  clip = config.get('clip_sample_range', 1.0) if config.get('clip_sample') else None
  out = {}
  for key in case.outputs:
    what, name, *rest = key.split('.')
    schedule = _schedule(config, name)
    if what == 'alphas_cumprod':
      out[key] = schedule.alpha_bar
      continue
    exact = schedules.Schedule(schedule.betas.astype(np.float64), schedule.alpha_bar.astype(np.float64))
    table = make_table(config, exact, rest[-1])
    if what == 'timesteps':
      out[key] = table.timestep.astype(np.int64)
    elif what == 'sigmas':
      out[key] = np.append(table.noise_scale / table.signal_scale, _final_sigma(config, schedule))
    elif what == 'trajectory':
      out[key] = _trajectory(start, table, noises, TARGETS[rest[0]], clip)
  return out


@functools.partial(jax.jit, static_argnames=('target', 'clip'))
def _trajectory(start, table, noises, target, clip):
  def denoise(x, level):
    return 0.3 * x + 0.01 * jnp.sin(level.timestep)

  noise = None if noises is None else lambda step: noises[step]
  return samplers.sample(denoise, start, table, noise, target=target, clip=clip, trajectory=True)[1].x


def _final_sigma(config, schedule):
  first = schedule.alpha_bar[0]
  return 0.0 if config.get('final_sigmas_type', 'zero') == 'zero' else np.sqrt((1 - first) / first)


def _ddim(config, schedule, spacing):
  return samplers.ddim(
    schedule,
    config['num_inference_steps'],
    eta=config.get('eta', 0.0),
    spacing=spacing,
    offset=config.get('steps_offset', 0),
    previous='stride',
    final_alpha_bar=1.0 if config.get('set_alpha_to_one', True) else schedule.alpha_bar[0],
    epsilon_from_clipped=False,
  )


def _ddpm(config, schedule, spacing):
  return samplers.ddpm(
    schedule,
    config['num_inference_steps'],
    spacing=spacing,
    offset=config.get('steps_offset', 0),
    variance=config.get('variance_type', 'fixed_small'),
  )


def _dpm_solver(config, schedule, spacing):
  # diffusers puts 2^-24 in place of a zero terminal alpha_bar; talkjax.diffusion takes the limit, up to 9e-4 away.
  alpha_bar = np.where(schedule.alpha_bar == 0, 2.0**-24, schedule.alpha_bar)
  schedule = schedules.Schedule(schedule.betas, alpha_bar)
  return samplers.dpm_solver_pp_2m(
    schedule,
    config['num_inference_steps'],
    spacing=spacing,
    offset=config.get('steps_offset', 0),
    lambda_min=float(config.get('lambda_min_clipped', '-inf')),
    final=config.get('final_sigmas_type', 'zero'),
    solver=config.get('solver_type', 'midpoint'),
    lower_order_final=config.get('lower_order_final', True),
  )


def min_snr_weights(case: Case) -> dict:
  config, out = case.config, {}
  index = case.inputs['timesteps']
  for key in case.outputs:
    what, name = key.split('.')
    schedule = _schedule(config, name, zero_snr='zero_terminal' in what or what == 'weight_vexpress')
    ratio = losses.snr(schedules.level_at(schedule, index))
    # In addition to the 1e-3 of the case's notes, six roundings of alpha_bar (square root, shift, scale, square, to
    # betas and back), which 1 - alpha_bar magnifies in the first timesteps: PyTorch's square root is up to
    # 0.75 ulp off, not 0.5.
    allowed = np.maximum(1e-3, 6 * 2.0**-24 / (1 - schedule.alpha_bar[index]))
    weight = functools.partial(losses.min_snr_weight, ratio, gamma=config['gamma'])
    if what.startswith('snr'):
      out[key] = Elementwise(ratio, allowed)
    elif what == 'weight_vexpress':
      out[key] = weight(target=targets.VELOCITY, velocity_offset=1.0)
    else:
      of = {'epsilon': targets.EPSILON, 'v': targets.VELOCITY, 'sample': targets.X0}
      out[key] = weight(target=of[what.split('_')[1]])
  return out


def zero_snr_betas(case: Case) -> dict:
  out = {}
  for name, betas in case.inputs.items():
    rescaled = schedules.zero_terminal_snr(schedules.from_betas(betas))
    out[name] = rescaled.betas
    out[name.replace('betas', 'alphas_cumprod', 1)] = rescaled.alpha_bar
  return out


def guided_steps(case: Case) -> dict:
  config, inputs = case.config, {k: np.asarray(v) for k, v in case.inputs.items()}
  num = config['steps']
  make = {'linear': functools.partial(schedules.linear, reference_steps=1000), 'cosine': schedules.cosine}
  full = make[config['noise_schedule']](num)
  kept = schedules.sections(config['timestep_respacing'], num)
  schedule = schedules.respace(full, kept)
  timesteps = schedule.timesteps * (1000.0 / num if config['rescale_timesteps'] else 1.0)
  schedule = schedules.Schedule(schedule.betas, schedule.alpha_bar, timesteps)
  x, raw, gradient, noise = (jnp.moveaxis(jnp.asarray(inputs[k]), 1, -1) for k in ('x', 'model_out', 'grad', 'noise'))
  channels = x.shape[-1]
  ancestral = functools.partial(samplers.ddpm, schedule, schedule.num_steps, first_variance='next')
  tables = {
    'learned': ancestral(variance='learned_range'),
    'small': ancestral(variance='fixed_small'),
    'large': ancestral(variance='fixed_large'),
    'ddim0': samplers.ddim(schedule, schedule.num_steps),
    'ddim1': samplers.ddim(schedule, schedule.num_steps, eta=1.0),
    'ddim0small': samplers.ddim(schedule, schedule.num_steps),
  }

  @functools.partial(jax.jit, static_argnames=('guided',))
  def step(row, x, output, gradient, noise, guided):
    denoise = lambda y, level: output  # noqa: E731
    if guided:
      score = 'epsilon' in row.terms  # DDIM
      wrap = guidance.classifier_score if score else guidance.classifier_mean
      denoise = wrap(denoise, lambda y, level: gradient, target=targets.EPSILON, clip=1.0)
    clip = None if guided else 1.0
    after, steps = samplers.sample(denoise, x, row, lambda i: noise, clip=clip, trajectory=True)
    return {'sample': after, 'xstart': steps.x0[0]}

  def steps_of(kind, guided, what):
    output = raw if kind in ('learned', 'ddim0', 'ddim1') else raw[..., :channels]
    done = []
    for item, t in enumerate(inputs['t']):
      row = tables[kind].rows([schedule.num_steps - 1 - int(t)])
      one = slice(item, item + 1)
      done.append(step(row, x[one], output[one], gradient[one], noise[one], guided)[what])
    return jnp.moveaxis(jnp.concatenate(done), -1, 1)

  out = {}
  for key in case.outputs:
    parts = key.split('_')
    if parts[0] in tables and len(parts) == 3:
      out[key] = steps_of(parts[0], parts[1] == 'guided', parts[2])
    elif key.startswith('ddim_map_'):
      out[key] = schedules.sections(f'ddim{parts[-1]}', num)
  return out | {
    'seen_t': timesteps[inputs['t']],
    'timestep_map': kept,
    'table_betas': schedule.betas,
    'table_alphas_cumprod': schedule.alpha_bar,
    'table_posterior_log_variance_clipped': schedules.posterior(schedule, first='next').log_variance,
  }


CHECKS = {
  'dve_schedule': dve_schedule,
  'ddim_steps': functools.partial(_steps, make_table=_ddim),
  'ddpm_steps': functools.partial(_steps, make_table=_ddpm),
  'dpmsolverpp_2m_steps': functools.partial(_steps, make_table=_dpm_solver),
  'min_snr_weights': min_snr_weights,
  'zero_snr_betas': zero_snr_betas,
  'guided_steps': guided_steps,
}

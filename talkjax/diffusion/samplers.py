"""Samplers: each is a table of coefficients, and `sample` is one scan over any of them.

A step from a noisier x to a less noisy one is, for every sampler here,

    x' = table.x * x + table.x0 * x0 + table.epsilon * epsilon + table.x0_previous * x0' + table.noise * z

where x0 and epsilon are what the network's output at x means (targets.py), x0' is the x0 of the step before, and z is
fresh noise. `ddpm`, `ddim`, `dpm_solver_pp_2m` and `palette` differ in their tables alone.

Noise is the caller's: the start x is given and z comes from `noise(step)`. Keyed by (seed, frame) and folded with the
step, it makes a frame independent of the batch, window and device it is sampled in.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.diffusion import schedules, targets
from talkjax.diffusion.schedules import Schedule

VARIANCES = ('fixed_small', 'fixed_large', 'learned_range')


@dataclasses.dataclass(frozen=True)
class Table:
  """The steps of a sampler, the noisiest first: all [steps] float32. A row of it is the `level` a denoiser is given."""

  timestep: Any  # what the network is told
  alpha_bar: Any
  signal_scale: Any  # sqrt(alpha_bar)
  noise_scale: Any  # sqrt(1 - alpha_bar)
  x: Any
  x0: Any
  epsilon: Any
  x0_previous: Any
  noise: Any  # standard deviation; with learned variance 1 where there is noise, else 0
  variance: Any  # of the reverse step, also where no noise is added (classifier guidance reads it)
  log_variance: Any  # its clipped logarithm; with learned variance the lower end of the range
  log_variance_max: Any  # the upper end
  # Which of x, epsilon, x0_previous, noise and learned (variance) the steps use at all: what they don't costs nothing.
  terms: frozenset[str] = frozenset()
  epsilon_from_clipped: bool = True  # clipping x0 changes epsilon with it

  def __len__(self) -> int:
    return self.x0.shape[0]

  def rows(self, index: Any) -> 'Table':
    """Some rows: a list of steps, a slice, or one (scalars: a level)."""
    return jax.tree.map(lambda a: a[index], self)


_META = ('terms', 'epsilon_from_clipped')
jax.tree_util.register_dataclass(Table, [f.name for f in dataclasses.fields(Table) if f.name not in _META], _META)


@dataclasses.dataclass(frozen=True)
class Steps:
  """What happened at each step, [steps, ...] each, in the order taken."""

  x: Any  # after the step, noise and constraint included
  x0: Any  # the clean picture predicted at the step (clipped)
  mean: Any  # the step without its noise and constraint


jax.tree_util.register_dataclass(Steps, ['x', 'x0', 'mean'], [])

Denoise = Callable[[Any, Any], Any]  # (x, level) -> the network's output


# --- tables


def ddpm(
  schedule: Schedule,
  steps: int | Sequence[int],
  *,
  spacing: str = 'leading',
  offset: int = 0,
  variance: str = 'fixed_small',
  first_variance: str = 'floor',
) -> Table:
  """Ancestral sampling (DDPM algorithm 2) on strided timesteps (improved DDPM section 4).

  Args:
    schedule: what the network was trained on.
    steps: how many (see schedules.spaced), or the entries themselves, the noisiest first.
    spacing, offset: see schedules.spaced.
    variance: 'fixed_small' (the posterior's), 'fixed_large' (beta), 'learned_range' (the network says where between the
      two: its output has twice the channels).
    first_variance: see schedules.posterior.

  Returns:
    A table. No noise is added at entry 0 of the schedule.

  Raises:
    ValueError: for an unknown spacing or variance, or too many steps.
  """
  if variance not in VARIANCES:
    raise ValueError(f'unknown variance {variance!r}: expected one of {", ".join(VARIANCES)}')
  entries = _entries(schedule, steps, spacing, offset)
  alpha_bar = schedule.alpha_bar[entries]
  previous = np.append(alpha_bar[1:], 1.0)
  betas = 1.0 - alpha_bar / previous
  # The posterior's tables run from the least noise up.
  flipped = schedules.posterior_between(betas[::-1], alpha_bar[::-1], previous[::-1], first_variance)
  small, log_small = flipped.variance[::-1], flipped.log_variance[::-1]
  large = betas.copy()
  if first_variance == 'next' and len(large) > 1:
    large[-1] = small[-2]
  learned = variance == 'learned_range'
  chosen = large if variance == 'fixed_large' else small
  noisy = entries > 0
  return _table(
    schedule,
    entries,
    x=flipped.x_scale[::-1],
    x0=flipped.x0_scale[::-1],
    noise=noisy * (1.0 if learned else np.sqrt(np.maximum(chosen, 1e-20))),
    variance=chosen,
    log_variance=np.log(large) if variance == 'fixed_large' else log_small,
    log_variance_max=np.log(betas),
    terms={'learned'} if learned else set(),
  )


def palette(schedule: Schedule) -> Table:
  """Every step of this schedule, ancestral with the posterior's variance (SR3 algorithm 2, Palette).

  The network is conditioned on alpha_bar itself (`level.alpha_bar`), not on a timestep, so it can be sampled on any
  schedule: fewer steps are a fresh schedule, `palette(schedules.make('cosine', 100))`, not a part of the training one.
  """
  return ddpm(schedule, schedule.num_steps)


def ddim(
  schedule: Schedule,
  steps: int | Sequence[int],
  *,
  eta: float = 0.0,
  spacing: str = 'leading',
  offset: int = 0,
  previous: str = 'next',
  final_alpha_bar: float = 1.0,
  epsilon_from_clipped: bool = True,
) -> Table:
  """DDIM (arXiv 2010.02502, eq. 12 and 16).

  Args:
    schedule, steps, spacing, offset: see `ddpm`.
    eta: 0 deterministic, 1 as noisy as DDPM.
    previous: the entry a step leads to: 'next' of the list, or 'stride' below this one (diffusers; the same where the
      number of steps divides the schedule).
    final_alpha_bar: alpha_bar after the last step; diffusers without set_alpha_to_one takes schedule.alpha_bar[0].
    epsilon_from_clipped: where x0 is clipped, epsilon is computed again from it (guided-diffusion) or left (diffusers).
  """
  entries = _entries(schedule, steps, spacing, offset)
  if previous == 'stride':
    before = entries - schedule.num_steps // len(entries)
  else:
    before = np.append(entries[1:], -1)
  alpha_bar = schedule.alpha_bar[entries]
  alpha_bar_before = np.where(before >= 0, schedule.alpha_bar[np.maximum(before, 0)], final_alpha_bar)
  variance = (1 - alpha_bar_before) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_before)  # eq. 16, eta = 1
  noise = eta * np.sqrt(np.maximum(variance, 0.0))
  return _table(
    schedule,
    entries,
    x0=np.sqrt(alpha_bar_before),
    epsilon=np.sqrt(np.maximum(1 - alpha_bar_before - noise**2, 0.0)),
    noise=noise,
    variance=noise**2,
    epsilon_from_clipped=epsilon_from_clipped,
  )


def dpm_solver_pp_2m(
  schedule: Schedule,
  steps: int | Sequence[int],
  *,
  spacing: str = 'trailing',
  offset: int = 0,
  lambda_min: float = -np.inf,
  final: str = 'zero',
  solver: str = 'midpoint',
  lower_order_final: bool = True,
) -> Table:
  """DPM-Solver++(2M), a multistep solver of second order (arXiv 2211.01095, algorithm 2). Deterministic.

  Args:
    schedule, steps, spacing, offset: see `ddpm`; leading and linspace as multistep solvers lay them.
    lambda_min: timesteps whose log(signal_scale / noise_scale) is below are not visited (-5.1 helps cosine schedules).
    final: where the last step leads: 'zero' noise, or the 'sigma_min' of the schedule's first entry.
    solver: how the second order is taken: 'midpoint' or 'heun'.
    lower_order_final: the last of fewer than 15 steps is first order, for stability (a step to zero noise always is).
  """
  half_log_snr = _half_log_snr(schedule.alpha_bar)
  last = int(np.sum(half_log_snr >= lambda_min))
  entries = _entries(schedule, steps, spacing, offset, multistep=True, last=last)
  alpha_bar = schedule.alpha_bar[entries]
  target = np.append(alpha_bar[1:], 1.0 if final == 'zero' else schedule.alpha_bar[0])
  lambda_from, lambda_to = _half_log_snr(alpha_bar), _half_log_snr(target)
  with np.errstate(invalid='ignore', divide='ignore'):
    h = lambda_to - lambda_from
    # alpha_t (1 - exp(-h)): the weight of x0 in the first order step, finite from pure noise and to none.
    weight = np.sqrt(target) * -np.expm1(-h)
    h_before = np.append(np.inf, h[:-1])  # a first step has no step before it: first order
    inverse_r = np.where(np.isfinite(h_before) & np.isfinite(h), h / h_before, 0.0)
    slope = weight / 2 if solver == 'midpoint' else np.sqrt(target) * (np.expm1(-h) / h + 1)
  if lower_order_final and len(entries) < 15:
    inverse_r[-1] = 0.0
  second = np.where(inverse_r == 0, 0.0, slope * inverse_r)
  return _table(
    schedule,
    entries,
    x=np.sqrt((1 - target) / (1 - alpha_bar)),
    x0=weight + second,
    x0_previous=-second,
  )


def _half_log_snr(alpha_bar: np.ndarray) -> np.ndarray:
  with np.errstate(divide='ignore'):
    return 0.5 * (np.log(alpha_bar) - np.log1p(-alpha_bar))


def _entries(schedule: Schedule, steps: int | Sequence[int], spacing: str, offset: int, **how) -> np.ndarray:
  if isinstance(steps, int | np.integer):
    entries = schedules.spaced(spacing, schedule.num_steps, int(steps), offset, **how)
  else:
    entries = np.asarray(steps)
  if not len(entries) or np.any(np.diff(entries) >= 0) or entries[-1] < 0 or entries[0] >= schedule.num_steps:
    raise ValueError(f'steps must fall from at most {schedule.num_steps - 1} to at least 0, the noisiest first')
  return entries


def _table(schedule: Schedule, entries: np.ndarray, *, terms=(), epsilon_from_clipped=True, **columns) -> Table:
  alpha_bar = schedule.alpha_bar[entries]
  columns |= {
    'timestep': schedule.timesteps[entries],
    'alpha_bar': alpha_bar,
    'signal_scale': np.sqrt(alpha_bar),
    'noise_scale': np.sqrt(1 - alpha_bar),
  }
  names = [f.name for f in dataclasses.fields(Table) if f.name not in _META]
  values = {name: np.asarray(columns.get(name, np.zeros(len(entries))), np.float32) for name in names}
  used = {name for name in ('x', 'epsilon', 'x0_previous', 'noise') if np.any(values[name])}
  return Table(**values, terms=frozenset(used | set(terms)), epsilon_from_clipped=epsilon_from_clipped)


# --- the scan


def sample(
  denoise: Denoise,
  x: Any,
  table: Table,
  noise: Callable[[jax.Array], Any] | None = None,
  *,
  target: str = targets.EPSILON,
  clip: float | Callable[[Any], Any] | None = None,
  constrain: Callable[[Any], Any] | None = None,
  trajectory: bool = False,
) -> Any:
  """Samples along a table: one lax.scan, to be called inside jit.

  Args:
    denoise: (x, level) -> the network's output, a tree like x, or with twice x's channels on the last axis where the
      network learned its variance. `level` is a row of the table: scalars timestep, alpha_bar and what else it has.
    x: the noisiest examples, a tree of arrays [b, ...], float32.
    table: a sampler. One row (`table.rows([i])`) is a single step.
    noise: step (0, 1, ... in the order taken) -> standard normal numbers like x; may be None where the table has none.
    target: what the network predicts: 'epsilon', 'x0' or 'velocity'.
    clip: bound on the absolute value of x0, or a function on its tree; None leaves it.
    constrain: applied to x before the first and after each step, such as pasting pixels that are known.
    trajectory: also return `Steps`.

  Returns:
    x after the last step; with `trajectory` (x, Steps).

  Raises:
    ValueError: where the table needs noise and there is none, or epsilon is predicted where no signal is left.
  """
  targets.check(target)
  if 'noise' in table.terms and noise is None:
    raise ValueError('this sampler adds noise at each step: pass noise(step), or take eta=0')
  if target == targets.EPSILON and isinstance(table.alpha_bar, np.ndarray) and np.any(table.alpha_bar == 0):
    raise ValueError('epsilon says nothing of x0 at zero signal: predict velocity or x0, or leave that timestep out')
  constrain = constrain or (lambda tree: tree)
  multistep = 'x0_previous' in table.terms

  def body(carry, row_and_index):
    x, x0_previous = carry
    row, index = row_and_index
    mean, x0, deviation = _mean(denoise, x, x0_previous, row, target, clip)
    after = mean
    if 'noise' in table.terms:
      after = jax.tree.map(lambda m, s, z: m + s * z, mean, deviation, noise(index))
    after = constrain(jax.tree.map(lambda a, old: a.astype(old.dtype), after, x))
    return (after, x0 if multistep else None), Steps(after, x0, mean) if trajectory else None

  x = constrain(jax.tree.map(jnp.asarray, x))
  start = (x, jax.tree.map(jnp.zeros_like, x) if multistep else None)
  (x, _), steps = jax.lax.scan(body, start, (table, jnp.arange(len(table))))
  return (x, steps) if trajectory else x


def _mean(denoise, x, x0_previous, row, target, clip):
  """A step without its noise: (its mean, x0, its standard deviation for each leaf)."""
  output, spread = split_variance(denoise(x, row), x)
  x0 = targets.to_x0(target, output, x, row)
  if clip is not None:
    x0 = clip(x0) if callable(clip) else jax.tree.map(lambda a: jnp.clip(a, -clip, clip), x0)
  mean = jax.tree.map(lambda a: row.x0 * a, x0)
  if 'x' in row.terms:
    mean = jax.tree.map(lambda m, a: m + row.x * a, mean, x)
  if 'epsilon' in row.terms:
    if clip is not None and row.epsilon_from_clipped:
      epsilon = targets.to_epsilon(targets.X0, x0, x, row)
    else:
      epsilon = targets.to_epsilon(target, output, x, row)
    mean = jax.tree.map(lambda m, e: m + row.epsilon * e, mean, epsilon)
  if 'x0_previous' in row.terms:
    mean = jax.tree.map(lambda m, a: m + row.x0_previous * a, mean, x0_previous)
  if 'learned' in row.terms:
    if jax.tree.structure(spread) != jax.tree.structure(x):
      raise ValueError('learned variance: the network must return twice the channels of x')
    deviation = jax.tree.map(lambda v: row.noise * jnp.exp(0.5 * log_variance(v, row)), spread)
  else:
    deviation = jax.tree.map(lambda a: row.noise, x)
  return mean, x0, deviation


def split_variance(output: Any, x: Any) -> tuple[Any, Any]:
  """A network's output as (prediction, what it says of its variance or None), by its channels; trees like x."""

  def split(o, a, half):
    if o.shape[-1] == a.shape[-1]:
      return o if half == 0 else None
    if o.shape[-1] != 2 * a.shape[-1]:
      raise ValueError(f'the network returned {o.shape[-1]} channels for {a.shape[-1]}: expected as many or twice')
    return o[..., : a.shape[-1]] if half == 0 else o[..., a.shape[-1] :]

  return tuple(jax.tree.map(lambda a, o, half=half: split(o, a, half), x, output) for half in (0, 1))


def log_variance(spread: jax.Array, row: Table) -> jax.Array:
  """The variance a network learned (improved DDPM eq. 15): spread -1 is the row's lower end, 1 its upper."""
  fraction = (spread + 1) / 2
  return fraction * row.log_variance_max + (1 - fraction) * row.log_variance

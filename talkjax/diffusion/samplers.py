"""Samplers: each is a table of coefficients, and `sample` is one scan over such a table.

For every sampler here, a step from x to the less noisy x' is

    x' = table.x * x + table.x0 * x0 + table.epsilon * epsilon + table.x0_previous * x0' + table.noise * z

where x0 and epsilon are computed from the network's output at x (targets.py), x0' is the x0 of the previous step, and
z is fresh noise. `ddpm`, `ddim`, `dpm_solver_pp_2m` and `palette` differ only in their tables.

The caller provides the noise: the initial x, and z from `noise(step)`. If noise is keyed by (seed, frame) and folded
with the step, a frame does not depend on the batch, window and device it is sampled in.
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
  """The steps of a sampler, noisiest first: all [steps] float32. A denoiser receives one row as its `level`."""

  timestep: Any  # the network's timestep input
  alpha_bar: Any
  signal_scale: Any  # sqrt(alpha_bar)
  noise_scale: Any  # sqrt(1 - alpha_bar)
  x: Any
  x0: Any
  epsilon: Any
  x0_previous: Any
  noise: Any  # standard deviation; with learned variance 1 if the step adds noise, else 0
  variance: Any  # of the reverse step, also if the step adds no noise (classifier guidance reads it)
  log_variance: Any  # clipped logarithm of it; with learned variance the lower end of the range
  log_variance_max: Any  # upper end of the range
  # Which of x, epsilon, x0_previous, noise and learned (variance) the steps use; `sample` does not compute the others.
  terms: frozenset[str] = frozenset()
  epsilon_from_clipped: bool = True  # recompute epsilon from the clipped x0

  def __len__(self) -> int:
    return self.x0.shape[0]

  def rows(self, index: Any) -> 'Table':
    """Selected rows: a list of steps, a slice, or one index (which gives scalars: a level)."""
    return jax.tree.map(lambda a: a[index], self)


_META = ('terms', 'epsilon_from_clipped')
jax.tree_util.register_dataclass(Table, [f.name for f in dataclasses.fields(Table) if f.name not in _META], _META)


@dataclasses.dataclass(frozen=True)
class Steps:
  """Intermediate results of each step, [steps, ...] each, in sampling order."""

  x: Any  # after the step, including noise and constraint
  x0: Any  # the clean example predicted at the step (clipped)
  mean: Any  # the step's result before noise and constraint


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
    schedule: the schedule the network was trained on.
    steps: number of steps (see schedules.spaced), or the schedule's entries to visit, noisiest first.
    spacing, offset: see schedules.spaced.
    variance: 'fixed_small' (the posterior's), 'fixed_large' (beta) or 'learned_range' (the network interpolates between
      the two; its output has twice the channels).
    first_variance: see schedules.posterior.

  Returns:
    A table. The step from entry 0 of the schedule adds no noise.

  Raises:
    ValueError: for an unknown spacing or variance, or too many steps.
  """
  if variance not in VARIANCES:
    raise ValueError(f'unknown variance {variance!r}: expected one of {", ".join(VARIANCES)}')
  entries = _entries(schedule, steps, spacing, offset)
  alpha_bar = schedule.alpha_bar[entries]
  previous = np.append(alpha_bar[1:], 1.0)
  betas = 1.0 - alpha_bar / previous
  # The posterior's tables are ordered from least to most noise.
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
  """Ancestral sampling over every step of this schedule with the posterior's variance (SR3 algorithm 2, Palette).

  The network is conditioned on alpha_bar itself (`level.alpha_bar`), not on a timestep, so it can be sampled with any
  schedule that ends where the training schedule does. For fewer steps make a shorter one with
  `schedules.make('cosine', 100)` or, of a schedule given by betas, `schedules.resample(trained, 100)`.
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
    eta: 0 is deterministic, 1 adds as much noise as DDPM.
    previous: the entry a step leads to: the 'next' one of the list, or one 'stride' below this one (diffusers; both are
      the same if the number of steps divides the length of the schedule).
    final_alpha_bar: alpha_bar after the last step; diffusers without set_alpha_to_one uses schedule.alpha_bar[0].
    epsilon_from_clipped: recompute epsilon from the clipped x0 (guided-diffusion) or keep the prediction (diffusers).
  """
  entries = _entries(schedule, steps, spacing, offset)
  if previous == 'stride':
    target = entries - schedule.num_steps // len(entries)
  else:
    target = np.append(entries[1:], -1)
  alpha_bar = schedule.alpha_bar[entries]
  alpha_bar_previous = np.where(target >= 0, schedule.alpha_bar[np.maximum(target, 0)], final_alpha_bar)
  variance = (1 - alpha_bar_previous) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_previous)  # eq. 16, eta = 1
  noise = eta * np.sqrt(np.maximum(variance, 0.0))
  return _table(
    schedule,
    entries,
    x0=np.sqrt(alpha_bar_previous),
    epsilon=np.sqrt(np.maximum(1 - alpha_bar_previous - noise**2, 0.0)),
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
  """DPM-Solver++(2M), a deterministic second-order multistep solver (arXiv 2211.01095, algorithm 2).

  Args:
    schedule, steps, spacing, offset: see `ddpm`; leading and linspace are spaced as in multistep solvers.
    lambda_min: skip timesteps with log(signal_scale / noise_scale) below this (-5.1 helps cosine schedules).
    final: noise level after the last step: 'zero', or 'sigma_min', that of the schedule's first entry.
    solver: type of the second-order update: 'midpoint' or 'heun'.
    lower_order_final: make the last of fewer than 15 steps first order, for stability (a step to zero noise always is).
  """
  half_log_snr = _half_log_snr(schedule.alpha_bar)
  last = int(np.sum(half_log_snr >= lambda_min))
  entries = _entries(schedule, steps, spacing, offset, multistep=True, last=last)
  alpha_bar = schedule.alpha_bar[entries]
  target = np.append(alpha_bar[1:], 1.0 if final == 'zero' else schedule.alpha_bar[0])
  lambda_from, lambda_to = _half_log_snr(alpha_bar), _half_log_snr(target)
  with np.errstate(invalid='ignore', divide='ignore'):
    h = lambda_to - lambda_from
    # alpha_t (1 - exp(-h)): the weight of x0 in a first-order step; finite from pure noise and to zero noise.
    weight = np.sqrt(target) * -np.expm1(-h)
    h_previous = np.append(np.inf, h[:-1])  # the first step has no previous one: first order
    inverse_r = np.where(np.isfinite(h_previous) & np.isfinite(h), h / h_previous, 0.0)
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


def _entries(schedule: Schedule, steps: int | Sequence[int], spacing: str, offset: int, **options) -> np.ndarray:
  if isinstance(steps, int | np.integer):
    entries = schedules.spaced(spacing, schedule.num_steps, int(steps), offset, **options)
  else:
    entries = np.asarray(steps)
  if not len(entries) or np.any(np.diff(entries) >= 0) or entries[-1] < 0 or entries[0] >= schedule.num_steps:
    raise ValueError(f'steps must decrease from at most {schedule.num_steps - 1} to at least 0, noisiest first')
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
  """Runs a sampler's table: one lax.scan, to be called inside jit.

  Args:
    denoise: (x, level) -> the network's output, a tree like x, or with twice its channels on the last axis if the
      network learned its variance. `level` is a row of the table: timestep, alpha_bar and its other fields as scalars.
    x: the initial (noisiest) examples, a tree of arrays [b, ...], float32.
    table: a sampler. A table of one row (`table.rows([i])`) takes a single step.
    noise: step (0, 1, ... in sampling order) -> standard normal values like x; may be None if the table adds no noise.
    target: what the network predicts: 'epsilon', 'x0' or 'velocity'.
    clip: bound on the absolute value of x0, or a function of the x0 tree; None does not clip.
    constrain: applied to x before the first and after each step, such as pasting known pixels.
    trajectory: also return `Steps`.

  Returns:
    x after the last step; with `trajectory` (x, Steps).

  Raises:
    ValueError: the table adds noise and `noise` is None, or the target is epsilon at a timestep with zero signal.
  """
  targets.check(target)
  if 'noise' in table.terms and noise is None:
    raise ValueError('this sampler adds noise at each step: pass noise(step), or take eta=0')
  if target == targets.EPSILON and isinstance(table.alpha_bar, np.ndarray) and np.any(table.alpha_bar == 0):
    raise ValueError('epsilon does not determine x0 at zero signal: predict velocity or x0, or leave that timestep out')
  constrain = constrain or (lambda tree: tree)
  multistep = 'x0_previous' in table.terms

  def body(carry, row_and_index):
    x, x0_previous = carry
    row, index = row_and_index
    mean, x0, deviation = _mean(denoise, x, x0_previous, row, target, clip)
    x_next = mean
    if 'noise' in table.terms:
      x_next = jax.tree.map(lambda m, s, z: m + s * z, mean, deviation, noise(index))
    x_next = constrain(jax.tree.map(lambda a, old: a.astype(old.dtype), x_next, x))
    return (x_next, x0 if multistep else None), Steps(x_next, x0, mean) if trajectory else None

  x = constrain(jax.tree.map(jnp.asarray, x))
  start = (x, jax.tree.map(jnp.zeros_like, x) if multistep else None)
  (x, _), steps = jax.lax.scan(body, start, (table, jnp.arange(len(table))))
  return (x, steps) if trajectory else x


def _mean(denoise, x, x0_previous, row, target, clip):
  """A step before its noise is added: (mean, x0, standard deviation per leaf)."""
  output, variance_output = split_variance(denoise(x, row), x)
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
    if jax.tree.structure(variance_output) != jax.tree.structure(x):
      raise ValueError('learned variance: the network must return twice the channels of x')
    deviation = jax.tree.map(lambda v: row.noise * jnp.exp(0.5 * log_variance(v, row)), variance_output)
  else:
    deviation = jax.tree.map(lambda a: row.noise, x)
  return mean, x0, deviation


def split_variance(output: Any, x: Any) -> tuple[Any, Any]:
  """Splits a network's output by channels into (prediction, variance output or None), trees like x."""

  def split(o, a, half):
    if o.shape[-1] == a.shape[-1]:
      return o if half == 0 else None
    if o.shape[-1] != 2 * a.shape[-1]:
      raise ValueError(
        f'the network returned {o.shape[-1]} channels for {a.shape[-1]}: expected as many or twice as many'
      )
    return o[..., : a.shape[-1]] if half == 0 else o[..., a.shape[-1] :]

  return tuple(jax.tree.map(lambda a, o, half=half: split(o, a, half), x, output) for half in (0, 1))


def log_variance(variance_output: jax.Array, row: Table) -> jax.Array:
  """Learned log variance (improved DDPM eq. 15): output -1 is the lower end of the row's range, 1 the upper end."""
  fraction = (variance_output + 1) / 2
  return fraction * row.log_variance_max + (1 - fraction) * row.log_variance

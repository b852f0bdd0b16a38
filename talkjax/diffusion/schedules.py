"""Noise schedules: the signal and noise scales of each timestep, and the timesteps a sampler visits.

A schedule is computed once in float64 numpy, outside compiled functions. With alpha_bar the product of (1 - beta) up to
a timestep, the noisy example is (DDPM, arXiv 2006.11239, eq. 4)

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon

A `Level` holds the two factors, each rounded to float32 separately: 1 - alpha_bar computed in float32 has no correct
digits if beta starts at 1e-6.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Tables over timesteps, least noisy first; all [t] float64."""

  betas: np.ndarray
  alpha_bar: np.ndarray
  timesteps: np.ndarray | None = None  # the network's timestep input at each entry; None: 0, 1, 2, ...

  def __post_init__(self):
    if self.timesteps is None:
      object.__setattr__(self, 'timesteps', np.arange(len(self.betas), dtype=np.float64))

  @property
  def num_steps(self) -> int:
    return len(self.betas)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Level:
  """Noise levels, scalars or [b] float32."""

  timestep: Any
  alpha_bar: Any
  signal_scale: Any  # sqrt(alpha_bar)
  noise_scale: Any  # sqrt(1 - alpha_bar)


@dataclasses.dataclass(frozen=True)
class Posterior:
  """q(x_{t-1} | x_t, x_0), DDPM eq. 7: mean = x0_scale * x_0 + x_scale * x_t. All [t] float64."""

  x0_scale: np.ndarray
  x_scale: np.ndarray
  variance: np.ndarray
  log_variance: np.ndarray  # clipped, see `posterior`


# --- schedules by name


def from_betas(betas: np.ndarray) -> Schedule:
  """The schedule with these betas [t], each in (0, 1]."""
  betas = np.asarray(betas, np.float64)
  if betas.ndim != 1 or not len(betas) or betas.min() < 0 or betas.max() > 1:
    raise ValueError('betas must be a non-empty list of numbers between 0 and 1')
  return Schedule(betas, np.cumprod(1.0 - betas))


def linear(steps: int, start: float = 1e-4, end: float = 2e-2, reference_steps: int | None = None) -> Schedule:
  """Betas evenly spaced from start to end (DDPM section 4).

  With `reference_steps`, start and end are those of a schedule of that length, scaled by reference_steps / steps, so a
  shorter schedule ends at the same noise level (guided-diffusion, reference_steps=1000).
  """
  scale = reference_steps / steps if reference_steps else 1.0
  return from_betas(np.linspace(scale * start, scale * end, steps, dtype=np.float64))


def scaled_linear(steps: int, start: float = 0.00085, end: float = 0.012) -> Schedule:
  """Square roots of betas evenly spaced (latent diffusion's default; called 'quad' elsewhere)."""
  return from_betas(np.linspace(math.sqrt(start), math.sqrt(end), steps, dtype=np.float64) ** 2)


def cosine(steps: int, offset: float = 0.008, max_beta: float = 0.999) -> Schedule:
  """alpha_bar as a squared cosine (arXiv 2102.09672, eq. 17), betas capped; equals diffusers' squaredcos_cap_v2."""
  angles = (np.arange(steps + 1, dtype=np.float64) / steps + offset) / (1.0 + offset) * math.pi / 2
  alpha_bar = np.cos(angles) ** 2
  return from_betas(np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], max_beta))


def warmup(steps: int, start: float = 1e-6, end: float = 1e-2, fraction: float = 0.1) -> Schedule:
  """Betas rise linearly over the first `fraction` of the timesteps, then stay at end."""
  betas = np.full(steps, end, np.float64)
  rising = int(steps * fraction)
  betas[:rising] = np.linspace(start, end, rising, dtype=np.float64)
  return from_betas(betas)


def constant(steps: int, end: float = 1e-2) -> Schedule:
  """The same beta at every timestep."""
  return from_betas(np.full(steps, end, np.float64))


def log_snr(steps: int, start: float = 10.0, end: float = -10.0) -> Schedule:
  """log(alpha_bar / (1 - alpha_bar)) evenly spaced from start to end (as in VDM, arXiv 2107.00630, appendix D)."""
  alpha_bar = 1 / (1 + np.exp(-np.linspace(start, end, steps, dtype=np.float64)))
  return from_betas(1 - alpha_bar / np.append(1.0, alpha_bar[:-1]))


def jsd(steps: int) -> Schedule:
  """Betas 1/T, 1/(T-1), ..., 1: alpha_bar falls linearly to exactly 0 (Sohl-Dickstein et al. 2015)."""
  return from_betas(1.0 / np.linspace(steps, 1, steps, dtype=np.float64))


def resample(schedule: Schedule, steps: int) -> Schedule:
  """The schedule with another number of timesteps, which ends at the same noise level.

  log(alpha_bar) is interpolated over time, so betas grow by about num_steps / steps, as SR3 and Palette scale the ends
  of their linear schedules for sampling in fewer steps.
  """
  log_alpha_bar = np.log(np.append(1.0, schedule.alpha_bar))
  times = np.arange(schedule.num_steps + 1) / schedule.num_steps
  log_alpha_bar = np.interp(np.arange(steps + 1) / steps, times, log_alpha_bar)
  return from_betas(-np.expm1(np.diff(log_alpha_bar)))


def make(
  name: str,
  steps: int,
  start: float | None = None,
  end: float | None = None,
  *,
  zero_snr: bool = False,
  reference_steps: int | None = None,
) -> Schedule:
  """The schedule of the given name, as used in configs.

  Args:
    name: linear, scaled_linear (or quad), cosine (or squaredcos_cap_v2), warmup10, warmup50, const, jsd, log_snr.
    steps: timesteps T.
    start, end: first and last beta (of log_snr: first and last log SNR) if the schedule has them; None is its default.
    zero_snr: rescale to zero terminal signal-to-noise ratio.
    reference_steps: timesteps of the schedule that `start` and `end` are betas of, if that is not `steps`, see
      `resample`. Schedules that are functions of t / T (cosine, jsd, log_snr) end where they should at any length.

  Raises:
    ValueError: for an unknown name.
  """
  resampled = reference_steps not in (None, steps) and name not in ('cosine', 'squaredcos_cap_v2', 'jsd', 'log_snr')
  wanted, steps = steps, reference_steps if resampled else steps
  ends = {k: v for k, v in (('start', start), ('end', end)) if v is not None}
  last = {k: v for k, v in ends.items() if k == 'end'}
  makers = {
    'linear': lambda: linear(steps, **ends),
    'scaled_linear': lambda: scaled_linear(steps, **ends),
    'quad': lambda: scaled_linear(steps, **({'start': 1e-6, 'end': 1e-2} | ends)),
    'cosine': lambda: cosine(steps),
    'squaredcos_cap_v2': lambda: cosine(steps),
    'warmup10': lambda: warmup(steps, fraction=0.1, **ends),
    'warmup50': lambda: warmup(steps, fraction=0.5, **ends),
    'const': lambda: constant(steps, **last),
    'jsd': lambda: jsd(steps),
    'log_snr': lambda: log_snr(steps, **ends),
  }
  if name not in makers:
    raise ValueError(f'unknown noise schedule {name!r}: expected one of {", ".join(makers)}')
  schedule = resample(makers[name](), wanted) if resampled else makers[name]()
  return zero_terminal_snr(schedule) if zero_snr else schedule


def zero_terminal_snr(schedule: Schedule) -> Schedule:
  """The schedule rescaled to zero signal at the last timestep (arXiv 2305.08891, algorithm 1).

  The result has the dtype of the schedule's tables.
  """
  root = np.sqrt(schedule.alpha_bar)
  root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
  alpha_bar = root**2
  alphas = np.concatenate([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
  return Schedule(1.0 - alphas, alpha_bar, schedule.timesteps)


def posterior(schedule: Schedule, first: str = 'floor') -> Posterior:
  """The tables of q(x_{t-1} | x_t, x_0).

  The variance of the first entry is 0, so its logarithm is -infinity: `first` 'floor' uses log(max(variance, 1e-20))
  (SR3, Palette, diffusers), 'next' the second entry's value (guided-diffusion).
  """
  previous = np.append(1.0, schedule.alpha_bar[:-1])
  return posterior_between(schedule.betas, schedule.alpha_bar, previous, first)


def posterior_between(betas: np.ndarray, alpha_bar: np.ndarray, previous: np.ndarray, first: str) -> Posterior:
  """As `posterior`, between alpha_bar and the less noisy `previous`, with betas = 1 - alpha_bar / previous."""
  rest = 1.0 - alpha_bar
  variance = betas * (1.0 - previous) / rest
  if first == 'next':
    log_variance = np.log(np.append(variance[1:2] if len(variance) > 1 else [1e-20], variance[1:]))
  else:
    log_variance = np.log(np.maximum(variance, 1e-20))
  return Posterior(
    x0_scale=betas * np.sqrt(previous) / rest,
    x_scale=(1.0 - previous) * np.sqrt(1.0 - betas) / rest,
    variance=variance,
    log_variance=log_variance,
  )


# --- which timesteps


def spaced(
  spacing: str, num_train: int, steps: int, offset: int = 0, multistep: bool = False, last: int | None = None
) -> np.ndarray:
  """Timesteps a sampler visits, noisiest first.

  Args:
    spacing: 'leading' (multiples of num_train // steps from 0), 'trailing' (ends at the last timestep; the one to use
      with zero terminal SNR), 'linspace' (both ends).
    num_train: timesteps of the schedule.
    steps: timesteps wanted, at most num_train.
    offset: added to leading timesteps (Stable Diffusion uses 1).
    multistep: space leading and linspace as diffusers' multistep solvers do: one more, then drop the least noisy.
    last: visit only timesteps below this one (if the noisiest have almost no signal).

  Returns:
    [steps] int64, equal to those of diffusers' schedulers (trailing with `last` may return fewer).

  Raises:
    ValueError: for an unknown spacing or too many steps.
  """
  if not 1 <= steps <= num_train:
    raise ValueError(f'cannot take {steps} steps of a schedule of {num_train}: ask for 1 to {num_train}')
  count, selected = (steps + 1, slice(None, -1)) if multistep else (steps, slice(None))
  last = num_train if last is None else last
  if spacing == 'leading':
    return (np.arange(count) * (last // count))[::-1][selected] + offset
  if spacing == 'linspace':
    return np.round(np.linspace(0, last - 1, count))[::-1][selected].astype(np.int64)
  if spacing == 'trailing':
    return np.round(np.arange(last, 0, -num_train / steps)[:steps]).astype(np.int64) - 1
  raise ValueError(f'unknown spacing {spacing!r}: expected leading, trailing or linspace')


def sections(text: str, num_train: int) -> np.ndarray:
  """The timesteps of a guided-diffusion respacing string, least noisy first, int64.

  'ddimN' uses the smallest integer stride that gives exactly N timesteps from 0. 'a,b,c' splits the schedule into three
  parts (one per number) and takes a, b and c timesteps of them, both ends included. '' takes all timesteps.

  Raises:
    ValueError: no integer stride gives N, or a part has fewer timesteps than requested.
  """
  if not text:
    return np.arange(num_train)
  if text.startswith('ddim'):
    wanted = int(text[4:])
    for stride in range(1, num_train):
      if len(range(0, num_train, stride)) == wanted:
        return np.arange(0, num_train, stride)
    raise ValueError(f'no integer stride takes exactly {wanted} of {num_train} timesteps')
  counts = [int(n) for n in text.split(',')]
  size, larger = divmod(num_train, len(counts))
  selected, start = [], 0
  for part, count in enumerate(counts):
    length = size + (part < larger)
    if count > length:
      raise ValueError(f'cannot take {count} of the {length} timesteps of part {part + 1} of {text!r}')
    stride = (length - 1) / (count - 1) if count > 1 else 1.0
    position = 0.0  # accumulated, not multiplied, to reproduce the published rounding
    for _ in range(count):
      selected.append(start + round(position))
      position += stride
    start += length
  return np.unique(selected)


def respace(schedule: Schedule, entries: Sequence[int] | np.ndarray) -> Schedule:
  """A schedule of these entries only (least noisy first): their alpha_bar and timesteps, and new betas."""
  entries = np.asarray(entries)
  alpha_bar = schedule.alpha_bar[entries]
  betas = 1.0 - alpha_bar / np.append(1.0, alpha_bar[:-1])
  return Schedule(betas, alpha_bar, schedule.timesteps[entries])


# --- levels for training


def level_at(schedule: Schedule, index: jax.Array | np.ndarray | int) -> Level:
  """The levels at entries `index` (any shape) of the schedule."""

  def gather(table):
    return jnp.asarray(table.astype(np.float32))[index]

  a = schedule.alpha_bar
  return Level(gather(schedule.timesteps), gather(a), gather(np.sqrt(a)), gather(np.sqrt(1 - a)))


def uniform_level(key: jax.Array, schedule: Schedule, batch: int) -> Level:
  """A level per example, [b]; every timestep is equally likely.

  The batch is spaced evenly over the timesteps from a random offset (low-discrepancy sampling, Variational Diffusion
  Models, arXiv 2107.00630, appendix I.1), so a small batch also covers high and low noise levels.
  """
  offset = jax.random.uniform(key)
  position = (offset + jnp.arange(batch) / batch) % 1.0
  return level_at(schedule, jnp.minimum((position * schedule.num_steps).astype(jnp.int32), schedule.num_steps - 1))


def continuous_level(key: jax.Array, schedule: Schedule, batch: int) -> Level:
  """A level per example, [b]; alpha_bar is uniform between two neighbouring entries of the schedule.

  SR3, arXiv 2104.07636, section 2.4. The timestep is interpolated by the same fraction as alpha_bar.
  """
  entry_key, fraction_key = jax.random.split(key)
  upper = jax.random.randint(entry_key, (batch,), 1, schedule.num_steps)
  fraction = jax.random.uniform(fraction_key, (batch,))

  def interpolate(table):
    table = jnp.asarray(table.astype(np.float32))
    return table[upper - 1] + (table[upper] - table[upper - 1]) * fraction

  alpha_bar, rest = interpolate(schedule.alpha_bar), interpolate(1.0 - schedule.alpha_bar)
  return Level(interpolate(schedule.timesteps), alpha_bar, jnp.sqrt(alpha_bar), jnp.sqrt(rest))

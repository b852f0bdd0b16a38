"""Noise schedules: how much of the signal is left at each timestep, and which timesteps a sampler visits.

A schedule is made in float64 numpy, once, outside any compiled function. With alpha_bar the product of (1 - beta) up to
a timestep, the noisy picture is (DDPM, arXiv 2006.11239, eq. 4)

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon

and the two factors travel as a `Level`, each rounded to float32 by itself: 1 - alpha_bar taken in float32 would have no
digits left where beta starts at 1e-6.
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
  """Tables over timesteps, least noise first; all [t] float64."""

  betas: np.ndarray
  alpha_bar: np.ndarray
  timesteps: np.ndarray | None = None  # what the network is told at each entry; None: 0, 1, 2, ...

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
  """The schedule of these betas [t], each in (0, 1]."""
  betas = np.asarray(betas, np.float64)
  if betas.ndim != 1 or not len(betas) or betas.min() < 0 or betas.max() > 1:
    raise ValueError('betas must be a non-empty list of numbers between 0 and 1')
  return Schedule(betas, np.cumprod(1.0 - betas))


def linear(steps: int, start: float = 1e-4, end: float = 2e-2, reference_steps: int | None = None) -> Schedule:
  """Betas in equal steps from start to end (DDPM section 4).

  With `reference_steps`, start and end are those of a schedule that long and are scaled by reference_steps / steps, so
  that a shorter schedule ends in as much noise (guided-diffusion, reference_steps=1000).
  """
  scale = reference_steps / steps if reference_steps else 1.0
  return from_betas(np.linspace(scale * start, scale * end, steps, dtype=np.float64))


def scaled_linear(steps: int, start: float = 0.00085, end: float = 0.012) -> Schedule:
  """Square roots of betas in equal steps (latent diffusion's default; called 'quad' elsewhere)."""
  return from_betas(np.linspace(math.sqrt(start), math.sqrt(end), steps, dtype=np.float64) ** 2)


def cosine(steps: int, offset: float = 0.008, max_beta: float = 0.999) -> Schedule:
  """alpha_bar a squared cosine (arXiv 2102.09672, eq. 17), betas capped; the same as diffusers' squaredcos_cap_v2."""
  angles = (np.arange(steps + 1, dtype=np.float64) / steps + offset) / (1.0 + offset) * math.pi / 2
  alpha_bar = np.cos(angles) ** 2
  return from_betas(np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], max_beta))


def warmup(steps: int, start: float = 1e-6, end: float = 1e-2, fraction: float = 0.1) -> Schedule:
  """Betas rise in equal steps over the first `fraction` of the timesteps, then stay at end."""
  betas = np.full(steps, end, np.float64)
  rising = int(steps * fraction)
  betas[:rising] = np.linspace(start, end, rising, dtype=np.float64)
  return from_betas(betas)


def constant(steps: int, end: float = 1e-2) -> Schedule:
  """The same beta at every timestep."""
  return from_betas(np.full(steps, end, np.float64))


def log_snr(steps: int, start: float = 10.0, end: float = -10.0) -> Schedule:
  """log(alpha_bar / (1 - alpha_bar)) in equal steps from start to end (as in VDM, arXiv 2107.00630, appendix D)."""
  alpha_bar = 1 / (1 + np.exp(-np.linspace(start, end, steps, dtype=np.float64)))
  return from_betas(1 - alpha_bar / np.append(1.0, alpha_bar[:-1]))


def jsd(steps: int) -> Schedule:
  """Betas 1/T, 1/(T-1), ..., 1: alpha_bar falls in equal steps to exactly 0 (Sohl-Dickstein et al. 2015)."""
  return from_betas(1.0 / np.linspace(steps, 1, steps, dtype=np.float64))


def make(
  name: str, steps: int, start: float | None = None, end: float | None = None, *, zero_snr: bool = False
) -> Schedule:
  """A schedule by the name a config gives it.

  Args:
    name: linear, scaled_linear (or quad), cosine (or squaredcos_cap_v2), warmup10, warmup50, const, jsd, log_snr.
    steps: timesteps T.
    start, end: first and last beta (of log_snr: its ends) where the schedule has them; None takes the schedule's own.
    zero_snr: rescale to zero terminal signal-to-noise ratio.

  Raises:
    ValueError: for an unknown name.
  """
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
  schedule = makers[name]()
  return zero_terminal_snr(schedule) if zero_snr else schedule


def zero_terminal_snr(schedule: Schedule) -> Schedule:
  """The schedule rescaled so that nothing of the signal is left at the last timestep (arXiv 2305.08891, algorithm 1).

  In the type of the schedule's tables.
  """
  root = np.sqrt(schedule.alpha_bar)
  root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
  alpha_bar = root**2
  alphas = np.concatenate([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
  return Schedule(1.0 - alphas, alpha_bar, schedule.timesteps)


def posterior(schedule: Schedule, first: str = 'floor') -> Posterior:
  """The tables of q(x_{t-1} | x_t, x_0).

  The variance at the first entry is 0 and has no logarithm: `first` 'floor' takes log(max(variance, 1e-20)) (SR3,
  Palette, diffusers), 'next' the second entry's value (guided-diffusion).
  """
  previous = np.append(1.0, schedule.alpha_bar[:-1])
  return posterior_between(schedule.betas, schedule.alpha_bar, previous, first)


def posterior_between(betas: np.ndarray, alpha_bar: np.ndarray, previous: np.ndarray, first: str) -> Posterior:
  """The same between any two levels, alpha_bar and the less noisy `previous`, with betas = 1 - alpha_bar / previous."""
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
  """Timesteps a sampler visits, most noise first.

  Args:
    spacing: 'leading' (multiples of num_train // steps from 0), 'trailing' (ends at the last timestep; the one to use
      with zero terminal SNR), 'linspace' (both ends).
    num_train: timesteps of the schedule.
    steps: timesteps wanted, at most num_train.
    offset: added to leading timesteps (Stable Diffusion uses 1).
    multistep: lay leading and linspace as diffusers' multistep solvers: one more, and the least noisy is dropped.
    last: only timesteps below this one are visited (where the noisiest carry no signal worth a step).

  Returns:
    [steps] int64 (trailing with `last`: perhaps fewer), as diffusers' schedulers give them.

  Raises:
    ValueError: for an unknown spacing or too many steps.
  """
  if not 1 <= steps <= num_train:
    raise ValueError(f'cannot take {steps} steps of a schedule of {num_train}: ask for 1 to {num_train}')
  laid, kept = (steps + 1, slice(None, -1)) if multistep else (steps, slice(None))
  last = num_train if last is None else last
  if spacing == 'leading':
    return (np.arange(laid) * (last // laid))[::-1][kept] + offset
  if spacing == 'linspace':
    return np.round(np.linspace(0, last - 1, laid))[::-1][kept].astype(np.int64)
  if spacing == 'trailing':
    return np.round(np.arange(last, 0, -num_train / steps)[:steps]).astype(np.int64) - 1
  raise ValueError(f'unknown spacing {spacing!r}: expected leading, trailing or linspace')


def sections(text: str, num_train: int) -> np.ndarray:
  """The timesteps of a guided-diffusion respacing string, least noise first, int64.

  'ddimN' takes the first whole stride that gives exactly N timesteps from 0; 'a,b,c' cuts the schedule into as many
  parts and takes that many timesteps of each, both ends included; '' takes all.

  Raises:
    ValueError: where no whole stride gives N, or a part is shorter than the number wanted of it.
  """
  if not text:
    return np.arange(num_train)
  if text.startswith('ddim'):
    wanted = int(text[4:])
    for stride in range(1, num_train):
      if len(range(0, num_train, stride)) == wanted:
        return np.arange(0, num_train, stride)
    raise ValueError(f'no whole stride takes exactly {wanted} of {num_train} timesteps')
  counts = [int(n) for n in text.split(',')]
  size, larger = divmod(num_train, len(counts))
  kept, start = [], 0
  for part, count in enumerate(counts):
    length = size + (part < larger)
    if count > length:
      raise ValueError(f'cannot take {count} of the {length} timesteps of part {part + 1} of {text!r}')
    stride = (length - 1) / (count - 1) if count > 1 else 1.0
    position = 0.0  # added up, not multiplied: rounding as published
    for _ in range(count):
      kept.append(start + round(position))
      position += stride
    start += length
  return np.unique(kept)


def respace(schedule: Schedule, kept: Sequence[int] | np.ndarray) -> Schedule:
  """The schedule of the kept entries (least noise first): their alpha_bar, new betas between them, their timesteps."""
  kept = np.asarray(kept)
  alpha_bar = schedule.alpha_bar[kept]
  betas = 1.0 - alpha_bar / np.append(1.0, alpha_bar[:-1])
  return Schedule(betas, alpha_bar, schedule.timesteps[kept])


# --- levels for training


def level_at(schedule: Schedule, index: jax.Array | np.ndarray | int) -> Level:
  """The levels of entries `index` (any shape) of the schedule."""

  def gather(table):
    return jnp.asarray(table.astype(np.float32))[index]

  a = schedule.alpha_bar
  return Level(gather(schedule.timesteps), gather(a), gather(np.sqrt(a)), gather(np.sqrt(1 - a)))


def uniform_level(key: jax.Array, schedule: Schedule, batch: int) -> Level:
  """A level [b] for each example, each timestep equally likely.

  The batch is spread evenly over the timesteps from a random start (Variational Diffusion Models, arXiv 2107.00630,
  appendix I.1), so that a step of few examples has high and low levels in it.
  """
  start = jax.random.uniform(key)
  share = (start + jnp.arange(batch) / batch) % 1.0
  return level_at(schedule, jnp.minimum((share * schedule.num_steps).astype(jnp.int32), schedule.num_steps - 1))


def continuous_level(key: jax.Array, schedule: Schedule, batch: int) -> Level:
  """A level [b] for each example, alpha_bar uniform between two neighbours of the schedule.

  SR3, arXiv 2104.07636, section 2.4. The timestep lies as far between the two as alpha_bar.
  """
  which, where = jax.random.split(key)
  upper = jax.random.randint(which, (batch,), 1, schedule.num_steps)
  fraction = jax.random.uniform(where, (batch,))

  def between(table):
    table = jnp.asarray(table.astype(np.float32))
    return table[upper - 1] + (table[upper] - table[upper - 1]) * fraction

  alpha_bar, rest = between(schedule.alpha_bar), between(1.0 - schedule.alpha_bar)
  return Level(between(schedule.timesteps), alpha_bar, jnp.sqrt(alpha_bar), jnp.sqrt(rest))

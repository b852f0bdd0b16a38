"""Generates expression and pose coefficients from speech of any length (FD2Talk section 3.2).

The step of eq. 5 is DDIM's (arXiv 2010.02502, eq. 12) with sigma_t as its noise: `samplers.ddim` with
`config.sampler.eta`. The paper prints sqrt(1 - alpha_bar) - sigma^2 as the factor of the direction to x_t; the root is
meant to cover both, sqrt(1 - alpha_bar - sigma^2), as in DDIM: only then has x_{t-1} the variance of eq. 2.

Sound longer than a training clip is generated in overlapping windows, whose predictions are averaged at every step.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.diffusion import samplers, targets, windows
from talkjax.diffusion.noise import keyed_normal
from talkjax.systems.fd2talk import motion
from talkjax.training import sharding


@dataclasses.dataclass(frozen=True)
class Sampler:
  """The compiled functions of a config: their shapes depend on windows, never on a length."""

  config: object
  table: samplers.Table
  predict: Callable
  step: Callable
  noise: Callable


def make_sampler(config) -> Sampler:
  """The sampler of `config.sampler`, with windows of `config.frames`. Nothing is compiled yet."""
  from talkjax.systems.sampling import make_table

  table, width = make_table(config), config.morphable.expression + 6

  @functools.partial(jax.jit, static_argnames='parts')
  def predict(params, x, audio, level, parts):
    """x [n, f, d] and audio [n, f, a] of windows -> clean coefficients of those parts [n, f, d]."""
    sizes = [config.morphable.expression if part == motion.EXPRESSION else 6 for part in parts]
    split = jnp.split(x, np.cumsum(sizes)[:-1], axis=-1)
    clean = [motion.predict(params, part, y, level.timestep, audio, config) for part, y in zip(parts, split)]
    return jnp.concatenate(clean, axis=-1)

  temperature = np.repeat([config.temperature.expression, config.temperature.pose], [width - 6, 6]).astype(np.float32)

  def draw(x, seeds, frames, index):
    # Drawn for both parts, so that the expression is the same with and without a predicted pose.
    return (temperature * keyed_normal(seeds, frames, index, (width,)))[:, : x.shape[-1]]

  @jax.jit
  def step(prediction, x, seeds, frames, row, index):
    """x [k, d] after one step, from the mean prediction for each frame."""
    noise = lambda _: draw(x, seeds, frames, index)
    return samplers.sample(lambda *_: prediction, x, row, noise, target=targets.X0)

  return Sampler(config, table, predict, step, jax.jit(draw))


def generate_motion(
  params,
  features: Sequence[np.ndarray],
  seeds: Sequence[int],
  *,
  sampler: Sampler,
  pose: bool = True,
  progress: Callable[[float], None] | None = None,
) -> list[np.ndarray]:
  """The motion of each voice, normalised; `physical` gives the coefficients of the morphable model.

  A frame depends on its video's seed, number and sound alone: not on the batch, nor on the number of devices.

  Args:
    params: of a workdir that has stage 1, on one device or several, over which the windows are split.
    features: per voice its audio features [f, a], of any length.
    seeds: one per voice.
    sampler: from `make_sampler`, compiled once per shape of windows.
    pose: whether the pose is generated too; a pose that stays still or comes from a video needs none.
    progress: called with the fraction of the work that is done.

  Returns:
    per voice float32 [f, k_e + 6], expression, angles and translation; or [f, k_e] without pose.
  """
  config = sampler.config
  parts = motion.PARTS if pose else (motion.EXPRESSION,)
  plan = windows.plan([len(f) for f in features], config.frames, config.windows.overlap)
  groups = windows.groups(len(plan.frames), config.windows.batch_size, sharding.num_devices(params))
  place = sharding.batch_placement(params)
  audio = _window_features(features, plan)

  def predict(number, window, level):
    return sampler.predict(params, place(window), place(audio[groups[number]]), level, parts)

  shape = (config.morphable.expression + (6 if pose else 0),)
  functions = windows.Functions(sampler.noise, predict, sampler.step, sharding.whole_placement(params))
  x = np.asarray(windows.sample(shape, plan, groups, sampler.table, seeds, functions, progress=progress))
  return [x[offset : offset + len(f)] for offset, f in zip(plan.offsets, features)]


def _window_features(features: Sequence[np.ndarray], plan: windows.Plan) -> np.ndarray:
  """The audio features of each window, float32 [windows, f, a]; silence, 0, after the end of a short voice."""
  padded = [np.pad(f, ((0, size - len(f)), (0, 0))) for f, size in zip(features, plan.sizes)]
  return np.concatenate(padded).astype(np.float32)[plan.frames]


def physical(model, normalised: np.ndarray) -> np.ndarray:
  """Coefficients of the morphable model: normalised motion [..., k_e + 6] or [..., k_e] -> the same shape."""
  first = model.identity.shape[-1]
  mean, deviation = (np.asarray(row)[first : first + normalised.shape[-1]] for row in (model.row_mean, model.row_std))
  return normalised * deviation + mean

"""What speech_edit learns (eq. 5) and how it makes frames from it (eq. 6)."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.diffusion import losses, samplers, schedules, targets
from talkjax.errors import UserError
from talkjax.media.picture import to_uint8
from talkjax.nn.unet import UNet
from talkjax.systems import named_table
from talkjax.systems.speech_edit.data import Inputs


def make_schedule(diffusion, steps: int) -> schedules.Schedule:
  """The noise schedule with `steps` steps; Palette's way to fewer steps is a fresh, shorter schedule.

  Raises:
    UserError: the config names no schedule of ours.
  """
  try:
    return schedules.make(diffusion.schedule, steps, diffusion.linear_start, diffusion.linear_end)
  except ValueError as error:
    raise UserError(f'config.diffusion.schedule: {error}') from error


def init(rng: jax.Array, batch: dict[str, jax.Array], *, net: UNet) -> Any:
  """Fresh parameters."""
  x = jnp.concatenate([batch['target'], batch['previous'], batch['identity']], -1)[:1]
  return {'unet': net.init(rng, x, jnp.ones(1), batch['audio'][:1])['params']}


def predict(params, y_t, level, condition, *, net: UNet, skip: str = '', **how) -> jax.Array:
  """What the network says of noisy pictures.

  Args:
    params: from `init`.
    y_t: [b, h, w, 3], noisy inside the mask, clean outside.
    level: with `alpha_bar`, a scalar or [b].
    condition: `previous` and `identity` [b, h, w, 3], `audio` [b, d].
    net: the network.
    skip: '' for the published network. 'previous' or 'identity': the network says what to add to that frame to have the
      clean one (its target is x0), so that it need not learn to copy; small networks learn in minutes with it.
    **how: `train` and `rngs` of the network.
  """
  x = jnp.concatenate([y_t, condition['previous'], condition['identity']], -1)  # [b, h, w, 9]
  gamma = jnp.broadcast_to(level.alpha_bar, y_t.shape[:1])
  output = net.apply({'params': params['unet']}, x, gamma, condition['audio'], **how)
  return output + condition[skip] if skip else output


def loss(params, batch, rng: jax.Array, train: bool, *, predict: Callable, schedule: schedules.Schedule, target: str):
  """Eq. 5 on the masked region: the squared error of the predicted noise (or x0, or velocity) there.

  Args:
    params: from `init`.
    batch: from `read`.
    rng: of the noise, its level and the dropout.
    train: dropout on.
    predict: see `predict`.
    schedule: of the noise; its level is continuous, gamma uniform in (gamma_t, gamma_{t-1}), as in Palette.
    target: what the network predicts.

  Returns:
    (loss, metrics).
  """
  level_rng, noise_rng, dropout_rng = jax.random.split(rng, 3)
  y_0, region = batch['target'], batch['mask']
  level = schedules.continuous_level(level_rng, schedule, y_0.shape[0])
  noise = jax.random.normal(noise_rng, y_0.shape)
  # y_t = sqrt(gamma) y_0 + sqrt(1 - gamma) epsilon inside the mask (eq. 4), clean outside.
  y_t = paste(targets.add_noise(y_0, noise, level), y_0, region)
  prediction = predict(params, y_t, level, batch, train=train, rngs={'dropout': dropout_rng})
  return losses.loss(prediction, targets.make(target, y_0, noise, level), weight=region), {}


def paste(inside: jax.Array, outside: jax.Array, region: jax.Array) -> jax.Array:
  """`inside` where `region` is 1, `outside` elsewhere."""
  return region * inside + (1 - region) * outside


def make_table(config) -> samplers.Table:
  """The sampler's coefficients. `sampler.name`: palette (the published, ancestral), ddpm, ddim or dpm++.

  Raises:
    UserError: see `named_table`.
  """
  steps = config.sampler.steps
  schedule = make_schedule(config.diffusion, config.diffusion.steps)
  tables = {
    'palette': lambda: samplers.palette(make_schedule(config.diffusion, steps)),
    'ddpm': lambda: samplers.ddpm(schedule, steps, spacing='trailing'),
    'ddim': lambda: samplers.ddim(schedule, steps, eta=config.sampler.eta, spacing='trailing'),
    'dpm++': lambda: samplers.dpm_solver_pp_2m(schedule, steps, spacing='trailing'),
  }
  return named_table(tables, config.sampler)


def make_frame_step(predict: Callable, config):
  """The compiled function that makes the next frame of every video of a batch."""
  table = make_table(config)
  num_steps = config.sampler.steps

  @jax.jit
  def step(params, frame, previous, identity, seeds, number):
    clean, region = frame['clean'], frame['mask']

    def noise(index):
      """Keyed by (seed, frame, step): a video does not depend on its batch."""

      def one(seed):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), index)
        return jax.random.normal(key, clean.shape[1:])

      return jax.vmap(one)(seeds)

    def denoise(y_t, level):
      return predict(params, y_t, level, {**frame, 'previous': previous, 'identity': identity})

    return samplers.sample(
      denoise,
      noise(num_steps),
      table,
      noise,
      target=config.diffusion.target,
      clip=1.0,
      constrain=lambda y: paste(y, clean, region),  # clean pixels outside the mask at every step
    )

  return step


def generate(params, inputs: Inputs, seeds: np.ndarray, *, step) -> Iterator[np.ndarray]:
  """Frames of all videos of a batch, one after the other, as uint8 [b, h, w, 3].

  Args:
    params: from training.
    inputs: see `Inputs`.
    seeds: [b] uint32, one per video.
    step: from `make_frame_step`; compiled once per batch and picture size, never per length.
  """
  previous = None
  for number, frame in enumerate(inputs.frames):
    # As in training, the first frame's previous one is itself as it was filmed.
    previous = jnp.asarray(frame['clean']) if previous is None else previous
    previous = step(params, frame, previous, inputs.identity, np.asarray(seeds, np.uint32), number)
    yield to_uint8(previous)

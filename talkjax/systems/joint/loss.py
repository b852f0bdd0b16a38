"""Losses of joint samples."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from talkjax.diffusion import schedules, targets

BRANCH = 'network'  # of the parameters


def noised(clean, rngs, schedule: schedules.Schedule):
  """(noisy samples, their noise, their level): both modalities have the same level (MM-Diffusion, section 3.1)."""
  size = len(clean['video'])
  level = schedules.uniform_level(rngs[0], schedule, size)
  keys = dict(zip(clean, jax.random.split(rngs[1], len(clean))))
  epsilon = {name: jax.random.normal(keys[name], x.shape) for name, x in clean.items()}
  return targets.add_noise(clean, epsilon, level), epsilon, level


def init_network(net, rng: jax.Array, space, shifts: jax.Array, *captions: jax.Array, **ends: jax.Array):
  """Fresh parameters of a network of samples."""
  video, audio = (jnp.zeros((1, space.frames, *space.shapes[name])) for name in ('video', 'audio'))
  return net.init(rng, video, audio.reshape(1, -1, audio.shape[-1]), jnp.zeros(1), shifts, *captions, **ends)['params']


def apply(net, params, x: Mapping[str, jax.Array], timestep, shifts, *more, **how):
  """The network's output for noisy samples x at timesteps [b] or []."""
  timesteps = jnp.broadcast_to(timestep, x['video'].shape[:1])
  audio = x['audio']
  flat = audio.reshape(len(audio), -1, audio.shape[-1])
  made = net.apply({'params': params[BRANCH]}, x['video'], flat, timesteps, shifts, *more, **how)
  if not isinstance(made, tuple):
    return made
  return {'video': made[0], 'audio': made[1].reshape(audio.shape)}

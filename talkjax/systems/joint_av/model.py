"""The joint diffusion model of sound and picture: its parameters and its loss (sections IV.A to IV.C)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from talkjax.diffusion import losses, schedules, targets
from talkjax.metrics.suites import Suite
from talkjax.systems import joined
from talkjax.systems.joint.loss import BRANCH, apply, init_network, noised


def init(rng: jax.Array, batch: Mapping[str, jax.Array], *, space, net, config) -> Any:
  """Fresh parameters; the frozen branches are filled by training."""
  captions = (jnp.zeros(1, jnp.int32),) if config.captions else ()
  ends = space.ends(jnp.zeros(1), jnp.ones(1))
  network = init_network(net, rng, space, net.draw_shifts(rng, space.frames), *captions, **ends)
  return {**space.fresh(), **joined.fresh(config), BRANCH: network}


def loss(
  params,
  batch: Mapping[str, jax.Array],
  rng: jax.Array,
  train: bool,
  *,
  space,
  net,
  schedule: schedules.Schedule,
  config,
) -> tuple[jax.Array, dict]:
  """The squared errors of both modalities, weighted and summed (eq. 5).

  Args:
    params: from `init`.
    batch: from `data.read`.
    rng: of the noise, its level, the shifts, the captions that are dropped and the dropout.
    train: captions and activations are dropped.
    space: of the samples.
    net: the network.
    schedule: of the noise.
    config: of the system.

  Returns:
    (loss, metrics).
  """
  level_rng, noise_rng, shift_rng, caption_rng, dropout_rng = jax.random.split(rng, 5)
  clean = space.sample_of(params, batch)
  x, epsilon, level = noised(clean, (level_rng, noise_rng), schedule)
  captions = ()
  if config.captions:
    dropped = jax.random.bernoulli(caption_rng, config.caption_dropout if train else 0.0, batch['caption'].shape)
    captions = (jnp.where(dropped, len(config.captions), batch['caption']),)
  shifts = net.draw_shifts(shift_rng, space.frames)
  ends = space.ends(batch.get('first'), batch.get('length'))  # which are of motion only
  how = {**ends, 'train': train, 'rngs': {'dropout': dropout_rng}}
  output = apply(net, params, x, level.timestep, shifts, *captions, **how)
  target = targets.make(config.diffusion.target, clean, epsilon, level)
  weights = space.weights(params) or {name: None for name in clean}
  terms = {name: losses.loss(output[name], target[name], weight=weights[name]) for name in clean}
  total = config.loss.video * terms['video'] + config.loss.audio * terms['audio']
  return total, terms


def scores(speech: str) -> tuple[Suite, ...]:
  """The suites that say whether samples work: of joint samples, and of those that say a record's `speech` its lips."""
  from talkjax.metrics import pairs, suites

  return (suites.LIPS, pairs.JOINT) if speech == 'record' else (pairs.JOINT,)

"""How emo makes clips, one after the other, from what it learned."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.diffusion import guidance, samplers
from talkjax.media.picture import to_uint8
from talkjax.nn.latent_unet import hoist
from talkjax.systems.backbone import (
  Condition,
  decode,
  encode,
  from_change,
  make_table,
  modulation,
  predict,
  reference_features,
  scale_examples,
  weights_of,
)
from talkjax.systems.emo import model
from talkjax.systems.emo.data import Inputs
from talkjax.systems.portraits import padded, silence


class Sampler:
  """Two compiled functions: what is made once per video, and a clip."""

  def __init__(self, nets: model.Networks, config):
    self.nets, self.config = nets, config
    self.table = make_table(config)
    self.prepare = jax.jit(self._prepare)
    self.clip = jax.jit(self._clip)

  def _prepare(self, params, reference, region):
    """(keys and values of the portrait by path, the region's features, empty motion latents)."""
    latents = encode(params, reference, self.nets)
    attended, _ = reference_features(params, latents, None, self.nets)
    hoisted = hoist(params['backbone'], {'reference': attended}, self.nets.backbone.dtype)
    empty = jnp.zeros((latents.shape[0], self.config.motion_frames, *latents.shape[1:]), latents.dtype)
    return hoisted['reference'], model.locate(params, region, self.nets), latents, empty

  def _clip(self, params, prepared, motion, has_motion, audio, speed, seeds, number, settings):
    """The next clip: (uint8-ready pictures [b, f, h, w, 3], its last latents as the next clip's motion frames)."""
    nets, config = self.nets, self.config
    keys, added, latents, _ = prepared
    f = config.frames
    before = {}
    if config.motion_frames and nets.backbone.temporal:
      _, before = reference_features(params, latents, motion, nets)
      before = scale_examples(before, jnp.full(latents.shape[:1], has_motion))
    tokens = model.sound_tokens(params, audio, nets)
    none = model.sound_tokens(params, jnp.full_like(audio, silence(config.audio)), nets)
    sound = hoist(params['backbone'], tokens, nets.backbone.dtype)
    condition = Condition(
      {'reference': keys, **sound},
      before,
      modulation(tokens, nets),
      jnp.repeat(added, f, axis=0),
      model.speed_tokens(params, speed, nets),
      latents,
      weights_of(config, settings, latents.shape[0]),
      modulation(none, nets),
    )
    # Without its conditions: the same, with neither portrait nor sound (zero keys and values).
    parts = ('contexts', 'modulation', 'silence')
    null = dataclasses.replace(condition, **{k: jax.tree.map(jnp.zeros_like, getattr(condition, k)) for k in parts})
    shape = (f, *latents.shape[1:])

    def noise(index):
      """Keyed by (seed, frame, step): a video does not depend on its batch."""

      def one(seed):
        key = lambda i: jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number * f + i), index)
        return jax.vmap(lambda i: jax.random.normal(key(i), shape[1:]))(jnp.arange(f))

      return jax.vmap(one)(seeds)

    def denoise(x, level, condition):
      return predict(params, x, level, condition, nets=nets)

    made = samplers.sample(
      guidance.classifier_free_batched(denoise, condition, null, settings.get('guidance', config.guidance)),
      noise(config.sampler.steps),
      self.table,
      noise,
      target=config.diffusion.target,
      clip=config.sampler.clip or None,
    )
    made = from_change(made, latents, nets)
    pictures = decode(params, made.reshape(-1, *made.shape[2:]), nets)
    motion = made[:, f - config.motion_frames :] if config.motion_frames else motion
    return pictures.reshape(*made.shape[:2], *pictures.shape[1:]), motion


def generate(params, inputs: Inputs, seeds: np.ndarray, *, sampler: Sampler) -> Iterator[np.ndarray]:
  """Frames of all videos of a batch, one after the other, as uint8 [b, h, w, 3]; exactly as many as `inputs.audio`.

  Where `inputs.reference` is an array on several devices, the videos are made where it lies.

  Args:
    params: from training.
    inputs: see `Inputs`.
    seeds: [b] uint32, one per video.
    sampler: compiled once per batch and picture size, never per length.
  """
  config = sampler.config
  f, m, count = config.frames, config.margin, inputs.audio.shape[1]
  reach = m + config.audio.context
  seeds = np.asarray(seeds, np.uint32)
  place = lambda x: jax.device_put(x, inputs.reference.sharding) if isinstance(inputs.reference, jax.Array) else x
  prepared = sampler.prepare(params, inputs.reference, place(inputs.region))
  motion, waiting, seeds = prepared[-1], None, place(seeds)
  settings = {k: place(np.asarray(v, np.float32)) for k, v in inputs.settings.items()}
  for number, start in enumerate(range(0, count, f)):
    around = np.arange(start - m, start + f + m)
    # The last clip hears silence after the end, and is cut there.
    heard = np.arange(start - reach, start + f + reach)
    audio = np.stack([padded(a, heard, config.audio) for a in inputs.audio])
    speed = inputs.speed[:, np.clip(around, 0, count - 1)]
    pictures, motion = sampler.clip(
      params,
      prepared,
      motion,
      float(number > 0 and config.use_motion_frames),
      place(audio),
      place(speed),
      seeds,
      number,
      settings,
    )
    if waiting is not None:  # the clip before, whose frames are used while this one is made
      yield from to_uint8(waiting).swapaxes(0, 1)
    waiting = pictures
  yield from to_uint8(waiting).swapaxes(0, 1)[: count - start]

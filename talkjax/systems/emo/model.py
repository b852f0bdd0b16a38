"""The networks of emo and what they are conditioned on (EMO figure 2)."""

import jax
import jax.numpy as jnp

from talkjax.nn.audio_projection import AudioProjection, frame_windows
from talkjax.nn.latent_unet import Conditioning
from talkjax.nn.speed import SpeedTokens
from talkjax.systems.portrait import networks
from talkjax.systems.portrait.networks import Networks, PortraitConditioning


def make_networks(config) -> Networks:
  """The networks of a config."""
  m, dtype, speed = config.model, jnp.dtype(config.dtype), config.speed
  speeds = SpeedTokens(m.speed_features, tuple(speed.centres), tuple(speed.radii), config.margin, dtype)
  return networks.make_networks(
    config,
    guider=('locator', 'region', m.locator),
    audio=AudioProjection(m.audio_tokens, m.context, m.audio_hidden, dtype),
    audio_window=0,
    audio_features=audio_features,
    speed=speeds if speed.learned else None,
    temporal={'heads': m.heads, 'speed': speed.learned, 'zero_speed': m.zero_contexts},
    branches=('autoencoder', 'reference', 'locator', 'audio', 'speed', 'backbone', 'wav2vec2'),
  )


def audio_features(states: tuple[jax.Array, ...], frames: int) -> jax.Array:
  """The outputs of all layers of wav2vec 2.0 (section 3.2, "the various blocks"), averaged over a frame's two states.

  Args:
    states: what enters the first layer and what leaves each, [b, t, d].
    frames: of the sound; t is 2 frames - 1.

  Returns:
    [b, frames, layers * d].
  """
  x = jnp.concatenate(states[1:], -1)
  x = jnp.pad(x, ((0, 0), (0, 2 * frames - x.shape[1]), (0, 0)), mode='edge')
  return x.reshape(x.shape[0], frames, 2, -1).mean(2)


def audio_contexts(params, batch, nets: Networks) -> dict[str, jax.Array]:
  """{'audio': tokens [b * f, tokens, d]} of a batch; empty before the stage with sound."""
  if nets.audio is None:
    return {}
  windows = frame_windows(networks.encode_audio(params, batch, nets), nets.margin)
  return {'audio': networks.audio_tokens(params, windows.reshape(-1, windows.shape[-1]), nets)}


def speed_tokens(params, speed: jax.Array, nets: Networks) -> jax.Array | None:
  """[b, f, d] of head speeds [b, f + 2m]."""
  return nets.speed.apply({'params': params['speed']}, speed) if nets.speed else None


def condition(
  params, batch, portrait: jax.Array, frames: int, rngs, train: bool, *, nets: Networks, config
) -> PortraitConditioning:
  """The conditioning of a training batch, some of it dropped and augmented in training.

  Args:
    params: from `init`.
    batch: from `data.read`.
    portrait: [b, h, w, c] latents.
    frames: of a clip.
    rngs: two keys.
    train: conditions are dropped, and motion frames noised and dropped.
    nets: the networks.
    config: `drop.all`, `drop.motion` and `augment.motion_noise`.
  """
  drop_rng, motion_rng = rngs
  b, drop = portrait.shape[0], config.drop
  motion, has_motion = None, batch['has_motion']
  if config.frames > 1 and config.motion_frames:
    motion = networks.encode(params, batch, 'motion', nets)
    if train:
      # At generation, motion frames are generated ones: the network must not rely on their every pixel.
      size_rng, grain_rng, keep_rng = jax.random.split(motion_rng, 3)
      size = config.augment.motion_noise * jax.random.uniform(size_rng, (b, 1, 1, 1, 1))
      motion += size * jax.random.normal(grain_rng, motion.shape)
      has_motion *= jax.random.bernoulli(keep_rng, 1 - drop.motion, (b,))
  reference, motion_features = networks.reference_features(params, portrait, motion, nets)
  contexts = audio_contexts(params, batch, nets)
  if train and drop.all:
    keep = jax.random.bernoulli(drop_rng, 1 - drop.all, (b,)).astype(jnp.float32)
    reference = networks.scale_examples(reference, keep)
    contexts = networks.scale_examples(contexts, jnp.repeat(keep, frames))
  unet = Conditioning(
    {'reference': reference, **contexts},
    motion_features=networks.scale_examples(motion_features, has_motion),
    speed=speed_tokens(params, batch['speed'], nets),
    guide_features=networks.guide_features(params, batch['region'], nets),
    modulation=networks.modulation(contexts, nets),
  )
  return PortraitConditioning(unet, portrait)

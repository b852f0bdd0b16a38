"""The networks of emo and what they are conditioned on (EMO figure 2)."""

import jax
import jax.numpy as jnp

from talkjax.media.picture import to_float
from talkjax.nn.audio_projection import AudioProjection, frame_windows
from talkjax.nn.latent_unet import Conditioning
from talkjax.nn.speed import SpeedTokens
from talkjax.systems.portrait import networks, overlay
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
    # The outputs of all layers (section 3.2, "the various blocks"), at the middle of a frame.
    states={'layers': 'all'},
    speed=speeds if speed.learned else None,
    temporal={'heads': m.heads, 'speed': speed.learned, 'zero_speed': m.zero_contexts},
    branches=('autoencoder', 'reference', 'locator', 'audio', 'speed', 'backbone', 'encoder'),
  )


def audio_contexts(params, windows: jax.Array, nets: Networks) -> dict[str, jax.Array]:
  """{'audio': tokens [b * f, tokens, d]} of windows of audio features; empty before the stage with sound."""
  return {} if nets.audio is None else {'audio': networks.audio_tokens(params, windows, nets)}


def audio_windows(audio: jax.Array, nets: Networks) -> jax.Array:
  """Windows [b * f, (2m + 1) d] of audio features [b, f + 2m, d]."""
  windows = frame_windows(audio.astype(jnp.float32), nets.margin)
  return windows.reshape(-1, windows.shape[-1])


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
  windows = audio_windows(batch['audio'], nets)
  faces = networks.faces(batch, nets)
  contexts, modulation = audio_contexts(params, windows, nets), networks.modulation(windows, faces, nets)
  if train and drop.all:
    keep = jax.random.bernoulli(drop_rng, 1 - drop.all, (b,)).astype(jnp.float32)
    reference = networks.scale_examples(reference, keep)
    contexts, modulation = networks.scale_examples((contexts, modulation), jnp.repeat(keep, frames))
  unet = Conditioning(
    {'reference': reference, **contexts},
    motion_features=networks.scale_examples(motion_features, has_motion),
    speed=speed_tokens(params, batch['speed'], nets),
    guide_features=networks.guide_features(params, batch['region'].astype(jnp.float32), nets),
    modulation=modulation,
  )
  laid = None
  if faces:
    laid = networks.lay_over(params, overlay.enlarge(to_float(batch['reference'])), *faces, nets)
  return networks.with_portrait(unet, portrait, laid, nets)

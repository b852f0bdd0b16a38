"""What emo learns: its networks and the loss (EMO eq. 1 with its conditions)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from talkjax.diffusion import losses, schedules, targets
from talkjax.nn.autoencoder import Autoencoder, Folding
from talkjax.nn.guider import AudioTokens, Guider, SpeedTokens, speed_buckets, windows
from talkjax.nn.latent_unet import LatentUNet, Temporal
from talkjax.nn.wav2vec2 import Wav2Vec2
from talkjax.systems.backbone import (
  Condition,
  beside,
  encode,
  hide_mouths,
  init_latents,
  make_latents,
  modulation,
  outputs,
  predict,
  reference_features,
  scale_examples,
  to_change,
  unet_fields,
)
from talkjax.systems.portraits import SAMPLES, latent_factor


@dataclasses.dataclass(frozen=True)
class Networks:
  """The parts of EMO (its figure 2); `speed` is None before the stage that brings it in."""

  backbone: LatentUNet
  reference: LatentUNet
  locator: Guider
  encoder: Wav2Vec2 | None  # of sound; frozen
  context: int  # frames it hears on each side beyond `margin`
  audio: AudioTokens | None
  speed: SpeedTokens | None
  latents: Autoencoder | Folding
  centres: tuple[float, ...]
  radii: tuple[float, ...]
  margin: int
  text: int  # channels of the reference network's one empty text token
  change: float  # where not 0, the backbone learns the change from the portrait's latents, times this
  modulated: bool  # residual blocks hear sound too, beside the attentions
  prior: float  # variance of what is diffused, whose posterior mean the backbone adds to; 0: it says all itself


def init(rng: jax.Array, batch: dict[str, jax.Array], *, nets: Networks) -> Any:
  """Fresh parameters."""
  keys = jax.random.split(rng, 7)
  example = jax.tree.map(lambda x: x[:1], batch)
  params = init_latents(keys[0], nets)
  latent = jax.eval_shape(lambda p: encode(p, example['reference'], nets), params)
  zeros = jnp.zeros((1, *latent.shape[1:]))
  params['reference'] = nets.reference.init(keys[1], zeros, jnp.zeros(1), {'text': jnp.zeros((1, 1, nets.text))})[
    'params'
  ]
  params['locator'] = nets.locator.init(keys[2], example['region'])['params']
  told = {}
  if nets.encoder:
    params['wav2vec2'] = nets.encoder.init(keys[6], jnp.zeros((1, 2 * SAMPLES)))['params']
  if nets.audio:
    heard = windows(hear(params, example['audio'], nets), nets.margin)[:, 0]
    params['audio'] = nets.audio.init(keys[3], heard)['params']
    told['audio'] = nets.audio.apply({'params': params['audio']}, heard)
  speed = None
  if nets.speed:
    buckets = windows(speed_buckets(example['speed'], nets.centres, nets.radii), nets.margin)
    params['speed'] = nets.speed.init(keys[4], buckets)['params']
    speed = nets.speed.apply({'params': params['speed']}, buckets)[:, :1]
  features = reference_features(params, zeros, None, nets)[0]
  params['backbone'] = nets.backbone.init(
    keys[5],
    beside(zeros[None], zeros)[0] if nets.change else zeros,
    jnp.zeros(1),
    {'reference': features, **told},
    frames=1,
    speed=speed,
    modulation=modulation(told, nets),
  )['params']
  return params


def locate(params, region: jax.Array, nets: Networks) -> jax.Array:
  return nets.locator.apply({'params': params['locator']}, region)


def hear(params, audio: jax.Array, nets: Networks) -> jax.Array:
  """Features of each frame, [b, f + 2m, d], of what `portraits.speech_features` made with its context.

  With wav2vec 2.0 those of all its layers (section 3.2, "the various blocks"), the mean of the two in a frame's time;
  where `data.read` had them already, [b, f + 2m, layers, d], the encoder does not run.
  """
  if nets.encoder is None:
    return audio
  if audio.ndim == 4:
    return audio.reshape(*audio.shape[:2], -1).astype(jnp.float32)
  b, frames, _ = audio.shape
  states = nets.encoder.apply({'params': params['wav2vec2']}, audio.reshape(b, -1))[1:]
  x = jax.lax.stop_gradient(jnp.concatenate(states, -1))  # [b, 2 frames - 1, d]
  x = jnp.pad(x, ((0, 0), (0, 2 * frames - x.shape[1]), (0, 0)), mode='edge')
  x = x.reshape(b, frames, 2, -1).mean(2)
  return x[:, nets.context : frames - nets.context]


def sound_tokens(params, audio: jax.Array, nets: Networks) -> dict[str, jax.Array]:
  """{'audio': tokens [b * f, tokens, d]} of a batch's audio; nothing before the stage with sound."""
  if nets.audio is None:
    return {}
  heard = windows(hear(params, audio, nets), nets.margin)
  return {'audio': nets.audio.apply({'params': params['audio']}, heard.reshape(-1, heard.shape[-1]))}


def speed_tokens(params, speed: jax.Array, nets: Networks) -> jax.Array | None:
  """[b, f, d] of head speeds [b, f + 2m]."""
  if nets.speed is None:
    return None
  buckets = windows(speed_buckets(speed, nets.centres, nets.radii), nets.margin)
  return nets.speed.apply({'params': params['speed']}, buckets)


def loss(params, batch, rng: jax.Array, train: bool, *, nets: Networks, schedule: schedules.Schedule, config):
  """Eq. 1 over a clip: the squared error of what the backbone predicts (the noise, in the paper).

  Args:
    params: from `init`.
    batch: from `data.read`.
    rng: of the latents, the noise, its level and the dropped conditions.
    train: conditions are dropped and motion frames noised.

  Returns:
    (loss, metrics).
  """
  latent_rng, level_rng, noise_rng, drop_rng, motion_rng, hide_rng = jax.random.split(rng, 6)
  latents = encode(params, batch['target'], nets, latent_rng)
  reference = encode(params, batch['reference'], nets)
  b, f = latents.shape[:2]
  motion, has_motion = None, batch['has_motion']
  drop = config.drop
  if batch['motion'].shape[1]:
    motion = encode(params, batch['motion'], nets)
    if train:
      # Motion frames are generated ones later: learn not to trust their every pixel.
      size_rng, grain_rng, keep_rng = jax.random.split(motion_rng, 3)
      size = config.augment.motion_noise * jax.random.uniform(size_rng, (b, 1, 1, 1, 1))
      motion += size * jax.random.normal(grain_rng, motion.shape)
      has_motion *= jax.random.bernoulli(keep_rng, 1 - drop.motion, (b,))
  attended, before = reference_features(params, reference, motion, nets)
  contexts = sound_tokens(params, batch['audio'], nets)
  if train and drop.all:
    keep = jax.random.bernoulli(drop_rng, 1 - drop.all, (b,)).astype(jnp.float32)
    attended = scale_examples(attended, keep)
    contexts = scale_examples(contexts, jnp.repeat(keep, f))
  condition = Condition(
    {'reference': attended, **contexts},
    scale_examples(before, has_motion),
    modulation(contexts, nets),
    jnp.repeat(locate(params, batch['region'], nets), f, axis=0),
    speed_tokens(params, batch['speed'], nets),
    reference,
  )
  latents = to_change(latents, reference, nets)
  level = schedules.uniform_level(level_rng, schedule, b)
  noise = jax.random.normal(noise_rng, latents.shape)
  x = targets.add_noise(latents, noise, level)
  if train and config.augment.hidden_mouth:
    x = hide_mouths(x, noise, level, batch['weight'] > 1, config.augment.hidden_mouth, hide_rng)
  output = predict(params, x, level, condition, nets=nets)
  of_example = None
  if config.diffusion.min_snr:
    of_example = losses.min_snr_weight(losses.snr(level), config.diffusion.target, config.diffusion.min_snr)
  target = targets.make(config.diffusion.target, latents, noise, level)
  return losses.loss(output, target, weight=batch.get('weight'), example_weight=of_example), {}


def make_networks(config) -> Networks:
  """The networks of a config."""
  dtype = jnp.dtype(config.dtype)
  m = config.model
  latents, channels = make_latents(config)
  shared = unet_fields(config)
  talks = config.audio.kind != 'none'
  temporal = None
  if config.frames > 1:
    temporal = Temporal(
      m.temporal_middle,
      m.heads,
      layers=m.temporal_layers,
      max_frames=m.max_frames,
      speed=config.speed.learned,
      zero_speed=m.zero_contexts,
    )
  return Networks(
    backbone=LatentUNet(
      outputs(channels, config.latents.change),
      contexts=('reference', 'audio') if talks else ('reference',),
      zero_contexts=m.zero_contexts,
      temporal=temporal,
      **shared,
    ),
    reference=LatentUNet(channels, contexts=('text',), head=False, **shared),
    locator=Guider(m.widths[0], tuple(m.locator[: latent_factor(config.latents).bit_length()]), dtype),
    encoder=Wav2Vec2(dtype=dtype, **config.audio.encoder) if config.audio.kind == 'wav2vec2' else None,
    context=config.audio.context,
    audio=AudioTokens(m.audio_tokens, m.context, m.audio_hidden, dtype) if talks else None,
    speed=SpeedTokens(m.speed_features, dtype) if config.speed.learned else None,
    latents=latents,
    centres=tuple(config.speed.centres),
    radii=tuple(config.speed.radii),
    margin=config.margin,
    text=m.context,
    change=config.latents.change,
    modulated=m.modulated,
    prior=config.diffusion.prior,
  )

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
from talkjax.systems.emo.data import latent_factor


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
  params = {}
  if isinstance(nets.latents, Autoencoder):
    params['autoencoder'] = nets.latents.init(keys[0], example['reference'])['params']
  latent = jax.eval_shape(lambda p: encode(p, example['reference'], nets), params)
  zeros = jnp.zeros((1, *latent.shape[1:]))
  params['reference'] = nets.reference.init(keys[1], zeros, jnp.zeros(1), {'text': jnp.zeros((1, 1, nets.text))})[
    'params'
  ]
  params['locator'] = nets.locator.init(keys[2], example['region'])['params']
  told = {}
  if nets.encoder:
    params['wav2vec2'] = nets.encoder.init(keys[6], example['audio'].reshape(1, -1))['params']
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


def encode(params, pictures: jax.Array, nets: Networks, rng: jax.Array | None = None) -> jax.Array:
  """Latents of pictures [..., h, w, 3]; the autoencoder is never trained here."""
  flat = pictures.reshape(-1, *pictures.shape[-3:])
  if isinstance(nets.latents, Folding):
    latents = nets.latents.encode(flat)
  else:
    latents = nets.latents.apply({'params': params['autoencoder']}, flat, rng, method='encode')
    latents = jax.lax.stop_gradient(latents).astype(jnp.float32)
  return latents.reshape(*pictures.shape[:-3], *latents.shape[1:])


def decode(params, latents: jax.Array, nets: Networks) -> jax.Array:
  """Pictures [b, h, w, 3] of latents."""
  if isinstance(nets.latents, Folding):
    return nets.latents.decode(latents)
  return nets.latents.apply({'params': params['autoencoder']}, latents, method='decode')


def reference_features(params, reference: jax.Array, motion: jax.Array | None, nets: Networks):
  """One call of the ReferenceNet for the portrait and the motion frames (section 3.2).

  Args:
    params: from `init`.
    reference: [b, h, w, c] latents.
    motion: [b, n, h, w, c] latents, or None.

  Returns:
    (features for the backbone's reference attention by path, features [b, n, ...] for its temporal layers by path).
  """
  b = reference.shape[0]
  n = 0 if motion is None else motion.shape[1]
  x = reference[:, None] if motion is None else jnp.concatenate([reference[:, None], motion], axis=1)
  x = x.reshape(b * (n + 1), *x.shape[2:])
  text = jnp.zeros((1, 1, nets.text))  # the prompt is not used
  _, features = nets.reference.apply({'params': params['reference']}, x, jnp.zeros(x.shape[0]), {'text': text})
  features = {k: v.reshape(b, n + 1, *v.shape[1:]) for k, v in features.items()}
  attended = {k: v[:, 0] for k, v in features.items() if '_attentions_' in k}
  return attended, {k: v[:, 1:] for k, v in features.items() if '_layers_' in k} if n else {}


@dataclasses.dataclass(frozen=True)
class Condition:
  """What the backbone is told, but for the noise: one tree, made once per clip.

  Attributes:
    contexts: for the backbone, features or their keys and values.
    before: motion features by path.
    modulation: [b * f, d], sound for the residual blocks, or None.
    added: [b, h, w, c], of the face region.
    speed: [b, f, c] tokens, or None.
    portrait: [b, h, w, c] latents, which the backbone sees beside the noisy ones where it learns the change from them.
  """

  contexts: Any
  before: Any
  modulation: Any
  added: Any
  speed: Any
  portrait: Any


jax.tree_util.register_dataclass(Condition, ['contexts', 'before', 'modulation', 'added', 'speed', 'portrait'], [])


def locate(params, region: jax.Array, nets: Networks) -> jax.Array:
  return nets.locator.apply({'params': params['locator']}, region)


def hear(params, audio: jax.Array, nets: Networks) -> jax.Array:
  """Features of each frame, [b, f + 2m, d], of what `data.speech_features` made with its context.

  With wav2vec 2.0 those of all its layers (section 3.2, "the various blocks"), the mean of the two in a frame's time.
  """
  if nets.encoder is None:
    return audio
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


def modulation(contexts: dict[str, jax.Array], nets: Networks) -> jax.Array | None:
  """What the residual blocks are told of the sound: its tokens in a row, [b * f, tokens * d]."""
  if not nets.modulated or 'audio' not in contexts:
    return None
  return contexts['audio'].reshape(contexts['audio'].shape[0], -1)


def speed_tokens(params, speed: jax.Array, nets: Networks) -> jax.Array | None:
  """[b, f, d] of head speeds [b, f + 2m]."""
  if nets.speed is None:
    return None
  buckets = windows(speed_buckets(speed, nets.centres, nets.radii), nets.margin)
  return nets.speed.apply({'params': params['speed']}, buckets)


def predict(
  params, x: jax.Array, level: schedules.Level, condition: Condition, *, nets: Networks, weights=None
) -> jax.Array:
  """The prediction for noisy latents x [b, f, h, w, c] at levels [b], or one for all.

  With `nets.prior` it is x0: the backbone adds to the mean of x0 given x, were x0 Gaussian with that variance, so that
  a narrow network need not pass all of x through.
  """
  b, f = x.shape[:2]
  seen = beside(x, condition.portrait) if nets.change else x
  y, _ = nets.backbone.apply(
    {'params': params['backbone']},
    seen.reshape(b * f, *seen.shape[2:]),
    jnp.broadcast_to(level.timestep, (b,)),
    condition.contexts,
    frames=f,
    before=condition.before,
    speed=condition.speed,
    added=condition.added,
    modulation=condition.modulation,
    weights=weights,
  )
  y = y.reshape(x.shape)
  if nets.prior:
    s, n = level.signal_scale, level.noise_scale
    y += x * jnp.reshape(s * nets.prior / (s**2 * nets.prior + n**2), (-1, 1, 1, 1, 1))
  return y


def beside(x: jax.Array, portrait: jax.Array) -> jax.Array:
  """Latents [b, f, h, w, c] with the portrait's, [b, h, w, c], behind their channels."""
  return jnp.concatenate([x, jnp.broadcast_to(portrait[:, None], x.shape)], axis=-1)


def to_change(latents: jax.Array, portrait: jax.Array, nets: Networks) -> jax.Array:
  """What is diffused of latents [b, f, h, w, c]: themselves, or how they differ from the portrait's [b, h, w, c]."""
  return (latents - portrait[:, None]) * nets.change if nets.change else latents


def from_change(change: jax.Array, portrait: jax.Array, nets: Networks) -> jax.Array:
  """The inverse of `to_change`."""
  return change / nets.change + portrait[:, None] if nets.change else change


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


def hide_mouths(x: jax.Array, noise: jax.Array, level, mouth: jax.Array, share: float, rng: jax.Array) -> jax.Array:
  """Noisy latents x [b, f, h, w, c] whose mouths are nothing but noise in that share of the noisier examples.

  Where a mouth can be seen in the noise, or guessed from the frames before, nothing is learned of sound; and seen it is
  at most levels.
  """
  hidden = jax.random.bernoulli(rng, share, x.shape[:1]) & (level.noise_scale > 0.7)
  return jnp.where(hidden.reshape(-1, 1, 1, 1, 1) & mouth, noise, x)


def scale_examples(tree, scale: jax.Array):
  """Every leaf [b, ...] times scale [b]."""
  return jax.tree.map(lambda x: x * scale.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype), tree)


def make_schedule(diffusion) -> schedules.Schedule:
  """The noise schedule of a config."""
  return schedules.make(
    diffusion.schedule, diffusion.steps, diffusion.start, diffusion.end, zero_snr=diffusion.zero_snr
  )


def make_networks(config) -> Networks:
  """The networks of a config."""
  dtype = jnp.dtype(config.dtype)
  m = config.model
  if config.latents.kind == 'fold':
    latents = Folding(config.latents.patch)
    channels = 3 * config.latents.patch**2
  else:
    latents = Autoencoder(tuple(config.latents.widths), scaling=config.latents.scaling, dtype=dtype)
    channels = latents.latent_channels
  shared = dict(
    widths=tuple(m.widths),
    attention=tuple(m.attention),
    layers=m.layers,
    heads=m.heads,
    groups=m.groups,
    dtype=dtype,
    remat=config.remat,
  )
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
      channels,
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

"""What vexpress learns: its networks and the loss with its conditional dropout (V-Express sections 2.2 to 2.4)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from talkjax.diffusion import losses, schedules, targets
from talkjax.nn.autoencoder import Autoencoder, Folding
from talkjax.nn.guider import Guider, Resampler, two_a_frame, windows
from talkjax.nn.latent_unet import LatentUNet, Temporal, hoist
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
  """The parts of V-Express (its figure 1)."""

  backbone: LatentUNet
  reference: LatentUNet
  guider: Guider  # of V-Kps images
  encoder: Wav2Vec2 | None  # of sound; frozen
  context: int  # frames it hears on each side beyond `margin`, in training
  audio: Resampler | None  # the audio projection; None before the stage with sound
  latents: Autoencoder | Folding
  margin: int  # frames on each side whose sound a frame hears
  text: int  # channels of the reference network's one empty text token
  change: float  # for this and the next two see talkjax.systems.backbone
  modulated: bool
  prior: float


def init(rng: jax.Array, batch: dict[str, jax.Array], *, nets: Networks) -> Any:
  """Fresh parameters."""
  keys = jax.random.split(rng, 6)
  example = jax.tree.map(lambda x: x[:1], batch)
  params = init_latents(keys[0], nets)
  latent = jax.eval_shape(lambda p: encode(p, example['reference'], nets), params)
  zeros = jnp.zeros((1, *latent.shape[1:]))
  text = {'text': jnp.zeros((1, 1, nets.text))}
  params['reference'] = nets.reference.init(keys[1], zeros, jnp.zeros(1), text)['params']
  params['guider'] = nets.guider.init(keys[2], example['kps'][:, 0].astype(jnp.float32))['params']
  told = {}
  if nets.encoder:
    params['wav2vec2'] = nets.encoder.init(keys[3], jnp.zeros((1, 2 * SAMPLES)))['params']
  if nets.audio:
    heard = windows(hear(params, example['audio'], nets), nets.margin)[:, 0]
    params['audio'] = nets.audio.init(keys[4], tokens_of(heard, nets))['params']
    told = sound_tokens(params, heard, nets)
  features = reference_features(params, zeros, None, nets)[0]
  params['backbone'] = nets.backbone.init(
    keys[5],
    beside(zeros[None], zeros)[0] if nets.change else zeros,
    jnp.zeros(1),
    {'reference': features, **told},
    modulation=modulation(told, nets),
  )['params']
  return params


def guide(params, kps: jax.Array, nets: Networks) -> jax.Array:
  """What V-Kps images [..., h, w, 3], uint8, add to the first features: [n, h', w', c], n of them in a row."""
  kps = kps.reshape(-1, *kps.shape[-3:]).astype(jnp.float32) / 255
  return nets.guider.apply({'params': params['guider']}, kps)


def encode_sound(params, waveform: jax.Array, nets: Networks, samples: jax.Array | None = None) -> jax.Array:
  """wav2vec 2.0's last hidden state [b, n, d] of normalised waveforms [b, s]; see `Wav2Vec2` for `samples`."""
  states = nets.encoder.apply({'params': params['wav2vec2']}, waveform, samples)
  return jax.lax.stop_gradient(states[-1]).astype(jnp.float32)


def hear(params, audio: jax.Array, nets: Networks) -> jax.Array:
  """Two features a frame, [b, f + 2m, 2 d], of what `data.read` made with its context.

  Where that had them already, [b, f + 2m, 2, d], the encoder does not run.
  """
  if nets.encoder is None:
    return audio
  if audio.ndim == 4:
    return audio.reshape(*audio.shape[:2], -1).astype(jnp.float32)
  b, frames, _ = audio.shape
  states = encode_sound(params, audio.reshape(b, -1), nets)
  return jax.vmap(lambda x: two_a_frame(x, frames))(states)[:, nets.context : frames - nets.context]


def tokens_of(heard: jax.Array, nets: Networks) -> jax.Array:
  """Windows [n, (2m + 1) 2 d] as the Q-Former reads them: [n, 2 (2m + 1), d]."""
  return heard.reshape(heard.shape[0], 2 * (2 * nets.margin + 1), -1)


def sound_tokens(params, heard: jax.Array, nets: Networks) -> dict[str, jax.Array]:
  """{'audio': tokens [n, queries, c]} of the windows of n frames; nothing before the stage with sound."""
  if nets.audio is None:
    return {}
  return {'audio': nets.audio.apply({'params': params['audio']}, tokens_of(heard, nets))}


def loss(params, batch, rng: jax.Array, train: bool, *, nets: Networks, schedule: schedules.Schedule, config):
  """The denoising loss over a clip, with more weight on mouths and without some conditions (sections 2.1 and 2.4).

  Args:
    params: from `init`.
    batch: from `data.read`.
    rng: of the latents, the noise, its level and the dropped conditions.
    train: conditions are dropped.

  Returns:
    (loss, metrics).
  """
  latent_rng, level_rng, noise_rng, offset_rng, drop_rng, hide_rng = jax.random.split(rng, 6)
  latents = encode(params, batch['target'], nets, latent_rng)
  portrait = encode(params, batch['reference'], nets)
  b, f = latents.shape[:2]
  attended, _ = reference_features(params, portrait, None, nets)
  heard = windows(hear(params, batch['audio'], nets), nets.margin)
  contexts = {'reference': attended, **sound_tokens(params, heard.reshape(b * f, -1), nets)}
  added, seen = guide(params, batch['kps'], nets), portrait
  if train:
    contexts, added, seen = drop(params, contexts, added, seen, f, config.drop, drop_rng, nets)
  condition = Condition(contexts, {}, modulation(contexts, nets), added, None, seen)
  latents = to_change(latents, portrait, nets)
  level = schedules.uniform_level(level_rng, schedule, b)
  noise = jax.random.normal(noise_rng, latents.shape)
  if config.diffusion.noise_offset:
    noise += config.diffusion.noise_offset * jax.random.normal(offset_rng, (b, 1, 1, 1, latents.shape[-1]))
  x = targets.add_noise(latents, noise, level)
  if train and config.augment.hidden_mouth:
    x = hide_mouths(x, noise, level, batch['weight'] > 1, config.augment.hidden_mouth, hide_rng)
  output = predict(params, x, level, condition, nets=nets)
  of_example = None
  if config.diffusion.min_snr:
    # With the one added, a level without signal is learned too.
    ratio, offset = losses.snr(level), float(config.diffusion.zero_snr)
    of_example = losses.min_snr_weight(ratio, config.diffusion.target, config.diffusion.min_snr, offset)
  target = targets.make(config.diffusion.target, latents, noise, level)
  return losses.loss(output, target, weight=batch.get('weight'), example_weight=of_example), {}


def drop(params, contexts, added: jax.Array, portrait: jax.Array, frames: int, shares, rng: jax.Array, nets: Networks):
  """Conditional dropout (section 2.4): zero features of the portrait and of the keypoints, for frames each by itself.

  Args:
    params: from `init`.
    contexts: reference features by path, [b, n, c] each, and audio tokens [b * f, n, c].
    added: [b * f, h, w, c] of the keypoints.
    portrait: [b, h, w, c] latents that small sizes see beside the noise, which go with the features.
    frames: f.
    shares: `reference` and `kps` of frames, `all` of examples that lose everything, as guidance wants.
    rng: of all.
    nets: the networks.

  Returns:
    (contexts, added, portrait): the reference as keys and values of each frame, the portrait of each frame.
  """
  b = portrait.shape[0]
  keys = jax.random.split(rng, 3)
  keep = jax.random.bernoulli(keys[0], 1 - shares.all, (b, 1))
  draw = lambda key, share: (keep & jax.random.bernoulli(key, 1 - share, (b, frames))).astype(jnp.float32)
  reference, kps = draw(keys[1], shares.reference), draw(keys[2], shares.kps)
  # Zero features have zero keys and values, since those have no bias.
  kv = hoist(params['backbone'], {'reference': contexts['reference']}, nets.backbone.dtype)['reference']
  kv = scale_examples(jax.tree.map(lambda x: jnp.repeat(x, frames, 0), kv), reference.reshape(-1))
  every = jnp.repeat(keep.astype(jnp.float32), frames)
  rest = {k: scale_examples(v, every) for k, v in contexts.items() if k != 'reference'}
  return (
    {'reference': kv, **rest},
    scale_examples(added, kps.reshape(-1)),
    portrait[:, None] * reference[:, :, None, None, None],
  )


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
      m.temporal_heads,
      layers=m.temporal_layers,
      max_frames=m.max_frames,
      groups=m.temporal_groups,
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
    guider=Guider(m.widths[0], tuple(m.guider[: latent_factor(config.latents).bit_length()]), dtype),
    encoder=Wav2Vec2(dtype=dtype, **config.audio.encoder) if config.audio.kind == 'wav2vec2' else None,
    context=config.audio.context,
    audio=Resampler(
      m.audio_features,
      m.context,
      m.audio_tokens,
      m.audio_layers,
      m.audio_heads,
      m.audio_head_features,
      m.audio_expansion,
      2 * (2 * config.margin + 1),
      dtype,
    )
    if talks
    else None,
    latents=latents,
    margin=config.margin,
    text=m.context,
    change=config.latents.change,
    modulated=m.modulated,
    prior=config.diffusion.prior,
  )

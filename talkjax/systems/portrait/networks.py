"""The networks of portrait systems: a backbone over latents, its ReferenceNet, and the encoders of conditions.

A system adds what is its own as fields of `Networks`. Parameters are one tree with a branch for every network.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.diffusion import schedules
from talkjax.errors import UserError
from talkjax.media.picture import to_float
from talkjax.nn.audio_projection import frame_windows
from talkjax.nn.guider import Guider
from talkjax.nn.latent_unet import Conditioning, LatentUNet, Temporal
from talkjax.systems.audio import AudioFeatures
from talkjax.systems.portrait import audio as portrait_audio
from talkjax.systems.portrait import latents as latent_spaces
from talkjax.systems.portrait import overlay, reading
from talkjax.systems.portrait.latents import AutoencoderLatents, FoldedLatents
from talkjax.systems.portrait.overlay import Overlay


@dataclasses.dataclass(frozen=True)
class Networks:
  """The networks of a portrait system and what they must agree on.

  Attributes:
    backbone, reference: the denoising U-Net and the ReferenceNet.
    latents: the latent space.
    guider: the encoder of the spatial condition; its parameters are the branch `guider_name`.
    guider_name, guider_input: that branch, and the key of its input in a batch.
    audio: from the audio features around a frame to tokens; None in stages without sound.
    audio_window: the shape [tokens, d] in which `audio` reads the window of a frame has so many tokens; 0: flat, [d].
    audio_features: the audio features of each frame; its encoder's parameters are the branch `audio_features.kind`.
    margin: neighbouring frames on each side whose features belong to a frame's window.
    speed: from head speeds to tokens of the temporal layers, or None.
    text_channels: of the ReferenceNet's one zero token (it has no prompt).
    aids: `config.aids`, what small networks are helped with.
    branches: names of the parameter branches, in the order in which their random keys are drawn.
  """

  backbone: LatentUNet
  reference: LatentUNet
  latents: FoldedLatents | AutoencoderLatents
  guider: Guider
  guider_name: str
  guider_input: str
  audio: nn.Module | None
  audio_window: int
  audio_features: AudioFeatures
  margin: int
  speed: nn.Module | None
  text_channels: int
  aids: Any
  branches: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class PortraitConditioning:
  """Everything a prediction depends on besides the noisy latents: one tree, computed once per clip.

  Attributes:
    unet: for the backbone.
    portrait: latents [b, h, w, c], or one for each frame [b, f, h, w, c].
    overlay: the portrait laid over the face of each frame, or over one for all of them, or None.
    base: latents [b, f or 1, h, w, c] from which the residual is diffused, or None: the latents are diffused.
  """

  unet: Conditioning
  portrait: jax.Array
  overlay: Overlay | None = None
  base: jax.Array | None = None


jax.tree_util.register_dataclass(PortraitConditioning, ['unet', 'portrait', 'overlay', 'base'], [])


def make_networks(
  config,
  *,
  guider: tuple[str, str, Sequence[int]],
  audio: nn.Module,
  states: Mapping[str, Any],
  temporal: Mapping[str, Any],
  **own,
) -> Networks:
  """The networks of a config.

  Args:
    config: of a portrait system.
    guider: the branch, the key of its input in a batch, and the widths of the encoder of the spatial condition.
    audio: from audio features to tokens, in stages with sound.
    states: arguments of `AudioFeatures`: which states of an encoder a frame has.
    temporal: fields of the temporal layers that differ by system.
    **own: the other fields of `Networks` that differ by system.
  """
  m, aids = config.model, config.aids
  latents = latent_spaces.make(config)
  dtype = jnp.dtype(config.dtype)
  unet = {
    'widths': tuple(m.widths),
    'attention': tuple(m.attention),
    'layers': m.layers,
    'heads': m.heads,
    'groups': m.groups,
    'dtype': dtype,
    'remat': config.remat,
  }
  spectrogram = functools.partial(portrait_audio.spectrogram, settings=config.audio)
  features = AudioFeatures(config.audio, spectrogram, silence=portrait_audio.SILENCE, **states)
  name, key, widths = guider
  sound = config.audio.kind != 'none'
  layers = Temporal(m.temporal_middle, layers=m.temporal_layers, max_frames=m.max_frames, **temporal)
  return Networks(
    backbone=LatentUNet(
      latents.channels * num_references(aids) + flow_channels(config),
      contexts=('reference', 'audio') if sound else ('reference',),
      zero_contexts=m.zero_contexts,
      temporal=layers if config.frames > 1 else None,
      **unet,
    ),
    reference=LatentUNet(latents.channels, contexts=('text',), head=False, **unet),
    latents=latents,
    guider=Guider(m.widths[0], tuple(widths[: latent_spaces.factor(config.latents).bit_length()]), dtype),
    guider_name=name,
    guider_input=key,
    audio=audio if sound else None,
    audio_features=features,
    margin=config.margin,
    text_channels=m.context,
    aids=aids,
    **own,
  )


def num_references(aids) -> int:
  """How many times the channels of the latents a backbone reads and predicts, see `predict`."""
  return 1 + (aids.reference != 'none') + overlay.used(aids)


def flow_channels(config) -> int:
  """How many channels more a backbone predicts: the flow of the overlay, of every second pixel along each axis."""
  return 2 * max(1, latent_spaces.factor(config.latents) // 2) ** 2 if config.aids.reference == 'flow' else 0


def init(rng: jax.Array, batch: Mapping[str, jax.Array], *, nets: Networks) -> dict[str, Any]:
  """Fresh parameters for batches like this one."""
  keys = dict(zip(nets.branches, jax.random.split(rng, len(nets.branches))))
  example = jax.tree.map(lambda x: x[:1], dict(batch))
  params = nets.latents.init(keys['autoencoder'])
  latent = jax.eval_shape(lambda p: encode(p, example, 'reference', nets), params)
  zeros = jnp.zeros((1, *latent.shape[1:]))
  params['reference'] = nets.reference.init(keys['reference'], zeros, jnp.zeros(1), _no_text(nets))['params']
  guide = example[nets.guider_input]
  guide = guide.reshape(-1, *guide.shape[-3:])[:1].astype(jnp.float32)
  params[nets.guider_name] = nets.guider.init(keys[nets.guider_name], guide)['params']
  contexts = {'reference': reference_features(params, zeros, None, nets)[0]}
  if encoder := nets.audio_features.encoder:
    params[encoder.kind] = encoder.init(keys['encoder'])
  modulated = None
  if nets.audio:
    windows = frame_windows(example['audio'].astype(jnp.float32), nets.margin)[:, 0]
    params['audio'] = nets.audio.init(keys['audio'], _audio_input(windows, nets))['params']
    contexts['audio'] = audio_tokens(params, windows, nets)
    given = faces({k: v[:, :1] if k == 'points' else v for k, v in example.items()}, nets)
    modulated = modulation(windows, given, nets)
  speed = None
  if nets.speed:
    params['speed'] = nets.speed.init(keys['speed'], example['speed'])['params']
    speed = nets.speed.apply({'params': params['speed']}, example['speed'])[:, :1]
  conditioning = Conditioning(contexts, speed=speed, modulation=modulated)
  x = jnp.concatenate([zeros] * num_references(nets.aids), axis=-1)
  params['backbone'] = nets.backbone.init(keys['backbone'], x, jnp.zeros(1), conditioning)['params']
  return params


def encode(params, batch: Mapping[str, jax.Array], name: str, nets: Networks, rng: jax.Array | None = None):
  """Latents of the uint8 images batch[name] [..., h, w, 3], or of their cached moments batch[name + '_moments']."""
  if name in batch:
    images = to_float(batch[name])
    latents = nets.latents.encode(params, images.reshape(-1, *images.shape[-3:]), rng)
    return latents.reshape(*images.shape[:-3], *latents.shape[1:])
  moments = batch[f'{name}_moments']
  latents = nets.latents.sample(moments.reshape(-1, *moments.shape[-3:]), rng)
  return latents.reshape(*moments.shape[:-3], *latents.shape[1:])


def reference_features(params, portrait: jax.Array, motion: jax.Array | None, nets: Networks):
  """One call of the ReferenceNet for the portrait and the motion frames (EMO section 3.2).

  Args:
    params: from `init`.
    portrait: [b, h, w, c] latents.
    motion: [b, n, h, w, c] latents, or None.
    nets: the networks.

  Returns:
    (features for the backbone's reference attention by path, features [b, n, ...] for its temporal layers by path).
  """
  b = portrait.shape[0]
  n = 0 if motion is None else motion.shape[1]
  x = portrait[:, None] if motion is None else jnp.concatenate([portrait[:, None], motion], axis=1)
  x = x.reshape(b * (n + 1), *x.shape[2:])
  _, features = nets.reference.apply({'params': params['reference']}, x, jnp.zeros(x.shape[0]), _no_text(nets))
  features = {k: v.reshape(b, n + 1, *v.shape[1:]) for k, v in features.items()}
  attended = {k: v[:, 0] for k, v in features.items() if '_attentions_' in k}
  return attended, {k: v[:, 1:] for k, v in features.items() if '_layers_' in k} if n else {}


def lay_over(params, enlarged: jax.Array, source: jax.Array, target: jax.Array, nets: Networks) -> Overlay:
  """Portraits moved to where the faces of their frames are.

  Args:
    params: from `init`.
    enlarged: [b, H, H, 3] in [-1, 1], see `overlay.enlarge`.
    source: [b, n, 2] points of the portraits, in sides of the picture.
    target: [b, f, n, 2] the same points of the frames.
    nets: the networks.
  """
  points = overlay.follow(source, target, enlarged.shape[1] // overlay.ENLARGED)
  return Overlay(encode_moved(params, enlarged, points, nets), points, enlarged)


def encode_moved(params, enlarged: jax.Array, points: jax.Array, nets) -> jax.Array:
  """Latents [b, ..., h, w, c] of what enlarged portraits [b, H, H, 3] show at points [b, ..., size, size, 2]."""
  moved = overlay.sample(enlarged, points)
  latents = nets.latents.encode(params, moved.reshape(-1, *moved.shape[-3:]))
  return latents.reshape(*points.shape[:-3], *latents.shape[1:])


def with_portrait(
  unet: Conditioning, portrait: jax.Array, laid: Overlay | None, nets: Networks
) -> PortraitConditioning:
  """The conditioning of frames with a portrait [b, h, w, c], and maybe its overlay, as the base of their residual."""
  base = None
  if nets.aids.reference != 'none':
    base = portrait[:, None] if laid is None else laid.latents
  return PortraitConditioning(unet, portrait, laid, base)


def guide_features(params, images: jax.Array, nets: Networks) -> jax.Array:
  """Features [n, h', w', c] of spatial conditions [n, h, w, c']."""
  return nets.guider.apply({'params': params[nets.guider_name]}, images)


def audio_tokens(params, windows: jax.Array, nets: Networks) -> jax.Array:
  """Tokens [n, tokens, c] of windows of audio features [n, (2 margin + 1) d]."""
  return nets.audio.apply({'params': params['audio']}, _audio_input(windows, nets))


def _audio_input(windows: jax.Array, nets: Networks) -> jax.Array:
  return windows.reshape(windows.shape[0], nets.audio_window, -1) if nets.audio_window else windows


def faces(batch: Mapping[str, jax.Array], nets: Networks) -> tuple[jax.Array, jax.Array] | None:
  """With an overlay the keypoints of portraits [b, 3, 2] and of what they are laid over [b, f or 1, 3, 2]."""
  return (batch['reference_points'], batch['points']) if overlay.used(nets.aids) else None


def modulation(windows: jax.Array, given: tuple[jax.Array, jax.Array] | None, nets: Networks) -> jax.Array | None:
  """The modulation [b f, d'] of residual blocks, where it is an aid.

  Args:
    windows: [b f, (2 margin + 1) d] of audio features.
    given: of `faces`; how they have turned is a part of the modulation.
    nets: the networks.
  """
  if not nets.aids.modulation or not nets.audio:
    return None
  if given is None:
    return windows
  turned = overlay.turn(*given).reshape(-1, overlay.TURN)
  return jnp.concatenate([windows, jnp.repeat(turned, len(windows) // len(turned), axis=0)], axis=-1)


def predict(params, x: jax.Array, level: schedules.Level, condition: PortraitConditioning, *, nets: Networks):
  """The prediction for noisy latents x [b, f, h, w, c] at levels [b], or at one for all.

  With an `aids.reference` x is the scaled residual from `condition.base`, and the backbone sees the latents of the
  portrait, and its overlay, see `from_references`. With 'flow' it predicts how the overlay is moved too, as the points
  that it follows know nothing of depth. With `aids.prior` the prediction is x0, and the backbone's output is
  added to the posterior mean of x0 given x for a Gaussian x0 of that variance, so that a narrow network need not pass
  all of x through.
  """
  b, f = x.shape[:2]
  references, aids = (), nets.aids
  if aids.reference != 'none':
    frames = lambda y: jnp.broadcast_to(y if y.ndim == x.ndim else y[:, None], x.shape)
    references = (*((frames(condition.overlay.latents),) if overlay.used(aids) else ()), frames(condition.portrait))
  inputs = jnp.concatenate([x, *references], axis=-1)
  scales = {k: jnp.repeat(v, f) for k, v in condition.unet.context_scales.items()}
  y, _ = nets.backbone.apply(
    {'params': params['backbone']},
    inputs.reshape(b * f, *inputs.shape[2:]),
    jnp.broadcast_to(level.timestep, (b,)),
    dataclasses.replace(condition.unet, context_scales=scales),
    f,
  )
  y = y.reshape(*x.shape[:-1], -1)
  if aids.reference == 'flow':
    y, moved = apply_flow(params, y, condition.overlay, nets)
    references = (moved, references[1])
  if references:
    y, blend = from_references(y, references)
    if overlay.used(aids):
      y += nets.latents.residual_scale * (blend - condition.base)
  if aids.prior:
    s, n = level.signal_scale, level.noise_scale
    y += x * jnp.reshape(s * aids.prior / (s**2 * aids.prior + n**2), (-1, 1, 1, 1, 1))
  return y


def apply_flow(params, y: jax.Array, laid: Overlay, nets) -> tuple[jax.Array, jax.Array]:
  """The output [..., 3 c + flow] of a network without its flow, and latents [..., c] of the overlay moved by that."""
  y, flow = jnp.split(y, [3 * laid.latents.shape[-1]], axis=-1)
  moved = encode_moved(params, laid.images, overlay.add_flow(laid.points, flow), nets)
  return y, moved if laid.shown is None else moved * laid.shown[..., None, None, None]


def from_references(y: jax.Array, references: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
  """What a network that sees a portrait adds to it.

  Args:
    y: the network's output [..., 2 c]: what is added, and a factor of the portrait's own latents, as the inside of a
      mouth has one colour, so that more has to be subtracted from pale skin than from dark skin. With an overlay
      [..., 3 c]: what is added, the share of the overlay in a blend with the portrait, and the factor of that.
    references: latents [..., c] of the overlay, where there is one, and of the portrait.

  Returns:
    (what is added, the blend of the references).
  """
  if len(references) == 1:
    added, factor = jnp.split(y, 2, axis=-1)
    blend = references[0]
  else:
    added, share, factor = jnp.split(y, 3, axis=-1)
    share = jax.nn.sigmoid(share)
    blend = share * references[0] + (1 - share) * references[1]
  return added + factor * blend, blend


def to_residual(latents: jax.Array, condition: PortraitConditioning, nets: Networks) -> jax.Array:
  """What is diffused for latents [b, f, h, w, c]: these, or their scaled difference from `condition.base`."""
  return latents if condition.base is None else (latents - condition.base) * nets.latents.residual_scale


def from_residual(residual: jax.Array, base: jax.Array | None, nets: Networks) -> jax.Array:
  """The inverse of `to_residual`."""
  return residual if base is None else residual / nets.latents.residual_scale + base


def scale_examples(tree, scale: jax.Array):
  """Every leaf [b, ...] times scale [b]."""
  return jax.tree.map(lambda x: x * scale.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype), tree)


def context_scales(config, settings: Mapping[str, jax.Array], count: int) -> dict[str, jax.Array]:
  """`Conditioning.context_scales` [count] of so many videos: the config's, overridden by `settings` [count]."""
  reference = settings.get('reference_weight', config.context_scales.reference)
  audio = settings.get('audio_weight', config.context_scales.audio)
  scales = {'reference': reference, 'audio': audio, 'modulation': audio}
  return {k: jnp.broadcast_to(jnp.asarray(v, jnp.float32), (count,)) for k, v in scales.items()}


def _no_text(nets: Networks) -> Conditioning:
  return Conditioning({'text': jnp.zeros((1, 1, nets.text_channels))})


def check(config) -> None:
  """Raises UserError for settings that contradict each other."""
  aids = config.aids
  if config.get('model', {}).get('modulated'):
    raise UserError(
      'config.model.modulated=True: an earlier version trained this small network, whose audio tokens modulated the '
      'residual blocks: train it again, or use that version'
    )
  reading.check_aids(config, ('none', 'concatenated', 'overlay', 'flow'))
  if aids.prior and config.diffusion.target != 'x0':
    raise UserError(
      f'config.aids.prior={aids.prior} needs a network that predicts x0, and config.diffusion.target is '
      f'{config.diffusion.target!r}: set the prior to 0 or the target to x0'
    )
  if overlay.used(aids) and config.diffusion.target != 'x0':
    raise UserError(
      f'config.aids.reference={aids.reference} blends portraits in the residual x0, and config.diffusion.target is '
      f"{config.diffusion.target!r}: set that to x0, or config.aids.reference to 'none'"
    )

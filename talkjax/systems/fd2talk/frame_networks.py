"""The network of stage 3, which draws a frame from the portrait's latents and the coefficients of its face (section
3.3)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.faces import mesh_pca
from talkjax.faces.morphable import MorphableModel
from talkjax.media.picture import to_float
from talkjax.nn.guider import Guider
from talkjax.nn.latent_unet import Conditioning, LatentUNet, precompute_kv
from talkjax.nn.transformer import ImageTokens
from talkjax.systems.fd2talk import guide
from talkjax.systems.portrait import latents as latent_spaces
from talkjax.systems.portrait import overlay
from talkjax.systems.portrait.latents import AutoencoderLatents, FoldedLatents
from talkjax.systems.portrait.networks import apply_flow, encode, encode_moved, flow_channels, from_references
from talkjax.systems.portrait.overlay import Overlay, enlarge, follow_landmarks

BRANCH = 'frames'  # of the parameters


@dataclasses.dataclass(frozen=True)
class Networks:
  """The networks of stage 3 and what they must agree on.

  Attributes:
    unet: the denoising U-Net over latents.
    motion: from expression and pose to a token, the context of phi_1 (eq. 6).
    appearance: from the portrait's latents to a sequence of tokens, the context of phi_2 (eq. 7).
    guider: encodes a drawing of the face that is asked for, or None.
    latents: the latent space.
    joint: one attention reads the token and the sequence, concatenated (the ablation of section 4.5.2).
    modulated: the coefficients modulate the residual blocks too.
    overlay: the portrait, laid over the face that is asked for, is concatenated to the noisy latents, and the network
      predicts the residual from a blend of it and the portrait as it is.
    flow: the network predicts how the overlay is moved further, too.
    widened: the decoder is given the portrait's latents too (eq. 13).
  """

  unet: LatentUNet
  motion: nn.Module
  appearance: ImageTokens
  guider: Guider | None
  latents: FoldedLatents | AutoencoderLatents
  joint: bool
  modulated: bool
  overlay: bool
  flow: bool
  widened: bool


def make_networks(config) -> Networks:
  """The networks of a config."""
  m, aids = config.model, config.aids
  latents, dtype = latent_spaces.make(config), jnp.dtype(config.dtype)
  channels = latents.channels
  unet = LatentUNet(
    (3 * channels if overlay.used(aids) else channels) + flow_channels(config),
    widths=tuple(m.widths),
    attention=tuple(m.attention),
    layers=m.layers,
    heads=tuple(m.heads),
    contexts=('appearance',) if m.joint else ('motion', 'appearance'),
    groups=m.groups,
    dtype=dtype,
    remat=config.remat,
  )
  guider = None
  if aids.face_map:
    guider = Guider(m.widths[0], tuple(m.guider[: latent_spaces.factor(config.latents).bit_length()]), dtype)
  return Networks(
    unet=unet,
    motion=nn.Dense(m.context, dtype=dtype),
    appearance=ImageTokens(m.context, dtype),
    guider=guider,
    latents=latents,
    joint=m.joint,
    modulated=aids.modulation,
    overlay=overlay.used(aids),
    flow=aids.reference == 'flow',
    widened=config.latents.get('decoded', 1) > 1,
  )


@dataclasses.dataclass(frozen=True)
class Portrait:
  """What is computed once for a portrait.

  Attributes:
    latents: [b, h, w, c], x of section 3.3.
    appearance: tokens [b, h * w, d], or where precomputed, keys and values by block path.
    rows: [b, k] coefficients of its face.
    image: [b, H, H, 3] in [-1, 1], enlarged, where it is laid over other faces; else None.
  """

  latents: jax.Array
  appearance: Any
  rows: jax.Array
  image: jax.Array | None = None


jax.tree_util.register_dataclass(Portrait, [f.name for f in dataclasses.fields(Portrait)], [])


@dataclasses.dataclass(frozen=True)
class FrameConditioning:
  """Everything that the prediction of a frame depends on besides its noisy latents.

  Attributes:
    unet: for the U-Net.
    portrait: latents [b, h, w, c].
    overlay: the portrait laid over the face that is asked for, or None.
  """

  unet: Conditioning
  portrait: jax.Array
  overlay: Overlay | None


jax.tree_util.register_dataclass(FrameConditioning, [f.name for f in dataclasses.fields(FrameConditioning)], [])


def init(rng: jax.Array, latents: jax.Array, rows: int, size: int, nets: Networks) -> dict[str, Any]:
  """Fresh parameters of the branch `frames`.

  Args:
    rng: of all.
    latents: [1, h, w, c] of any image.
    rows: coefficients of a frame, without identity.
    size: of the images.
    nets: the networks.
  """
  keys = jax.random.split(rng, 4)
  params = {
    'motion': nets.motion.init(keys[0], jnp.zeros((1, rows)))['params'],
    'appearance': nets.appearance.init(keys[1], latents)['params'],
  }
  guided = None
  if nets.guider:
    drawn = jnp.zeros((1, size, size, guide.CHANNELS))
    guided, variables = nets.guider.init_with_output(keys[2], drawn)
    params['guider'] = variables['params']
  contexts = _contexts(params, jnp.zeros((1, rows)), tokens(params, latents, nets), nets)
  modulation = jnp.zeros((1, 2 * rows)) if nets.modulated else None
  conditioning = Conditioning(contexts, guide_features=guided, modulation=modulation)
  x = jnp.concatenate([latents] * (3 if nets.overlay else 1), -1)
  params['unet'] = nets.unet.init(keys[3], x, jnp.zeros(1), conditioning)['params']
  return params


def portrait(params, batch: Mapping[str, jax.Array], rows: jax.Array, nets: Networks) -> Portrait:
  """What is computed once for portraits.

  Args:
    params: from training.
    batch: `reference` images [b, h, w, 3] uint8, or their cached moments `reference_moments`.
    rows: [b, k], the coefficients of their faces.
    nets: the networks.
  """
  latents = encode(params, batch, 'reference', nets)
  image = None
  if nets.overlay:
    image = enlarge(to_float(batch['reference']))
  return Portrait(latents, tokens(params[BRANCH], latents, nets), rows.astype(jnp.float32), image)


def tokens(params: Mapping[str, Any], latents: jax.Array, nets: Networks) -> jax.Array:
  """The portrait's latents as a sequence with positions: [b, h, w, c] -> [b, h * w, d]."""
  return nets.appearance.apply({'params': params['appearance']}, latents)


def _contexts(params, motion: jax.Array, appearance: Any, nets: Networks) -> dict[str, Any]:
  """The contexts of the U-Net, of motion [b, k] and the portrait's tokens."""
  token = nets.motion.apply({'params': params['motion']}, motion)[:, None]
  if nets.joint:
    return {'appearance': jnp.concatenate([token, appearance], axis=1)}
  return {'motion': token, 'appearance': appearance}


def precompute(params, portrait: Portrait, nets: Networks) -> Portrait:
  """The portrait with the keys and values of its tokens in their place, where these do not depend on the frame."""
  if nets.joint:
    return portrait
  kv = precompute_kv(params[BRANCH]['unet'], {'appearance': portrait.appearance}, nets.unet.dtype)
  return dataclasses.replace(portrait, appearance=kv['appearance'])


def motion_of(model: MorphableModel, rows: jax.Array, crop: float) -> jax.Array:
  """Expression and pose of rows [b, k], normalised: what the network knows of a frame's motion.

  A face in a square around it (`crop`, see `framing`) is nearer than those in whole pictures, of which the mean is.
  """
  mean = jnp.asarray(model.row_mean)
  if crop:
    mean = mean.at[-1].set(mesh_pca.depth_of(model, crop))
  return ((rows - mean) / model.row_std)[:, model.identity.shape[-1] :]


def condition(
  params, portrait: Portrait, rows: jax.Array, model: MorphableModel, nets: Networks, config
) -> FrameConditioning:
  """The conditioning of frames.

  Args:
    params: from training.
    portrait: of each frame.
    rows: [b, k], the coefficients that are asked for.
    model: the morphable model.
    nets: the networks.
    config: of the system.
  """
  own, size, motion = params[BRANCH], config.size, motion_of(model, rows, config.framing)
  laid = guided = modulation = None
  if nets.overlay or nets.guider:
    target = guide.landmarks(model, rows)
  if nets.overlay:
    points = follow_landmarks(guide.landmarks(model, portrait.rows), target, size)
    laid = Overlay(encode_moved(params, portrait.image, points, nets), points, portrait.image)
  if nets.guider:
    guided = nets.guider.apply({'params': own['guider']}, guide.face_map(target, size))
  if nets.modulated:
    modulation = jnp.concatenate([motion, motion_of(model, portrait.rows, config.framing)], -1)
  contexts = _contexts(own, motion, portrait.appearance, nets)
  return FrameConditioning(Conditioning(contexts, guide_features=guided, modulation=modulation), portrait.latents, laid)


def predict(params, x: jax.Array, level, given: FrameConditioning, nets: Networks) -> jax.Array:
  """The clean latents J_0 predicted from noisy ones x [b, h, w, c] at levels [b], or at one for all (eq. 16).

  With an overlay the network predicts what is added to a blend of both portraits (`from_references`), and maybe how the
  overlay is moved further (`apply_flow`).
  """
  inputs = x if given.overlay is None else jnp.concatenate([x, given.overlay.latents, given.portrait], -1)
  timesteps = jnp.broadcast_to(level.timestep, x.shape[:1])
  y, _ = nets.unet.apply({'params': params[BRANCH]['unet']}, inputs, timesteps, given.unet)
  if given.overlay is None:
    return y
  moved = given.overlay.latents
  if nets.flow:
    y, moved = apply_flow(params, y, given.overlay, nets)
  added, blend = from_references(y, (moved, given.portrait))
  return added + blend


def decode(params, latents: jax.Array, portrait: jax.Array, nets: Networks) -> jax.Array:
  """Images [b, h, w, 3] of latents [b, h', w', c], given those of the portrait (section 3.3)."""
  return nets.latents.decode(params, jnp.concatenate([portrait, latents], -1) if nets.widened else latents)

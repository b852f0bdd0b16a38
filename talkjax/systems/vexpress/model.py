"""The networks of vexpress and what they are conditioned on, with its conditional dropout (sections 2.2 to 2.4)."""

import dataclasses

import jax
import jax.numpy as jnp

from talkjax.media.picture import to_float
from talkjax.nn.audio_projection import Resampler, frame_windows
from talkjax.nn.latent_unet import Conditioning, precompute_kv
from talkjax.systems.portrait import networks, overlay
from talkjax.systems.portrait.networks import Networks, PortraitConditioning


def make_networks(config) -> Networks:
  """The networks of a config."""
  m, window = config.model, 2 * (2 * config.margin + 1)
  return networks.make_networks(
    config,
    guider=('guider', 'kps', m.guider),
    audio=Resampler(
      m.audio_features,
      m.context,
      m.audio_tokens,
      m.audio_layers,
      m.audio_heads,
      m.audio_head_features,
      m.audio_expansion,
      window,
      jnp.dtype(config.dtype),
    ),
    audio_window=window,
    # The last hidden state of wav2vec 2.0 as two features per frame (section 2.2).
    states={'per_frame': 2, 'stretched': config.compat == 'published'},
    speed=None,
    temporal={'heads': m.temporal_heads, 'groups': m.temporal_groups},
    branches=('autoencoder', 'reference', 'guider', 'encoder', 'audio', 'backbone'),
  )


def guide_features(params, kps: jax.Array, nets: Networks) -> jax.Array:
  """Features of V-Kps images [..., h, w, 3] uint8: [n, h', w', c], n of them in a row."""
  return networks.guide_features(params, kps.reshape(-1, *kps.shape[-3:]).astype(jnp.float32) / 255, nets)


def audio_contexts(params, windows: jax.Array, nets: Networks) -> dict[str, jax.Array]:
  """{'audio': tokens [n, queries, c]} of windows of audio features [n, d]; empty before the stage with sound."""
  return {} if nets.audio is None else {'audio': networks.audio_tokens(params, windows, nets)}


def condition(
  params, batch, portrait: jax.Array, frames: int, rngs, train: bool, *, nets: Networks, config
) -> PortraitConditioning:
  """The conditioning of a training batch, with conditional dropout in training (section 2.4).

  Args:
    params: from `init`.
    batch: from `data.read`.
    portrait: [b, h, w, c] latents.
    frames: of a clip.
    rngs: two keys, of which the second is used.
    train: conditions are dropped.
    nets: the networks.
    config: `drop`.
  """
  reference, _ = networks.reference_features(params, portrait, None, nets)
  windows = frame_windows(batch['audio'].astype(jnp.float32), nets.margin)
  windows = windows.reshape(-1, windows.shape[-1])
  contexts = {'reference': reference, **audio_contexts(params, windows, nets)}
  guide = guide_features(params, batch['kps'], nets)
  laid, faces = None, networks.faces(batch, nets)
  if faces:
    laid = networks.lay_over(params, overlay.enlarge(to_float(batch['reference'])), *faces, nets)
  unet = Conditioning(contexts, guide_features=guide, modulation=networks.modulation(windows, faces, nets))
  given = networks.with_portrait(unet, portrait, laid, nets)
  return drop(params, given, frames, config.drop, rngs[1], nets) if train else given


def drop(
  params, given: PortraitConditioning, frames: int, shares, rng: jax.Array, nets: Networks
) -> PortraitConditioning:
  """Conditional dropout (section 2.4): zero features of the portrait and of the keypoints, for each frame by itself.

  Args:
    params: from `init`.
    given: its contexts are reference features by path, [b, n, c] each, and audio tokens [b * f, n, c], with which the
      modulation goes; its guide features, of the keypoints, are [b * f, h, w, c]. The latents of the portrait are
      dropped with its features, and the overlay, which tells where the keypoints are, with either; without them its
      base is the portrait as it is. How the face has turned is dropped with the keypoints.
    frames: f.
    shares: `reference` and `kps` of frames, `all` of examples that lose everything (for guidance).
    rng: of all.
    nets: the networks.

  Returns:
    The conditioning, with the reference as keys and values of each frame, and a portrait for each frame.
  """
  contexts, portrait = given.unet.contexts, given.portrait
  b = portrait.shape[0]
  keys = jax.random.split(rng, 3)
  keep = jax.random.bernoulli(keys[0], 1 - shares.all, (b, 1))
  draw = lambda key, share: (keep & jax.random.bernoulli(key, 1 - share, (b, frames))).astype(jnp.float32)
  reference, kps = draw(keys[1], shares.reference), draw(keys[2], shares.kps)
  # Zero features have zero keys and values, since those have no bias.
  kv = precompute_kv(params['backbone'], {'reference': contexts['reference']}, nets.backbone.dtype)['reference']
  kv = networks.scale_examples(jax.tree.map(lambda x: jnp.repeat(x, frames, 0), kv), reference.reshape(-1))
  every = jnp.repeat(keep.astype(jnp.float32), frames)
  rest = {k: networks.scale_examples(v, every) for k, v in contexts.items() if k != 'reference'}
  modulation = networks.scale_examples(given.unet.modulation, every)
  guide = networks.scale_examples(given.unet.guide_features, kps.reshape(-1))
  pixels = lambda share: share[:, :, None, None, None]
  laid, base = given.overlay, given.base
  if laid is not None:
    if modulation is not None:
      modulation = modulation.at[:, -overlay.TURN :].multiply(kps.reshape(-1, 1))
    base = jnp.where(pixels(kps) > 0, laid.latents, portrait[:, None])
    size = laid.points.shape[2]
    points = jnp.where(pixels(kps) > 0, laid.points, overlay.pixel_centres(size).reshape(size, size, 2))
    laid = dataclasses.replace(laid, latents=base * pixels(reference), points=points, shown=reference)
  portrait = portrait[:, None] * pixels(reference)
  contexts = {'reference': kv, **rest}
  unet = dataclasses.replace(given.unet, contexts=contexts, guide_features=guide, modulation=modulation)
  return PortraitConditioning(unet, portrait, laid, base)

"""Generation with emo: clips one after the other, each continuing the one before (EMO section 3.2)."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.diffusion import guidance, samplers
from talkjax.diffusion.noise import keyed_normal
from talkjax.faces import keypoints, landmarks
from talkjax.media.picture import to_float, to_uint8
from talkjax.nn.latent_unet import Conditioning, precompute_kv
from talkjax.systems import Chunk
from talkjax.systems.emo import model
from talkjax.systems.emo.conditions import Conditions
from talkjax.systems.portrait import networks, overlay
from talkjax.systems.portrait.networks import Networks
from talkjax.training import sharding


class Prepared(NamedTuple):
  """What is computed once per video.

  Attributes:
    kv: keys and values of the portrait by path.
    guide: the region's features [b, h', w', c].
    latents: of the portrait [b, h, w, c].
    motion: no motion frames, zeros [b, n, h, w, c].
    enlarged: the enlarged portrait for overlays, or None.
  """

  kv: Mapping
  guide: jax.Array
  latents: jax.Array
  motion: jax.Array
  enlarged: jax.Array | None


class Sampler:
  """Two compiled functions: what is computed once per video, and a clip."""

  def __init__(self, nets: Networks, config, table: samplers.Table):
    self.nets, self.config, self.table = nets, config, table
    self.prepare = jax.jit(self._prepare)
    self.clip = jax.jit(self._clip)

  def _prepare(self, params, reference, region) -> Prepared:
    """Of portraits [b, h, w, 3] uint8 and regions [b, h, w, 1]."""
    latents = networks.encode(params, {'reference': reference}, 'reference', self.nets)
    features, _ = networks.reference_features(params, latents, None, self.nets)
    kv = precompute_kv(params['backbone'], {'reference': features}, self.nets.backbone.dtype)['reference']
    motion = jnp.zeros((latents.shape[0], self.config.motion_frames, *latents.shape[1:]), latents.dtype)
    enlarged = overlay.enlarge(to_float(reference)) if overlay.used(self.nets.aids) else None
    return Prepared(kv, networks.guide_features(params, region, self.nets), latents, motion, enlarged)

  def _clip(self, params, prepared: Prepared, motion, has_motion, batch, seeds, number, settings):
    """The next clip: (images [b, f, h, w, 3] in [-1, 1], its last latents as the next clip's motion frames).

    Args:
      params: from training.
      prepared: from `prepare`.
      motion: [b, n, h, w, c] latents of the motion frames, which count if `has_motion` is 1.
      has_motion: 0 or 1.
      batch: `audio` features and `speed` of the clip, with their margins; for overlays the keypoints of the portrait,
        `reference_points` [b, 3, 2], and of the frame before the clip, `points` [b, 1, 3, 2], in sides of the picture.
      seeds: [b].
      number: of the clip in its video.
      settings: values [b] of swept options.
    """
    nets, config = self.nets, self.config
    latents = prepared.latents
    f, motion_features = config.frames, {}
    if config.motion_frames and nets.backbone.temporal:
      _, motion_features = networks.reference_features(params, latents, motion, nets)
      motion_features = networks.scale_examples(motion_features, jnp.full(latents.shape[:1], has_motion))
    windows = model.audio_windows(batch['audio'], nets)
    contexts, faces = model.audio_contexts(params, windows, nets), networks.faces(batch, nets)
    unet = Conditioning(
      {'reference': prepared.kv, **precompute_kv(params['backbone'], contexts, nets.backbone.dtype)},
      networks.context_scales(config, settings, latents.shape[0]),
      motion_features,
      model.speed_tokens(params, batch['speed'], nets),
      jnp.repeat(prepared.guide, f, axis=0),
      networks.modulation(windows, faces, nets),
      networks.modulation(jnp.full_like(windows, nets.audio_features.silence), faces, nets),
    )
    # Unconditional: the same without portrait and audio (zero keys and values).
    dropped = ('contexts', 'modulation', 'silent_modulation')
    null = dataclasses.replace(unet, **{k: jax.tree.map(jnp.zeros_like, getattr(unet, k)) for k in dropped})
    frames = number * f + jnp.arange(f)
    noise = lambda step: keyed_normal(seeds[:, None], frames[None], step, latents.shape[1:])

    def denoise(x, level, condition):
      return networks.predict(params, x, level, condition, nets=nets)

    laid = None
    if faces:
      laid = networks.lay_over(params, prepared.enlarged, *faces, nets)
    condition = networks.with_portrait(unet, latents, laid, nets)
    generated = samplers.sample(
      guidance.classifier_free_batched(
        denoise,
        condition,
        dataclasses.replace(condition, unet=null),
        settings.get('guidance', config.guidance),
      ),
      noise(config.sampler.steps),
      self.table,
      noise,
      target=config.diffusion.target,
      clip=config.sampler.clip or None,
    )
    generated = networks.from_residual(generated, condition.base, nets)
    images = nets.latents.decode(params, generated.reshape(-1, *generated.shape[2:]))
    motion = generated[:, f - config.motion_frames :] if config.motion_frames else motion
    return images.reshape(*generated.shape[:2], *images.shape[1:]), motion


def generate(
  params,
  conditions: Conditions,
  seeds: np.ndarray,
  progress: Callable[[float], None] | None = None,
  *,
  sampler: Sampler,
) -> Iterator[Chunk]:
  """Videos of a batch, a clip of frames at a time; together exactly as long as `conditions.speed`.

  Args:
    params: from training; the videos are generated on the devices where they are.
    conditions: see `Conditions`.
    seeds: [b] uint32, one per video.
    progress: not used: chunks come as they are generated.
    sampler: compiled once per batch and image size, never per length.
  """
  config = sampler.config
  f, m, count = config.frames, config.margin, conditions.speed.shape[1]
  audio = sampler.nets.audio_features
  features = [audio.of_sound(params, sound) for sound in conditions.sound]
  place = sharding.batch_placement(params)
  prepared = sampler.prepare(params, place(conditions.portraits.reference), place(conditions.region))
  motion, seeds = prepared.motion, place(np.asarray(seeds, np.uint32))
  points = conditions.portraits.points / np.float32(config.size)
  # A portrait is laid over the face of the last motion frame. Both faces are found alike: what the detector gets wrong
  # of small pictures moves nothing then.
  follows = overlay.used(config.aids) and config.use_motion_frames and sampler.nets.backbone.temporal
  if follows:
    points = find_points(conditions.portraits.reference, points)
  settings = {k: place(v) for k, v in conditions.portraits.settings.items()}

  def chunk(number: int, images) -> Chunk:
    frames = to_uint8(images)[:, : count - number * f]  # the last clip is cut at the end of the audio
    return Chunk(frames, fps=conditions.sound[0].fps, seams=(((0,) if number else ()),) * len(frames))

  previous, target = None, points
  for number, start in enumerate(range(0, count, f)):
    # After its end, the audio is silent.
    around = np.arange(start - m, start + f + m)
    clip_audio = np.stack([audio.pad_index(own[:count], around) for own in features])
    speed = conditions.speed[:, np.clip(around, 0, count - 1)]
    batch = {'audio': clip_audio, 'speed': speed}
    if overlay.used(config.aids):
      if previous is not None and follows:
        target = keep_size(points, find_points(to_uint8(previous[:, -1]), target))
      batch |= {'reference_points': points, 'points': target[:, None]}
    images, motion = sampler.clip(
      params,
      prepared,
      motion,
      float(number > 0 and config.use_motion_frames),
      {k: place(v) for k, v in batch.items()},
      seeds,
      number,
      settings,
    )
    if previous is not None:  # its frames are used while this clip is computed
      yield chunk(number - 1, previous)
    previous = images
  yield chunk(number, previous)


def find_points(frames: np.ndarray, expected: np.ndarray) -> np.ndarray:
  """The keypoints [b, 3, 2] of faces in frames uint8 [b, h, w, 3], in sides of the picture; `expected` without one."""
  found = [landmarks.track(frame[None]) for frame in frames]
  sides = lambda track: keypoints.of_landmarks(track.landmarks[0]) / np.float32(frames.shape[1])
  return np.stack([sides(track) if track else other for track, other in zip(found, expected, strict=True)])


def keep_size(source: np.ndarray, target: np.ndarray) -> np.ndarray:
  """Keypoints [b, 3, 2] that are only turned and shifted, to those of `target`.

  Eyes come closer when a head turns: laid over them at their distance, it would shrink from clip to clip.
  """
  source, target = (p[..., 0] + 1j * p[..., 1] for p in (source, target))
  offset, middle = source - source.mean(-1, keepdims=True), target.mean(-1, keepdims=True)
  turn = np.sum((target - middle) * np.conj(offset), -1, keepdims=True)
  moved = middle + offset * turn / np.maximum(np.abs(turn), 1e-12)
  return np.stack([moved.real, moved.imag], -1).astype(np.float32)

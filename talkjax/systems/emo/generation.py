"""Generation with emo: clips one after the other, each continuing the one before (EMO section 3.2)."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.diffusion import guidance, samplers
from talkjax.diffusion.noise import keyed_normal
from talkjax.media.picture import to_uint8
from talkjax.nn.latent_unet import Conditioning, precompute_kv
from talkjax.systems import Chunk
from talkjax.systems.emo import model
from talkjax.systems.emo.conditions import Conditions
from talkjax.systems.portrait import networks
from talkjax.systems.portrait.networks import Networks, PortraitConditioning
from talkjax.training import sharding


class Sampler:
  """Two compiled functions: what is computed once per video, and a clip."""

  def __init__(self, nets: Networks, config, table: samplers.Table):
    self.nets, self.config, self.table = nets, config, table
    self.prepare = jax.jit(self._prepare)
    self.clip = jax.jit(self._clip)

  def _prepare(self, params, reference, region):
    """(keys and values of the portrait by path, the region's features, the portrait's latents, no motion frames)."""
    latents = networks.encode(params, {'reference': reference}, 'reference', self.nets)
    features, _ = networks.reference_features(params, latents, None, self.nets)
    kv = precompute_kv(params['backbone'], {'reference': features}, self.nets.backbone.dtype)['reference']
    motion = jnp.zeros((latents.shape[0], self.config.motion_frames, *latents.shape[1:]), latents.dtype)
    return kv, networks.guide_features(params, region, self.nets), latents, motion

  def _clip(self, params, prepared, motion, has_motion, batch, seeds, number, settings):
    """The next clip: (images [b, f, h, w, 3] in [-1, 1], its last latents as the next clip's motion frames).

    Args:
      params: from training.
      prepared: from `prepare`.
      motion: [b, n, h, w, c] latents of the motion frames, which count if `has_motion` is 1.
      has_motion: 0 or 1.
      batch: `audio` features and `speed` of the clip, with their margins.
      seeds: [b].
      number: of the clip in its video.
      settings: values [b] of swept options.
    """
    nets, config = self.nets, self.config
    kv, guide, latents, _ = prepared
    f, motion_features = config.frames, {}
    if config.motion_frames and nets.backbone.temporal:
      _, motion_features = networks.reference_features(params, latents, motion, nets)
      motion_features = networks.scale_examples(motion_features, jnp.full(latents.shape[:1], has_motion))
    windows = model.audio_windows(batch['audio'], nets)
    contexts = model.audio_contexts(params, windows, nets)
    unet = Conditioning(
      {'reference': kv, **precompute_kv(params['backbone'], contexts, nets.backbone.dtype)},
      networks.context_scales(config, settings, latents.shape[0]),
      motion_features,
      model.speed_tokens(params, batch['speed'], nets),
      jnp.repeat(guide, f, axis=0),
      networks.modulation(windows, nets),
      networks.modulation(jnp.full_like(windows, nets.audio_features.silence), nets),
    )
    # Unconditional: the same without portrait and audio (zero keys and values).
    dropped = ('contexts', 'modulation', 'silent_modulation')
    null = dataclasses.replace(unet, **{k: jax.tree.map(jnp.zeros_like, getattr(unet, k)) for k in dropped})
    frames = number * f + jnp.arange(f)
    noise = lambda step: keyed_normal(seeds[:, None], frames[None], step, latents.shape[1:])

    def denoise(x, level, condition):
      return networks.predict(params, x, level, condition, nets=nets)

    base = latents[:, None] if nets.aids.residual_scale else None
    generated = samplers.sample(
      guidance.classifier_free_batched(
        denoise,
        PortraitConditioning(unet, latents, base=base),
        PortraitConditioning(null, latents, base=base),
        settings.get('guidance', config.guidance),
      ),
      noise(config.sampler.steps),
      self.table,
      noise,
      target=config.diffusion.target,
      clip=config.sampler.clip or None,
    )
    generated = networks.from_residual(generated, base, nets)
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
  motion, seeds = prepared[-1], place(np.asarray(seeds, np.uint32))
  settings = {k: place(v) for k, v in conditions.portraits.settings.items()}

  def chunk(number: int, images) -> Chunk:
    frames = to_uint8(images)[:, : count - number * f]  # the last clip is cut at the end of the audio
    return Chunk(frames, fps=conditions.sound[0].fps, seams=(((0,) if number else ()),) * len(frames))

  previous = None
  for number, start in enumerate(range(0, count, f)):
    # After its end, the audio is silent.
    around = np.arange(start - m, start + f + m)
    clip_audio = np.stack([audio.pad_index(own[:count], around) for own in features])
    speed = conditions.speed[:, np.clip(around, 0, count - 1)]
    images, motion = sampler.clip(
      params,
      prepared,
      motion,
      float(number > 0 and config.use_motion_frames),
      {'audio': place(clip_audio), 'speed': place(speed)},
      seeds,
      number,
      settings,
    )
    if previous is not None:  # its frames are used while this clip is computed
      yield chunk(number - 1, previous)
    previous = images
  yield chunk(number, previous)

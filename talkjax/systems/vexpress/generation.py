"""Generation with vexpress: overlapping windows of frames, averaged after every denoising step."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.diffusion import guidance, samplers, windows
from talkjax.diffusion.noise import keyed_normal
from talkjax.faces import keypoints
from talkjax.media.picture import to_uint8
from talkjax.nn.latent_unet import Conditioning, precompute_kv
from talkjax.systems import Chunk
from talkjax.systems.audio import AudioFeatures
from talkjax.systems.portrait import networks
from talkjax.systems.portrait.networks import Networks, PortraitConditioning
from talkjax.systems.vexpress import model
from talkjax.systems.vexpress.conditions import Conditions
from talkjax.training import sharding

DECODE_FRAMES = 8  # decoded at once on a device


class Sampler:
  """The compiled functions: their shapes depend on the windows, the batch and the images, never on a length."""

  def __init__(self, nets: Networks, config, table: samplers.Table):
    self.nets, self.config, self.table = nets, config, table
    self.prepare = jax.jit(self._prepare)
    self.encode_windows, self.predict = jax.jit(self._encode_windows), jax.jit(self._predict)
    self.step, self.noise, self.decode = jax.jit(self._step), jax.jit(self._noise), jax.jit(self._decode)

  def _prepare(self, params, reference):
    """(keys and values of portraits [b, h, w, 3] by path, their latents)."""
    latents = networks.encode(params, {'reference': reference}, 'reference', self.nets)
    features, _ = networks.reference_features(params, latents, None, self.nets)
    return precompute_kv(params['backbone'], {'reference': features}, self.nets.backbone.dtype)['reference'], latents

  def _encode_windows(self, params, kps, features) -> Conditioning:
    """The conditioning of windows, apart from the portrait.

    Args:
      params: from training.
      kps: [n, f, h, w, 3] uint8, V-Kps images.
      features: [n, f, d], the audio features around each frame.
    """
    features = features.reshape(-1, features.shape[-1])
    contexts = model.audio_contexts(params, features, self.nets)
    silence = jnp.full_like(features, self.nets.audio_features.silence)
    return Conditioning(
      precompute_kv(params['backbone'], contexts, self.nets.backbone.dtype),
      guide_features=model.guide_features(params, kps, self.nets),
      modulation=networks.modulation(contexts, self.nets),
      silent_modulation=networks.modulation(model.audio_contexts(params, silence, self.nets), self.nets),
    )

  def _predict(self, params, prepared, encoded: Conditioning, x, video, level, settings):
    """The guided prediction for windows x [n, f, h, w, c] of the videos [n], at one level."""
    kv, portraits = prepared
    settings = {k: v[video] for k, v in settings.items()}
    unet = dataclasses.replace(
      encoded,
      contexts={'reference': jax.tree.map(lambda a: a[video], kv), **encoded.contexts},
      context_scales=networks.context_scales(self.config, settings, x.shape[0]),
    )
    condition = PortraitConditioning(unet, portraits[video])
    # Unconditional: zero features of the portrait and the keypoints, zero audio tokens, as released.
    null = jax.tree.map(jnp.zeros_like, condition)
    null = dataclasses.replace(null, unet=dataclasses.replace(null.unet, context_scales=unet.context_scales))

    def denoise(x, level, condition):
      return networks.predict(params, x, level, condition, nets=self.nets)

    scale = settings.get('guidance', self.config.guidance)
    return guidance.classifier_free_batched(denoise, condition, null, scale)(x, level)

  def _step(self, prediction, x, seeds, numbers, row, index):
    """Frames x [k, h, w, c] after one step, from the mean prediction for each."""
    noise = lambda _: self._noise(x, seeds, numbers, index)
    sampler, target = self.config.sampler, self.config.diffusion.target
    return samplers.sample(lambda *_: prediction, x, row, noise, target=target, clip=sampler.clip or None)

  def _noise(self, x, seeds, numbers, index):
    return keyed_normal(seeds, numbers, index, x.shape[1:])

  def _decode(self, params, x, portraits, video):
    """Images [k, h, w, 3] of frames x [k, h, w, c] of the videos [k]."""
    latents = networks.from_residual(x[:, None], portraits[video], self.nets)[:, 0]
    return self.nets.latents.decode(params, latents)


def generate(
  params,
  conditions: Conditions,
  seeds: np.ndarray,
  progress: Callable[[float], None] | None = None,
  *,
  sampler: Sampler,
) -> Iterator[Chunk]:
  """Videos of a batch, a few frames at a time; a shorter video holds its last frame.

  Args:
    params: from training; windows are split over the devices where they are.
    conditions: see `Conditions`.
    seeds: [b] uint32, one per video.
    progress: called with the fraction of denoising that is done.
    sampler: compiled once per shape of windows, never per length.
  """
  config = sampler.config
  settings = conditions.portraits.settings
  lengths = [len(k) for k in conditions.keypoints]
  prepared = sampler.prepare(params, jnp.asarray(conditions.portraits.reference))
  features = [sampler.nets.audio_features.of_sound(params, sound) for sound in conditions.sound]
  draw = lambda video, index: draw_keypoints(conditions.keypoints[video], index, config)
  inputs = Inputs(prepared, draw, features, np.asarray(seeds, np.uint32), settings)
  x, plan = denoise(params, inputs, sampler=sampler, progress=progress)
  place = sharding.batch_placement(params)
  b, longest = len(lengths), max(lengths)
  chunk = max(1, DECODE_FRAMES // b)
  for first in range(0, longest, chunk):
    numbers = np.arange(first, first + chunk)
    frames = [offset + np.minimum(numbers, length - 1) for offset, length in zip(plan.offsets, lengths)]
    videos = np.repeat(np.arange(b), chunk)
    images = sampler.decode(params, place(x[np.concatenate(frames)]), prepared[1], place(videos))
    images = to_uint8(images).reshape(b, chunk, *images.shape[1:])[:, : longest - first]
    last = first + images.shape[1]
    seams = (tuple(s - first for s in plan.starts(i) if first <= s < last) for i in range(b))
    yield Chunk(images, fps=conditions.sound[0].fps, seams=tuple(seams))


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What `denoise` reads.

  Attributes:
    prepared: from `Sampler.prepare`.
    draw: (number of a video, indices of frames [f]) -> their V-Kps images, uint8 [f, h, w, 3].
    features: per video two audio features per frame, [frames, 2 d].
    seeds: [b] uint32.
    settings: values [b] of swept options.
    start: [frames, h, w, c] noise to start from, in place of the seeds'.
  """

  prepared: tuple
  draw: Callable[[int, np.ndarray], np.ndarray]
  features: Sequence[np.ndarray]
  seeds: np.ndarray
  settings: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  start: np.ndarray | None = None


def denoise(
  params, inputs: Inputs, *, sampler: Sampler, progress: Callable[[float], None] | None = None
) -> tuple[np.ndarray, windows.Plan]:
  """The clean latents [frames, h, w, c] of all videos, concatenated, and the plan of their windows."""
  config = sampler.config
  # For lengths that the released code accepts, its windows are these too.
  plan = windows.plan([len(f) for f in inputs.features], config.windows.frames, config.windows.overlap)
  encoded = EncodedWindows(params, inputs, plan, sampler)
  settings = {k: np.asarray(v, np.float32) for k, v in inputs.settings.items()}

  def predict(number, window, level):
    x, video = encoded.place(window), encoded.place(plan.videos[encoded.groups[number]])
    return sampler.predict(params, inputs.prepared, encoded[number], x, video, level, settings)

  at_once = min(encoded.batch, len(plan.sizes)) * config.windows.frames
  functions = windows.Functions(sampler.noise, predict, sampler.step, at_once)
  shape = inputs.prepared[1].shape[1:]
  x = windows.sample(
    shape, plan, encoded.groups, sampler.table, inputs.seeds, functions, start=inputs.start, progress=progress
  )
  return x, plan


class EncodedWindows:
  """The conditioning of groups of windows, encoded when it is needed and cached between steps if it fits.

  Attributes:
    batch: windows in a group: as many as the config allows, on every device; few shapes, whatever the length.
    groups: the windows of each group; the last group is filled up.
    place: puts arrays of a group on the devices.
  """

  def __init__(self, params, inputs: Inputs, plan: windows.Plan, sampler: Sampler):
    self._params, self._inputs, self._plan, self._sampler = params, inputs, plan, sampler
    config = sampler.config
    self.groups = windows.groups(len(plan.frames), config.windows.batch_size, sharding.num_devices(params))
    self.batch = len(self.groups[0])
    self.place = sharding.batch_placement(params)
    around = sampler.nets.audio_features
    self._features = [window_features(f, size, config.margin, around) for f, size in zip(inputs.features, plan.sizes)]
    self._cached: dict[int, Conditioning] = {}

  def __getitem__(self, number: int) -> Conditioning:
    if number in self._cached:
      return self._cached[number]
    plan, group = self._plan, self.groups[number]
    images = np.stack([self._inputs.draw(plan.videos[w], plan.local[w]) for w in group])
    features = np.stack([self._features[plan.videos[w]][plan.local[w]] for w in group])
    encoded = self._sampler.encode_windows(self._params, self.place(images), self.place(features))
    size = sum(a.nbytes for a in jax.tree.leaves(encoded))
    if size * len(self.groups) <= self._sampler.config.windows.cache_mib * 2**20:
      self._cached[number] = encoded
    return encoded


def draw_keypoints(points: np.ndarray, index: np.ndarray, config) -> np.ndarray:
  """V-Kps images of a video's frames `index`, the last one for those past its end: uint8 [f, size, size, 3]."""
  return keypoints.draw_all(points[np.minimum(index, len(points) - 1)], config.size, config.kps_canvas or config.size)


def window_features(features: np.ndarray, size: int, margin: int, audio: AudioFeatures) -> np.ndarray:
  """The features of each of `size` frames with its neighbours': [f, d] -> [size, (2m + 1) d]; silence outside."""
  index = np.arange(size)[:, None] + np.arange(-margin, margin + 1)
  return audio.pad_index(features, index.reshape(-1)).reshape(size, -1)

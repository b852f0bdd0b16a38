"""Generation with vexpress: overlapping windows of frames, averaged after every denoising step."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.diffusion import guidance, samplers, windows
from talkjax.diffusion.noise import keyed_normal
from talkjax.faces import keypoints
from talkjax.media.picture import to_float, to_uint8
from talkjax.nn.latent_unet import Conditioning, precompute_kv
from talkjax.systems import Chunk
from talkjax.systems.audio import AudioFeatures
from talkjax.systems.portrait import networks, overlay
from talkjax.systems.portrait.networks import Networks
from talkjax.systems.vexpress import model
from talkjax.systems.vexpress.conditions import Conditions
from talkjax.training import sharding

DECODE_FRAMES = 8  # decoded at once on a device


class Prepared(NamedTuple):
  """What is computed once for portraits: keys and values by path, latents, and the enlarged images for overlays."""

  kv: Mapping
  latents: jax.Array
  enlarged: jax.Array | None = None


class Sampler:
  """The compiled functions: their shapes depend on the windows, the batch and the images, never on a length."""

  def __init__(self, nets: Networks, config, table: samplers.Table):
    self.nets, self.config, self.table = nets, config, table
    self.prepare = jax.jit(self._prepare)
    self.encode_windows, self.predict = jax.jit(self._encode_windows), jax.jit(self._predict)
    self.lay_over = jax.jit(self._lay_over)
    self.step, self.noise, self.decode = jax.jit(self._step), jax.jit(self._noise), jax.jit(self._decode)

  def _prepare(self, params, reference) -> Prepared:
    """Of portraits [b, h, w, 3] uint8."""
    latents = networks.encode(params, {'reference': reference}, 'reference', self.nets)
    features, _ = networks.reference_features(params, latents, None, self.nets)
    kv = precompute_kv(params['backbone'], {'reference': features}, self.nets.backbone.dtype)['reference']
    return Prepared(kv, latents, overlay.enlarge(to_float(reference)) if overlay.used(self.nets.aids) else None)

  def _lay_over(self, params, prepared: Prepared, video, source, target) -> overlay.Overlay:
    """The portraits of videos [n], moved from keypoints [n, 3, 2] to [n, f, 3, 2]; without the enlarged images."""
    laid = networks.lay_over(params, prepared.enlarged[video], source, target, self.nets)
    return dataclasses.replace(laid, images=None)

  def _encode_windows(self, params, kps, features, faces=None) -> Conditioning:
    """The conditioning of windows, apart from the portrait.

    Args:
      params: from training.
      kps: [n, f, h, w, 3] uint8, V-Kps images.
      features: [n, f, d], the audio features around each frame.
      faces: with an overlay the keypoints [n, 3, 2] of the portraits and [n, f, 3, 2] of the frames, in sides.
    """
    features = features.reshape(-1, features.shape[-1])
    contexts = model.audio_contexts(params, features, self.nets)
    silence = jnp.full_like(features, self.nets.audio_features.silence)
    return Conditioning(
      precompute_kv(params['backbone'], contexts, self.nets.backbone.dtype),
      guide_features=model.guide_features(params, kps, self.nets),
      modulation=networks.modulation(features, faces, self.nets),
      silent_modulation=networks.modulation(silence, faces, self.nets),
    )

  def _predict(self, params, prepared: Prepared, encoded: Conditioning, x, video, level, settings, laid=None):
    """The guided prediction for windows x [n, f, h, w, c] of the videos [n], at one level; `laid` of `lay_over`."""
    settings = {k: v[video] for k, v in settings.items()}
    unet = dataclasses.replace(
      encoded,
      contexts={'reference': jax.tree.map(lambda a: a[video], prepared.kv), **encoded.contexts},
      context_scales=networks.context_scales(self.config, settings, x.shape[0]),
    )
    portraits = prepared.latents[video]
    if self.nets.aids.reference == 'flow':
      laid = dataclasses.replace(laid, images=prepared.enlarged[video])
    condition = networks.with_portrait(unet, portraits, laid, self.nets)
    # Unconditional: zero features of the portrait and the keypoints, zero audio tokens, as released.
    null = jax.tree.map(jnp.zeros_like, condition)
    unconditional = dataclasses.replace(null.unet, context_scales=unet.context_scales)
    null = dataclasses.replace(null, unet=unconditional, base=condition.base)

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

  def _decode(self, params, x, prepared: Prepared, video, laid=None):
    """Images [k, h, w, 3] of frames x [k, h, w, c] of the videos [k]; `laid` of `lay_over`, of one frame each."""
    base = prepared.latents[video] if laid is None else laid.latents[:, 0]
    latents = networks.from_residual(x, base if self.nets.aids.reference != 'none' else None, self.nets)
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
  points = list(zip(conditions.portraits.points, conditions.keypoints))
  inputs = Inputs(prepared, draw, features, np.asarray(seeds, np.uint32), settings, points)
  x, plan = denoise(params, inputs, sampler=sampler, progress=progress)
  place = sharding.batch_placement(params)
  b, longest = len(lengths), max(lengths)
  chunk = max(1, DECODE_FRAMES // b)
  for first in range(0, longest, chunk):
    numbers = np.arange(first, first + chunk)
    frames = [offset + np.minimum(numbers, length - 1) for offset, length in zip(plan.offsets, lengths)]
    videos = np.repeat(np.arange(b), chunk)
    faces = inputs.faces(videos, np.tile(numbers, b)[:, None], sampler, place)
    laid = sampler.lay_over(params, prepared, place(videos), *faces) if faces else None
    images = sampler.decode(params, place(x[np.concatenate(frames)]), prepared, place(videos), laid)
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
    points: per video keypoints of the portrait [3, 2] and of every frame [f, 3, 2] in pixels, for overlays.
    start: [frames, h, w, c] noise to start from, in place of the seeds'.
  """

  prepared: Prepared
  draw: Callable[[int, np.ndarray], np.ndarray]
  features: Sequence[np.ndarray]
  seeds: np.ndarray
  settings: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  points: Sequence[tuple[np.ndarray, np.ndarray]] = ()
  start: np.ndarray | None = None

  def faces(self, videos: np.ndarray, frames: np.ndarray, sampler: Sampler, place: Callable):
    """Keypoints of the portraits of videos [n], and of their frames [n, f], in sides of the picture; or None."""
    if not overlay.used(sampler.nets.aids):
      return None
    given = [(*self.points[video], index) for video, index in zip(videos, frames)]
    source = np.stack([portrait for portrait, _, _ in given])
    target = np.stack([points[np.minimum(index, len(points) - 1)] for _, points, index in given])
    return tuple(place(x / np.float32(sampler.config.size)) for x in (source, target))


def denoise(
  params, inputs: Inputs, *, sampler: Sampler, progress: Callable[[float], None] | None = None
) -> tuple[jax.Array, windows.Plan]:
  """The clean latents [n, h, w, c] of all videos, concatenated and padded, and the plan of their windows."""
  config = sampler.config
  # For lengths that the released code accepts, its windows are these too.
  plan = windows.plan([len(f) for f in inputs.features], config.windows.frames, config.windows.overlap)
  encoded = EncodedWindows(params, inputs, plan, sampler)
  settings = {k: np.asarray(v, np.float32) for k, v in inputs.settings.items()}

  def predict(number, window, level):
    x, video = encoded.place(window), encoded.place(plan.videos[encoded.groups[number]])
    conditioning, laid = encoded[number]
    return sampler.predict(params, inputs.prepared, conditioning, x, video, level, settings, laid)

  functions = windows.Functions(sampler.noise, predict, sampler.step, sharding.whole_placement(params))
  shape = inputs.prepared.latents.shape[1:]
  x = windows.sample(
    shape, plan, encoded.groups, sampler.table, inputs.seeds, functions, start=inputs.start, progress=progress
  )
  return x, plan


class EncodedWindows:
  """The conditioning of groups of windows, encoded when it is needed and cached between steps if it fits.

  Attributes:
    groups: the windows of each group: as many as the config allows, on every device; few shapes, whatever the length.
      The last group is filled up.
    place: puts arrays of a group on the devices.
  """

  def __init__(self, params, inputs: Inputs, plan: windows.Plan, sampler: Sampler):
    self._params, self._inputs, self._plan, self._sampler = params, inputs, plan, sampler
    config = sampler.config
    self.groups = windows.groups(len(plan.frames), config.windows.batch_size, sharding.num_devices(params))
    self.place = sharding.batch_placement(params)
    around = sampler.nets.audio_features
    self._features = [window_features(f, size, config.margin, around) for f, size in zip(inputs.features, plan.sizes)]
    self._cached: dict[int, tuple] = {}

  def __getitem__(self, number: int) -> tuple[Conditioning, overlay.Overlay | None]:
    """The conditioning of a group, and its portraits laid over the faces."""
    if number in self._cached:
      return self._cached[number]
    plan, group = self._plan, self.groups[number]
    images = np.stack([self._inputs.draw(plan.videos[w], plan.local[w]) for w in group])
    features = np.stack([self._features[plan.videos[w]][plan.local[w]] for w in group])
    videos, sampler = plan.videos[group], self._sampler
    faces = self._inputs.faces(videos, plan.local[group], sampler, self.place)
    encoded = sampler.encode_windows(self._params, self.place(images), self.place(features), faces)
    laid = sampler.lay_over(self._params, self._inputs.prepared, self.place(videos), *faces) if faces else None
    encoded = encoded, laid
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

"""How vexpress makes videos of any length: overlapping windows of frames, averaged after every denoising step."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.diffusion import guidance, samplers
from talkjax.errors import UserError
from talkjax.faces import keypoints
from talkjax.media import audio
from talkjax.media.picture import to_uint8
from talkjax.media.segments import AUDIO_RATE
from talkjax.nn.guider import two_a_frame
from talkjax.nn.latent_unet import hoist
from talkjax.nn.wav2vec2 import in_pieces
from talkjax.systems.backbone import (
  Condition,
  decode,
  encode,
  from_change,
  make_table,
  modulation,
  predict,
  reference_features,
  weights_of,
)
from talkjax.systems.portraits import padded, silence, speech_features
from talkjax.systems.vexpress import model
from talkjax.systems.vexpress.data import Inputs

DECODED = 8  # frames that are decoded at once on a device
HEARD = 64  # seconds of sound that are encoded at once


def plan(count: int, size: int, overlap: int, compat: str = 'paper') -> np.ndarray:
  """Which frames each window has: int [windows, size].

  Windows begin `size - overlap` frames after each other; the last ends with the last frame, so it may overlap more. Of
  fewer frames than `size` the one window has them all, and indices behind the end.

  Args:
    count: frames of the video.
    size: frames of a window.
    overlap: frames that two neighbours share at least, less than `size`.
    compat: 'published' goes backwards from the end instead, and has one window of `count` frames where `size` is more.
  """
  if compat == 'published':
    if count <= size:
      return np.arange(count)[None]
    frames = np.arange(0, count - overlap, size - overlap)[:, None] + np.arange(size)
    return np.where(frames < count, frames, count - 2 - frames % count)
  starts = np.arange(0, max(count - overlap, 1), size - overlap)
  return np.minimum(starts, max(count - size, 0))[:, None] + np.arange(size)


def merge(predictions: np.ndarray, frames: np.ndarray, count: int) -> np.ndarray:
  """The mean of what windows say of each frame: [windows, size, ...] at `frames` [windows, size] -> [count, ...]."""
  total, shares = np.zeros((count, *predictions.shape[2:]), np.float32), coverage(frames, count)
  for prediction, index in zip(predictions, frames):
    total[index] += prediction
  return total / shares.reshape(-1, *[1] * (total.ndim - 1))


def coverage(frames: np.ndarray, count: int) -> np.ndarray:
  """How many windows have each frame: int [count]."""
  return sum(np.bincount(np.unique(index), minlength=count)[:count] for index in frames)


def published_length(samples: int, size: int, overlap: int, fps: float = 30.0) -> tuple[int, int, int]:
  """How the released code cuts 16 kHz sound: (its frames at `fps`, whole windows, frames that those have).

  Raises:
    UserError: too short for a window.
  """
  count = int(samples / AUDIO_RATE * fps)
  if count < size:
    raise UserError(
      f'the sound has {count} frames at {fps:g} a second, fewer than a window of {size}, which is the least with '
      '--compat=published: leave that out'
    )
  whole = (count - size) // (size - overlap) + 1
  return count, whole, size + (whole - 1) * (size - overlap)


@dataclasses.dataclass(frozen=True)
class Told:
  """What windows are told beside the portrait, made once: leaves are [windows * frames, ...]."""

  audio: Any  # keys and values by context and path
  modulation: Any
  silence: Any
  added: Any


jax.tree_util.register_dataclass(Told, ['audio', 'modulation', 'silence', 'added'], [])


class Sampler:
  """The compiled functions: their shapes depend on the windows, the batch and the pictures, never on a length."""

  def __init__(self, nets: model.Networks, config):
    self.nets, self.config = nets, config
    self.table = make_table(config, 'stride' if config.compat == 'published' else 'next')
    if 'x0_previous' in self.table.terms:
      raise UserError(f'sampler {config.sampler.name} looks back, which averaged windows cannot: take ddim or ddpm')
    self.prepare, self.listen, self.tell = jax.jit(self._prepare), jax.jit(self._listen), jax.jit(self._tell)
    self.predict, self.step, self.noise = jax.jit(self._predict), jax.jit(self._step), jax.jit(self._noise)
    self.decode = jax.jit(self._decode)

  def _prepare(self, params, reference):
    """(keys and values of portraits [b, h, w, 3] by path, their latents)."""
    latents = encode(params, reference, self.nets)
    attended, _ = reference_features(params, latents, None, self.nets)
    return hoist(params['backbone'], {'reference': attended}, self.nets.backbone.dtype)['reference'], latents

  def _listen(self, params, waveform, samples):
    return model.encode_sound(params, waveform, self.nets, samples)

  def _tell(self, params, kps, heard) -> Told:
    """Of windows with V-Kps images [n, f, h, w, 3] uint8 and sound around each frame [n, f, d]."""
    heard = heard.reshape(-1, heard.shape[-1])
    tokens = model.sound_tokens(params, heard, self.nets)
    none = model.sound_tokens(params, jnp.full_like(heard, silence(self.config.audio)), self.nets)
    sound = hoist(params['backbone'], tokens, self.nets.backbone.dtype)
    return Told(sound, modulation(tokens, self.nets), modulation(none, self.nets), model.guide(params, kps, self.nets))

  def _predict(self, params, prepared, told: Told, x, video, level, settings):
    """The guided prediction for windows x [n, f, h, w, c] of the videos [n], at one level; `settings`: see `Inputs`."""
    keys, portraits = prepared
    settings = {k: v[video] for k, v in settings.items()}
    reference = jax.tree.map(lambda k: k[video], keys)
    condition = Condition(
      {'reference': reference, **told.audio},
      {},
      told.modulation,
      told.added,
      None,
      portraits[video],
      weights_of(self.config, settings, x.shape[0]),
      told.silence,
    )
    # Without conditions: zero features of portrait and keypoints, zero tokens of sound, as released.
    null = dataclasses.replace(jax.tree.map(jnp.zeros_like, condition), weights=condition.weights)

    def denoise(x, level, condition):
      return predict(params, x, level, condition, nets=self.nets)

    scale = settings.get('guidance', self.config.guidance)
    return guidance.classifier_free_batched(denoise, condition, null, scale)(x, level)

  def _step(self, prediction, x, seeds, numbers, row, index):
    """Frames x [k, h, w, c] one step on, by the mean prediction for each."""
    noise = lambda _: self._noise(x, seeds, numbers, index)
    sampler, target = self.config.sampler, self.config.diffusion.target
    return samplers.sample(lambda *_: prediction, x, row, noise, target=target, clip=sampler.clip or None)

  def _noise(self, x, seeds, numbers, index):
    """Like x, keyed by (seed, frame, step): a video does not depend on its batch or windows."""

    def one(seed, number):
      key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), index)
      return jax.random.normal(key, x.shape[1:])

    return jax.vmap(one)(seeds, numbers)

  def _decode(self, params, x, portraits, video):
    """Pictures [k, h, w, 3] of frames x [k, h, w, c] of the videos [k]."""
    return decode(params, from_change(x[:, None], portraits[video], self.nets)[:, 0], self.nets)


def generate(
  params,
  inputs: Inputs,
  seeds: np.ndarray,
  *,
  sampler: Sampler,
  spread: Callable = lambda count: None,
  progress: Callable[[], None] = lambda: None,
) -> Iterator[np.ndarray]:
  """Frames of all videos of a batch, one after the other, as uint8 [b, h, w, 3]; of a shorter one its last stays.

  Args:
    params: from training.
    inputs: see `Inputs`.
    seeds: [b] uint32, one per video.
    sampler: compiled once per shape of windows, never per length.
    spread: how windows lie over devices, see `talkjax.training.sharding.spread`.
    progress: called after every call of the backbone.
  """
  config, lengths = sampler.config, [len(k) for k in inputs.keypoints]
  if layout := spread(jax.device_count()):
    params = jax.device_put(params, layout[1])
  prepared = sampler.prepare(params, jnp.asarray(inputs.reference))
  each = zip(inputs.sound, lengths, inputs.fps, strict=True)
  heard = [listen(params, sound, length, fps, sampler) for sound, length, fps in each]
  shown = lambda video, index: draw(inputs.keypoints[video], index, config)
  x, offsets = denoise(
    params,
    prepared,
    shown,
    heard,
    seeds,
    sampler=sampler,
    settings=inputs.settings,
    spread=spread,
    progress=progress,
  )
  b, longest = len(lengths), max(lengths)
  at_once = max(1, DECODED // b)
  layout = spread(at_once * b)
  for first in range(0, longest, at_once):
    numbers = np.arange(first, first + at_once)
    frames = [offset + np.minimum(numbers, length - 1) for offset, length in zip(offsets, lengths)]
    videos = np.repeat(np.arange(b), at_once)
    place = (lambda a: jax.device_put(a, layout[0])) if layout else jnp.asarray
    pictures = sampler.decode(params, place(x[np.concatenate(frames)]), prepared[1], place(videos))
    shown = to_uint8(pictures).reshape(b, at_once, *pictures.shape[1:])
    yield from shown.swapaxes(0, 1)[: longest - first]


def denoise(
  params,
  prepared,
  shown: Callable[[int, np.ndarray], np.ndarray],
  heard: Sequence[np.ndarray],
  seeds: np.ndarray,
  *,
  sampler: Sampler,
  settings: Mapping[str, np.ndarray] | None = None,
  spread: Callable = lambda count: None,
  progress: Callable[[], None] = lambda: None,
  start: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """The clean latents of all frames of all videos.

  Args:
    params: from training.
    prepared: what `Sampler.prepare` made of the portraits.
    shown: (number of a video, indices of frames [f]) -> their V-Kps images, uint8 [f, h, w, 3].
    heard: per video two features a frame, [frames, 2 d].
    seeds, sampler, spread, progress: as `generate`.
    settings: of the videos, see `Inputs`.
    start: noise to start from, like the latents, instead of the seeds'.

  Returns:
    (latents [frames, h, w, c], the videos in a row; where each video begins in them).
  """
  config, settings = sampler.config, {k: np.asarray(v, np.float32) for k, v in (settings or {}).items()}
  laid, f = config.windows, config.windows.frames
  lengths = [len(h) for h in heard]
  # Of lengths that the released code takes, its windows are ours.
  plans = [plan(n, f, laid.overlap) for n in lengths]
  sizes = [int(p.max()) + 1 for p in plans]  # a short video is made in one whole window
  offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
  frames = np.concatenate([p + offset for p, offset in zip(plans, offsets)])
  local = np.concatenate(plans)
  videos = np.repeat(np.arange(len(plans)), [len(p) for p in plans])
  heard = [around(h, size, config) for h, size in zip(heard, sizes)]

  # As many windows at once as the budget allows, on every device; few shapes, whatever the length.
  devices = jax.device_count() if spread(jax.device_count()) else 1
  at_once = devices * windows_each(len(frames), devices, config)
  layout = spread(at_once)
  place = (lambda a: jax.device_put(a, layout[0])) if layout else jnp.asarray
  groups = [np.arange(i, i + at_once) % len(frames) for i in range(0, len(frames), at_once)]  # the last is filled up

  def tell(group) -> Told:
    pictures = np.stack([shown(videos[w], local[w]) for w in group])
    sound = np.stack([heard[videos[w]][local[w]] for w in group])
    return sampler.tell(params, place(pictures), place(sound))

  kept: dict[int, Told] = {}

  def told_of(number: int) -> Told:
    if number in kept:
      return kept[number]
    told = tell(groups[number])
    size = sum(a.nbytes for a in jax.tree.leaves(told))
    if size * len(groups) <= laid.kept * 2**20:
      kept[number] = told
    return told

  shape = (sum(sizes), *prepared[1].shape[1:])
  seed = np.repeat(np.asarray(seeds, np.uint32), sizes)
  number = np.concatenate([np.arange(size, dtype=np.uint32) for size in sizes])
  chunk = min(at_once, len(plans)) * f

  def by_chunks(function, *arrays):
    """Of all frames, so many at once."""
    made = []
    for first in range(0, shape[0], chunk):
      index = np.arange(first, first + chunk) % shape[0]
      made.append(np.asarray(function(*(a[index] for a in arrays)))[: shape[0] - first])
    return np.concatenate(made)

  x = start
  if x is None:
    empty = np.broadcast_to(np.float32(0), shape)
    x = by_chunks(lambda a, s, n: sampler.noise(a, s, n, config.sampler.steps), empty, seed, number)
  for index in range(len(sampler.table)):
    level = jax.tree.map(jnp.asarray, sampler.table.rows(index))
    predictions, waiting = [], None  # one call ahead of what is fetched: more would need more memory
    for i, group in enumerate(groups):
      windows = place(x[frames[group]])
      made = sampler.predict(params, prepared, told_of(i), windows, place(videos[group]), level, settings)
      predictions += [] if waiting is None else [np.asarray(waiting)]
      waiting = made
      progress()
    predictions = np.concatenate([*predictions, np.asarray(waiting)])[: len(frames)]
    mean = merge(predictions, frames, shape[0])
    row = sampler.table.rows(np.array([index]))
    x = by_chunks(lambda p, a, s, n, row=row, index=index: sampler.step(p, a, s, n, row, index), mean, x, seed, number)
  return x, offsets


def calls(lengths, config, devices: int) -> int:
  """How often `denoise` will call the backbone for videos of these lengths."""
  count = sum(len(plan(n, config.windows.frames, config.windows.overlap)) for n in lengths)
  return config.sampler.steps * -(-count // (devices * windows_each(count, devices, config)))


def windows_each(count: int, devices: int, config) -> int:
  """How many of `count` windows a device takes at once: the budget, or a smaller power of two (few are compiled)."""
  return min(config.windows.budget, 2 ** math.ceil(math.log2(-(-count // devices))))


def draw(points: np.ndarray, index: np.ndarray, config) -> np.ndarray:
  """V-Kps images of a video's frames `index`, the last for those behind its end: uint8 [f, size, size, 3]."""
  return keypoints.draw_all(points[np.minimum(index, len(points) - 1)], config.size, config.kps_canvas or config.size)


def listen(params, waveform: np.ndarray, count: int, fps: float, sampler: Sampler) -> np.ndarray:
  """Two features for each of `count` frames of a 16 kHz waveform: float32 [count, 2 d]."""
  config = sampler.config
  if config.audio.kind != 'wav2vec2':
    return speech_features(waveform, count, fps, config.audio)
  sound = audio.normalised(np.pad(waveform, (0, max(0, AUDIO_RATE // 10 - len(waveform)))))
  pieces = in_pieces(sampler.nets.encoder, functools.partial(sampler.listen, params), sound, HEARD)
  return two_a_frame(np.concatenate(list(pieces)), count)


def around(features: np.ndarray, size: int, config) -> np.ndarray:
  """What each of `size` frames hears with its neighbours: [f, d] -> [size, (2m + 1) d]; silence outside."""
  m = config.margin
  index = np.arange(size)[:, None] + np.arange(-m, m + 1)
  return padded(features, index.reshape(-1), config.audio).reshape(size, -1)

"""Overlapping windows over videos of any length: which frames each has, and the mean of their predictions.

A network that was trained on clips of a few frames generates a longer video in windows, whose predictions are averaged
after every denoising step (V-Express section 2.5; the released code's windows with `compat='published'`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.diffusion.samplers import Table


@dataclasses.dataclass(frozen=True)
class Plan:
  """The windows of a batch of videos, in one list.

  Attributes:
    frames: [windows, size] indices into the frames of all videos, concatenated.
    local: [windows, size] indices into the frames of the window's own video.
    videos: [windows] the video of each window.
    sizes: frames of each video, at least those of one window.
    offsets: where each video begins in the concatenation.
  """

  frames: np.ndarray
  local: np.ndarray
  videos: np.ndarray
  sizes: tuple[int, ...]
  offsets: np.ndarray

  def starts(self, video: int) -> list[int]:
    """The frames of a video at which a window begins, other than the first."""
    return sorted(set(self.local[self.videos == video, 0].tolist()) - {0})

  @property
  def count(self) -> int:
    """Frames of all videos."""
    return sum(self.sizes)


def plan(lengths: Sequence[int], size: int, overlap: int) -> Plan:
  """The windows of videos with these numbers of frames; see `frames_of_windows`."""
  each = [frames_of_windows(n, size, overlap) for n in lengths]
  sizes = tuple(int(p.max()) + 1 for p in each)  # a video shorter than a window is generated as one whole window
  offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
  frames = np.concatenate([p + offset for p, offset in zip(each, offsets)])
  videos = np.repeat(np.arange(len(each)), [len(p) for p in each])
  return Plan(frames, np.concatenate(each), videos, sizes, offsets)


def frames_of_windows(count: int, size: int, overlap: int, compat: str = 'paper') -> np.ndarray:
  """Which frames each window of a video has: int [windows, size].

  Windows begin `size - overlap` frames apart; the last one is moved back to end with the last frame, so it may overlap
  more. With fewer frames than `size`, the one window has them all, and indices past the end.

  Args:
    count: frames of the video.
    size: frames of a window.
    overlap: frames that neighbouring windows share at least, less than `size`.
    compat: 'published' wraps backwards from the end instead, and has one window of `count` frames where `size` is
      larger.
  """
  if compat == 'published':
    if count <= size:
      return np.arange(count)[None]
    frames = np.arange(0, count - overlap, size - overlap)[:, None] + np.arange(size)
    return np.where(frames < count, frames, count - 2 - frames % count)
  starts = np.arange(0, max(count - overlap, 1), size - overlap)
  return np.minimum(starts, max(count - size, 0))[:, None] + np.arange(size)


def merge(predictions: np.ndarray, frames: np.ndarray, count: int) -> jax.Array:
  """The mean prediction for each frame: [windows, size, ...] at `frames` [windows, size] -> [count, ...]."""
  sums = jnp.zeros((count, *predictions.shape[2:]), jnp.float32)
  return _divide(_scatter(sums, frames, predictions), coverage(frames, count))


def coverage(frames: np.ndarray, count: int) -> np.ndarray:
  """How many windows have each frame: int [count]."""
  return sum(np.bincount(np.unique(index), minlength=count)[:count] for index in frames)


def groups(count: int, most: int, devices: int = 1) -> list[np.ndarray]:
  """The windows that are computed together: int [size] each, the last one filled up with windows from the beginning.

  Args:
    count: windows of all videos.
    most: windows at once on a device.
    devices: their number; a group has as many windows for each.

  Returns:
    groups of `most` windows for each device, or of a smaller power of two if that has them all: few are compiled.
  """
  size = devices * min(most, 2 ** math.ceil(math.log2(-(-count // devices))))
  return [np.arange(first, first + size) % count for first in range(0, count, size)]


@dataclasses.dataclass(frozen=True)
class Functions:
  """The functions that sampling in windows calls. x are frames of all videos, `numbers` theirs in the video.

  Attributes:
    noise: compiled, (x [k, ...], seeds [k], numbers [k], index) -> noise [k, ...].
    predict: (number of a group, its windows of x [windows, size, ...], level) -> predictions of the same shape.
    step: compiled, (mean predictions [k, ...], x [k, ...], seeds [k], numbers [k], row of the table, index) -> x after
      the step.
    place: puts an array of frames on the devices, whole on each.
  """

  noise: Callable
  predict: Callable
  step: Callable
  place: Callable = jnp.asarray


def sample(
  shape: tuple[int, ...],
  plan: Plan,
  groups: Sequence[np.ndarray],
  table: Table,
  seeds: Sequence[int],
  functions: Functions,
  start: np.ndarray | None = None,
  progress: Callable[[float], None] | None = None,
) -> jax.Array:
  """Clean frames of all videos, concatenated, by predictions that are averaged over windows at every step.

  Frames, noise and sums stay on the devices: the host sends indices and conditions alone. There are programs for a few
  numbers of frames, see `padded_count`.

  Args:
    shape: of a frame.
    plan: the windows.
    groups: see `groups`.
    table: the steps of the sampler.
    seeds: one per video.
    functions: see `Functions`.
    start: frames [count, *shape] to begin with; by default noise.
    progress: called with the fraction of the work that is done.

  Returns:
    [n, *shape] on the devices, n >= count: frames past `plan.count` are meaningless.
  """
  count, total = plan.count, padded_count(plan.count)
  pad = lambda x: np.concatenate([x, np.zeros((total - count, *x.shape[1:]), x.dtype)])
  seeds = functions.place(pad(np.repeat(np.asarray(seeds, np.uint32), plan.sizes)))
  numbers = functions.place(pad(np.concatenate([np.arange(size, dtype=np.uint32) for size in plan.sizes])))
  shares = functions.place(np.maximum(pad(coverage(plan.frames, count)), 1).astype(np.float32))
  if start is None:
    x = functions.noise(functions.place(np.zeros((total, *shape), np.float32)), seeds, numbers, len(table))
  else:
    x = functions.place(pad(np.asarray(start, np.float32)))
  frames = [plan.frames[group] for group in groups]
  # Windows that fill up the last group count once: their second predictions go nowhere.
  last = np.where(np.arange(sum(map(len, groups)))[-len(groups[-1]) :, None] < len(plan.frames), frames[-1], total)
  targets = [*frames[:-1], last]
  for index in range(len(table)):
    level, row = jax.tree.map(jnp.asarray, table.rows(index)), table.rows(np.array([index]))
    sums = jnp.zeros_like(x)
    for number in range(len(groups)):
      prediction = functions.predict(number, _gather(x, frames[number]), level)
      sums = _scatter(sums, targets[number], prediction)
      if progress:
        progress((index * len(groups) + number + 1) / (len(table) * len(groups)))
    x = functions.step(_divide(sums, shares), x, seeds, numbers, row, index)
  return x


def padded_count(count: int) -> int:
  """A number of frames, at least `count`, that is 2^n or 3 * 2^n: few, and at most half more."""
  power = 2 ** max(0, (count - 1).bit_length() - 1)
  return next(n for n in (power, 3 * power // 2, 2 * power) if n >= count)


@jax.jit
def _gather(x: jax.Array, frames: jax.Array) -> jax.Array:
  return x[frames]


@functools.partial(jax.jit, donate_argnums=0)
def _scatter(sums: jax.Array, frames: jax.Array, predictions: jax.Array) -> jax.Array:
  return sums.at[frames].add(predictions.astype(sums.dtype), mode='drop')


@jax.jit
def _divide(sums: jax.Array, shares: jax.Array) -> jax.Array:
  return sums / shares.reshape(-1, *[1] * (sums.ndim - 1))

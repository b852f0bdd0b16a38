"""Overlapping windows over videos of any length: which frames each has, and the mean of their predictions.

A network that was trained on clips of a few frames generates a longer video in windows, whose predictions are averaged
after every denoising step (V-Express section 2.5; the released code's windows with `compat='published'`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

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


def merge(predictions: np.ndarray, frames: np.ndarray, count: int) -> np.ndarray:
  """The mean prediction for each frame: [windows, size, ...] at `frames` [windows, size] -> [count, ...]."""
  total, shares = np.zeros((count, *predictions.shape[2:]), np.float32), coverage(frames, count)
  for prediction, index in zip(predictions, frames):
    total[index] += prediction
  return total / shares.reshape(-1, *[1] * (total.ndim - 1))


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


def mean_prediction(
  x: np.ndarray, plan: Plan, groups: Sequence[np.ndarray], predict: Callable[[int, np.ndarray], Any]
) -> np.ndarray:
  """The mean prediction for each frame of all videos at one denoising step.

  Args:
    x: [count, ...] the frames of all videos, concatenated.
    plan: their windows.
    groups: see `groups`.
    predict: (number of a group, its windows of x [windows, size, ...]) -> predictions of the same shape, which may
      still be computed: one call is dispatched ahead; more would need more memory.

  Returns:
    [count, ...].
  """
  predictions, pending = [], None
  for number, group in enumerate(groups):
    prediction = predict(number, x[plan.frames[group]])
    predictions += [] if pending is None else [np.asarray(pending)]
    pending = prediction
  predictions = np.concatenate([*predictions, np.asarray(pending)])[: len(plan.frames)]
  return merge(predictions, plan.frames, plan.count)


def in_chunks(size: int, function: Callable, *arrays: np.ndarray) -> np.ndarray:
  """function(*arrays) for arrays [frames, ...], `size` frames at once (the last chunk is filled up)."""
  count, results = len(arrays[0]), []
  for first in range(0, count, size):
    index = np.arange(first, first + size) % count
    results.append(np.asarray(function(*(a[index] for a in arrays)))[: count - first])
  return np.concatenate(results)


@dataclasses.dataclass(frozen=True)
class Functions:
  """The compiled functions that sampling in windows calls. x are frames of all videos, `numbers` theirs in the video.

  Attributes:
    noise: (x [k, ...], seeds [k], numbers [k], index) -> noise [k, ...].
    predict: (number of a group, its windows of x [windows, size, ...], level) -> see `mean_prediction`.
    step: (mean predictions [k, ...], x [k, ...], seeds [k], numbers [k], row of the table, index) -> x after the step.
    at_once: frames in a call of `noise` and `step`.
  """

  noise: Callable
  predict: Callable
  step: Callable
  at_once: int


def sample(
  shape: tuple[int, ...],
  plan: Plan,
  groups: Sequence[np.ndarray],
  table: Table,
  seeds: Sequence[int],
  functions: Functions,
  start: np.ndarray | None = None,
  progress: Callable[[float], None] | None = None,
) -> np.ndarray:
  """Clean frames of all videos, concatenated, by predictions that are averaged over windows at every step.

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
    [count, *shape].
  """
  seeds = np.repeat(np.asarray(seeds, np.uint32), plan.sizes)
  numbers = np.concatenate([np.arange(size, dtype=np.uint32) for size in plan.sizes])
  chunks = functools.partial(in_chunks, functions.at_once)
  x = start
  if x is None:
    empty = np.broadcast_to(np.float32(0), (plan.count, *shape))
    x = chunks(lambda a, s, n: functions.noise(a, s, n, len(table)), empty, seeds, numbers)
  for index in range(len(table)):
    level, row = jax.tree.map(jnp.asarray, table.rows(index)), table.rows(np.array([index]))

    def predict(number, window, index=index, level=level):
      prediction = functions.predict(number, window, level)
      if progress:
        progress((index * len(groups) + number + 1) / (len(table) * len(groups)))
      return prediction

    mean = mean_prediction(x, plan, groups, predict)
    x = chunks(lambda p, a, s, n, row=row, index=index: functions.step(p, a, s, n, row, index), mean, x, seeds, numbers)
  return x

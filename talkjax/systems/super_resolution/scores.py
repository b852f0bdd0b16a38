"""Scores of super-resolution: bicubic interpolation beside it, and whether what is made up flickers."""

from collections.abc import Callable, Mapping

import cv2
import numpy as np

from talkjax.metrics.suites import Clip, Context, Suite
from talkjax.systems.super_resolution import data


def bicubic(scale: int) -> Suite:
  """`psnr_bicubic` and `ssim_bicubic` of the small frames interpolated, and the change between frames over the truth's.

  `change` is the mean absolute difference of consecutive frames, generated over true: noise that differs from frame to
  frame makes it more than 1, blur less. `change_bicubic` is that of the interpolated frames.
  """

  def start(context: Context) -> Callable[[Clip], Mapping[str, float]]:
    from talkjax.metrics import image, stability

    def score(clip: Clip) -> dict[str, float]:
      true = clip.truth.frames
      h, w = true[0].shape[:2]
      small = data.degrade(np.stack(true), scale)
      enlarged = [cv2.resize(frame, (w, h), interpolation=cv2.INTER_CUBIC) for frame in small]
      found = image.video_scores(true, enlarged)
      everywhere = np.ones((h, w), bool)
      change = lambda frames: stability.flicker(frames, everywhere)
      return {
        **{f'{name}_bicubic': found[name] for name in ('psnr', 'ssim')},
        'change': stability.ratio(change(clip.generated.frames), change(true)),
        'change_bicubic': stability.ratio(change(enlarged), change(true)),
      }

    return score

  return Suite(('psnr_bicubic', 'ssim_bicubic', 'change', 'change_bicubic'), start)

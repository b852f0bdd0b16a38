"""PSNR and SSIM of images and videos, over the whole frame or inside a mask.

SSIM uses the settings of Wang et al. 2004 (11x11 Gaussian window, sigma 1.5, biased covariance, K1 0.01, K2 0.03) as
implemented by scikit-image; colour channels are scored separately and averaged.

Inside a mask (weights in [0, 1], one per pixel):
- PSNR uses the weighted mean of the squared error, 10 log10(range^2 * sum(w) / sum(w * mse of the pixel)).
- SSIM is the weighted mean of the SSIM map. Windows near the mask's edge extend beyond it, so pixels outside the mask
  are first set to the reference in both images: generated pixels outside cannot change the score. No border is
  cropped.

PSNR of identical images is infinite. Means over frames cap every frame at `PSNR_CAP` dB, so that one identical frame
does not dominate and the score can be stored as JSON.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from skimage.metrics import structural_similarity

from talkjax.errors import UserError

PSNR_CAP = 100.0  # dB; above the PSNR of any two different 8-bit images up to 200 pixels wide
SSIM_WINDOW = 11  # pixels


def psnr(
  reference: np.ndarray, generated: np.ndarray, mask: np.ndarray | None = None, data_range: float = 255.0
) -> float:
  """Peak signal-to-noise ratio in dB; inf for identical images (see the module's docstring for masks).

  Args:
    reference, generated: [h, w, c] or [h, w], of the same shape, values in [0, data_range].
    mask: [h, w] or [h, w, 1], weights in [0, 1].
    data_range: largest possible difference of two values.

  Raises:
    UserError: sizes differ, or the mask is empty.
  """
  reference, generated, mask = _checked(reference, generated, mask)
  square = (reference - generated) ** 2
  if mask is None:
    mse = square.mean()
  else:
    mse = (square.reshape(*mask.shape, -1).mean(-1) * mask).sum() / mask.sum()
  return float('inf') if mse == 0 else float(10 * np.log10(data_range**2 / mse))


def ssim(
  reference: np.ndarray, generated: np.ndarray, mask: np.ndarray | None = None, data_range: float = 255.0
) -> float:
  """Structural similarity in [-1, 1] (Wang et al. 2004, scikit-image); see the module's docstring for masks.

  Without a mask the mean excludes a border of 5 pixels, as in scikit-image. Arguments and errors as in `psnr`.
  """
  reference, generated, mask = _checked(reference, generated, mask)
  if mask is None:
    return ssim_map(reference, generated, data_range)[0]
  inside = mask > 0
  # Only windows that overlap the mask contribute, so only its surroundings are computed.
  rows, columns = (_span(inside.any(axis), SSIM_WINDOW) for axis in (1, 0))
  inside = inside[rows, columns, None] if reference.ndim == 3 else inside[rows, columns]
  patch = reference[rows, columns]
  score = ssim_map(patch, np.where(inside, generated[rows, columns], patch), data_range)[1]
  weights = mask[rows, columns]
  return float((score.reshape(*weights.shape, -1).mean(-1) * weights).sum() / weights.sum())


def ssim_map(
  reference: np.ndarray, generated: np.ndarray, data_range: float = 255.0, wang: bool = True
) -> tuple[float, np.ndarray]:
  """Mean SSIM (excluding a border of half a window) and the SSIM map, of the images' shape.

  Args:
    reference, generated: [h, w, c] or [h, w], of the same shape, values in [0, data_range].
    data_range: largest possible difference of two values.
    wang: Wang's window and covariance; False for scikit-image's default (7x7 uniform window, unbiased covariance).

  Raises:
    UserError: sizes differ, or the image is smaller than the window.
  """
  reference, generated, _ = _checked(reference, generated, None)
  window = SSIM_WINDOW if wang else 7
  if min(reference.shape[:2]) < window:
    height, width = reference.shape[:2]
    raise UserError(
      f'SSIM needs images of at least {window}x{window} pixels, but got {width}x{height}: use larger ones'
    )
  settings = {'gaussian_weights': True, 'sigma': 1.5, 'use_sample_covariance': False} if wang else {}
  axis = -1 if reference.ndim == 3 else None
  mean, score = structural_similarity(
    reference, generated, data_range=data_range, channel_axis=axis, full=True, **settings
  )
  return float(mean), score


def mean_psnr(values: Sequence[float]) -> float:
  """Mean of PSNRs in dB, each capped at `PSNR_CAP` (identical images have inf); nan without values."""
  return float(np.minimum(values, PSNR_CAP).mean()) if len(values) else float('nan')


def video_scores(
  reference: Iterable[np.ndarray], generated: Iterable[np.ndarray], masks: Iterable[np.ndarray] | None = None
) -> dict[str, float]:
  """Means of PSNR and SSIM over the frames of a video, computed in constant memory.

  Args:
    reference, generated: the same number of uint8 frames [h, w, 3].
    masks: one mask [h, w(, 1)] per frame; also computes the scores inside the masks.

  Returns:
    `psnr`, `ssim`, `identical_frames`, and with masks `psnr_mask`, `ssim_mask`.

  Raises:
    UserError: frame sizes or numbers of frames differ, or there are no frames.
  """
  scores: dict[str, list[float]] = {'psnr': [], 'ssim': []} | ({'psnr_mask': [], 'ssim_mask': []} if masks else {})
  streams = (reference, generated) if masks is None else (reference, generated, masks)
  try:
    for frames in zip(*streams, strict=True):
      reference_frame, generated_frame, *mask = frames
      scores['psnr'].append(psnr(reference_frame, generated_frame))
      scores['ssim'].append(ssim(reference_frame, generated_frame))
      if mask:
        scores['psnr_mask'].append(psnr(reference_frame, generated_frame, mask[0]))
        scores['ssim_mask'].append(ssim(reference_frame, generated_frame, mask[0]))
  except ValueError as error:
    if 'zip()' not in str(error):
      raise
    raise UserError('the videos differ in their numbers of frames: cut both to the common length') from error
  if not scores['psnr']:
    raise UserError('there are no frames to score: expected at least one')
  means = {k: mean_psnr(v) if k.startswith('psnr') else float(np.mean(v)) for k, v in scores.items()}
  return means | {'identical_frames': int(np.isinf(scores['psnr']).sum())}


def _checked(reference, generated, mask):
  reference, generated = (np.asarray(x, np.float64) for x in (reference, generated))
  if reference.shape != generated.shape:
    raise UserError(
      f'images of different sizes cannot be compared: the reference is {_size(reference)}, '
      f'the generated one {_size(generated)}; make both the same size'
    )
  if mask is not None:
    mask = np.asarray(mask, np.float64)
    mask = mask[..., 0] if mask.ndim == 3 else mask
    if mask.shape != reference.shape[:2]:
      raise UserError(f'the mask is {_size(mask)} but the images are {_size(reference)}: make it the same size')
    if not mask.sum() > 0:
      raise UserError('the mask is empty: expected at least one pixel above 0')
  return reference, generated, mask


def _span(any_inside: np.ndarray, margin: int) -> slice:
  # The extent of the mask along one axis plus a margin; at least an SSIM window if the image is large enough.
  inside = np.flatnonzero(any_inside)
  return slice(max(inside[0] - margin, 0), inside[-1] + margin + 1)


def _size(x: np.ndarray) -> str:
  return f'{x.shape[1]}x{x.shape[0]}' + (f' with {x.shape[2]} channels' if x.ndim == 3 else '')

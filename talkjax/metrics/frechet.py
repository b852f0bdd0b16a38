"""Fréchet distance of two sets of features, each described by its mean and covariance (FID, FVD, E-FID).

|mu1 - mu2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^1/2), as in pytorch-fid: float64, unbiased covariances. Golden case
frechet.
"""

import numpy as np
import scipy.linalg

from talkjax.errors import UserError


def statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean [d] and covariance [d, d] of features [n, d]."""
  features = np.asarray(features, np.float64)
  return features.mean(0), np.cov(features, rowvar=False).reshape(features.shape[1], -1)


def distance(a: np.ndarray, b: np.ndarray) -> float:
  """Fréchet distance of features [n, d] and [m, d].

  Raises:
    UserError: a set has fewer than two rows, the widths differ, or a feature is not a finite number.
  """
  a, b = (np.asarray(x, np.float64) for x in (a, b))
  if min(len(a), len(b)) < 2 or a.shape[1:] != b.shape[1:]:
    raise UserError(
      f'a Fréchet distance needs two or more features of the same width in both sets, but got {a.shape} and {b.shape}: '
      f'score more clips'
    )
  if not (np.isfinite(a).all() and np.isfinite(b).all()):
    raise UserError('a Fréchet distance needs finite features: the weights or a video are damaged')
  square = np.sum((a.mean(0) - b.mean(0)) ** 2)
  traces = sum(x.var(0, ddof=1).sum() for x in (a, b))
  return float(square + traces - 2 * sqrt_trace(a, b))


def sqrt_trace(a: np.ndarray, b: np.ndarray) -> float:
  """Trace of (C1 C2)^1/2 for the covariances of features [n, d] and [m, d].

  With C1 = U^T U and C2 = W^T W, of the centred features over sqrt(n - 1), it is the sum of the singular values of
  U W^T. That is exact and fast for fewer features than dimensions; otherwise C1^1/2 C2 C1^1/2, which has the same
  eigenvalues as C1 C2, is the smaller matrix.
  """
  u, w = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (np.asarray(x, np.float64) for x in (a, b)))
  if min(len(u), len(w)) < u.shape[1]:
    return float(scipy.linalg.svdvals(u @ w.T).sum())
  values, vectors = scipy.linalg.eigh(u.T @ u)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  return float(np.sqrt(np.maximum(scipy.linalg.eigvalsh(root @ (w.T @ w) @ root), 0)).sum())

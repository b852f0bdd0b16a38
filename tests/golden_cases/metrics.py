"""Golden cases of the scores: SSIM and PSNR, CPBD, Fréchet distances, lip synchronisation, beats."""

import re

import numpy as np
import scipy.signal

from talkjax.metrics import beats, cpbd, frechet, image, sync


def ssim_psnr(case) -> dict[str, np.ndarray]:
  """Every pair a_NAME, b_NAME; the maps are stored thinned, as their description says."""
  peak = case.config.get('data_range', 255)
  outputs = {}
  for key, a in case.inputs.items():
    if not key.startswith('a_'):
      continue
    name = key.removeprefix('a_')
    b = case.inputs[f'b_{name}']
    score, score_map = image.ssim_map(a, b, peak)
    described = re.search(r'\[::(\d+), ::(\d+)\]', case.json['outputs'][f'map_{name}']['meaning'])
    rows, columns = (int(n) for n in described.groups()) if described else (1, 1)
    outputs |= {
      f'ssim_{name}': score,
      f'map_{name}': score_map[::rows, ::columns],
      f'psnr_{name}': image.psnr(a, b, data_range=peak),
      f'ssim_uniform_{name}': image.ssim_map(a, b, peak, wang=False)[0],
      f'ssim_unit_{name}': image.ssim(a / peak, b / peak, data_range=1.0),
    }
    if a.ndim == 3:
      grey_a, grey_b = (x.astype(np.float64).mean(-1) for x in (a, b))
      outputs[f'ssim_gray_{name}'] = image.ssim(grey_a, grey_b, data_range=peak)
  return {k: np.float32(v) for k, v in outputs.items()}


def cpbd_cases(case) -> dict[str, np.ndarray]:
  """Every picture image_NAME: score, both kinds of edges, widths. Scores hold to 1e-6, tighter than the case asks."""
  outputs = {}
  for key, picture in case.inputs.items():
    name = key.removeprefix('image_')
    grey = cpbd.to_grey(picture)
    sobel = cpbd.sobel_edges(grey)
    score = cpbd.cpbd(picture)
    assert abs(score - float(case.outputs[f'cpbd_{name}'])) < 1e-6
    outputs |= {
      f'cpbd_{name}': np.float32(score),
      f'canny_{name}': cpbd.canny_edges(grey).astype(np.uint8),
      f'sobel_{name}': sobel.astype(np.uint8),
      f'widths_{name}': cpbd.edge_widths(grey, sobel),
    }
  return outputs


def frechet_distances(case) -> dict[str, np.ndarray]:
  """Every pair act1_NAME, act2_NAME."""
  outputs = {}
  for key, a in case.inputs.items():
    if key.startswith('act1_'):
      name = key.removeprefix('act1_')
      b = case.inputs[f'act2_{name}']
      mean, covariance = frechet.statistics(a)
      outputs |= {f'mu1_{name}': mean, f'cov1_{name}': covariance}
      outputs |= {f'distance_{name}': frechet.distance(a, b), f'sqrt_trace_{name}': frechet.sqrt_trace(a, b)}
  return outputs


def syncnet_lse(case) -> dict[str, np.ndarray]:
  made = sync.score(case.inputs['lip'], case.inputs['audio'], case.config['vshift'])
  means = made.distances.mean(0)
  confidence = np.median(means) - made.distances[:, case.config['vshift'] - made.offset]
  return {
    'dists': made.distances,
    'mean_dists': means,
    'lse_d': made.distance,
    'lse_c': made.confidence,
    'offset': np.int32(made.offset),
    'frame_conf': confidence,
    'frame_conf_filtered': scipy.signal.medfilt(confidence, 9),
  }


def beat_align(case) -> dict[str, np.ndarray]:
  points, sound = case.inputs['keypoints'], case.inputs['music_beats']
  velocity, motion = beats.speed(points), beats.motion_beats(points)
  length = np.int32(len(velocity))
  return {'motion_beats': motion, 'velocity': velocity, 'score': beats.align(sound, motion), 'length': length}


CHECKS = {
  'ssim_psnr': ssim_psnr,
  'cpbd_cases': cpbd_cases,
  'frechet': frechet_distances,
  'syncnet_lse': syncnet_lse,
  'beat_align': beat_align,
}

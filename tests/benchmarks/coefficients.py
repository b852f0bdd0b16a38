"""What the cached coefficients of puppets say about the exact truth, on people that the model was not fitted to.

python -m talkjax.build data/puppets --coefficients=mesh_pca
python -m tests.benchmarks.coefficients [--data_dir=datasets --basis=mesh_pca --output=FILE.json]
"""

import argparse
import json
import pathlib

import ml_collections
import numpy as np

from data.puppets.articulation import COEFFICIENTS
from talkjax.corpora import coefficients
from talkjax.faces import measures, morphable
from talkjax.training import input_pipeline
from talkjax.weights import coefficients as bases


def mouth_opening(model: morphable.MorphableModel, rows: np.ndarray) -> np.ndarray:
  """Distance of the inner lips of the mesh without its pose, units of the model: [f, k] -> [f]."""
  alpha, beta, _, _ = model.split(rows)
  points = model.shape(alpha, beta)[:, model.landmarks68]
  return np.linalg.norm(points[:, [61, 62, 63]] - points[:, [67, 66, 65]], axis=-1).mean(-1)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
  return round(float(np.corrcoef(a, b)[0, 1]), 3)


def measure(data_dir: str, basis: str) -> dict:
  """All figures, of the test split unless they say otherwise."""
  data = ml_collections.ConfigDict({'dir': data_dir, 'corpus': 'puppets'})
  builder = input_pipeline.open_builder(data, 'test', 'puppets')
  model = coefficients.load(pathlib.Path(builder.data_dir) / basis)
  clips = {}
  for split in ('train', 'test'):
    cache, _ = bases.open_cache(builder, basis, split)
    clips[split] = list(input_pipeline.open_corpus(data, split, [cache]))
  rows = {s: [np.asarray(c.features['coefficients'], np.float32) for c in clips[s]] for s in clips}
  parts = {split: [model.split(r) for r in rows[split]] for split in rows}
  found = {'clips': len(clips['test']), 'frames': sum(map(len, rows['test'])), 'row': model.sizes.row}

  degrees = [morphable.degrees(angles) for _, _, angles, _ in parts['test']]
  pose = np.concatenate([c.pose for c in clips['test']])
  turned = np.concatenate(degrees)
  for i, name in enumerate(('yaw', 'pitch', 'roll')):
    found[f'{name}_correlation'] = correlation(turned[:, i], pose[:, i])
    found[f'{name}_error_degrees'] = round(float(np.abs(turned[:, i] - pose[:, i]).mean()), 2)

  opening = [mouth_opening(model, r) for r in rows['test']]
  true_opening = [measures.mouth_opening(c.landmarks) for c in clips['test']]
  found['mouth_opening_of_the_mesh'] = correlation(np.concatenate(opening), np.concatenate(true_opening))
  found['mouth_opening_within_a_clip'] = round(float(np.mean([correlation(*p) for p in zip(opening, true_opening)])), 3)
  posed = [model.project(r, c.size)[:, model.landmarks68, :2] for r, c in zip(rows['test'], clips['test'])]
  posed_opening = np.concatenate([measures.mouth_opening(p) for p in posed])
  found['mouth_opening_of_the_posed_mesh'] = correlation(posed_opening, np.concatenate(true_opening))
  distances = [np.linalg.norm(p - c.landmarks, axis=-1).mean() for p, c in zip(posed, clips['test'])]
  found['landmark_distance_pixels'] = round(float(np.mean(distances)), 2)

  # Each articulation coefficient by a linear map of the expression coefficients, fitted to the training split.
  inputs = {s: np.concatenate([np.c_[beta, np.ones(len(beta))] for _, beta, _, _ in parts[s]]) for s in parts}
  truth = {s: np.concatenate([c.coefficients for c in clips[s]]) for s in clips}
  decoded = inputs['test'] @ np.linalg.lstsq(inputs['train'], truth['train'], rcond=None)[0]
  found['decoded'] = {name: correlation(decoded[:, i], truth['test'][:, i]) for i, name in enumerate(COEFFICIENTS)}
  alphas, people = np.stack([alpha[0] for alpha, *_ in parts['test']]), np.array([c.speaker for c in clips['test']])
  distance = np.linalg.norm(alphas[:, None] - alphas[None], axis=-1) + 1e9 * np.eye(len(alphas))
  found['nearest_identity_is_the_person'] = round(float(np.mean(people[distance.argmin(1)] == people)), 3)
  return found


if __name__ == '__main__':
  parser = argparse.ArgumentParser()
  parser.add_argument('--data_dir', default='datasets')
  parser.add_argument('--basis', default='mesh_pca')
  parser.add_argument('--output')
  args = parser.parse_args()
  text = json.dumps(measure(args.data_dir, args.basis), indent=2)
  print(text)
  if args.output:
    pathlib.Path(args.output).write_text(text + '\n')

"""A picture of FD2Talk on held-out puppets: truth, mesh of the generated motion, and what is rendered from it.

python -m tests.benchmarks.fd2talk_picture --workdir=runs/fd_3 --clips=2 --output=docs/fd2talk_frames.jpg

The expression is generated from the clip's speech; the pose is that of the true video, so that columns can be compared.
"""

import argparse
import dataclasses

import cv2
import numpy as np

from talkjax import systems
from talkjax.faces import mesh_drawing
from talkjax.media import picture
from talkjax.systems import coefficients
from talkjax.training import checkpoint, input_pipeline, sharding

COLUMNS = 10


def rows_of(system, config, params, record) -> list[list[np.ndarray]]:
  """The frames of a record as rows of a picture: truth, meshes, rendered frames."""
  batch, made = system.from_records([record], oracle=True), []
  conditions = dataclasses.replace(batch.conditions, deliver=lambda number, rows, motion: made.append(rows))
  (frames,) = systems.join(system.generate(params, conditions, np.zeros(1, np.uint32))).frames
  model = coefficients.numpy_model_of(params, config)
  meshes = list(mesh_drawing.draw(model, made[0], frames.shape[1:3]))
  return [list(batch.truth[0].frames), meshes, list(frames)]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--output', required=True)
  parser.add_argument('--split', default='test')
  parser.add_argument('--clips', type=int, default=3)
  parser.add_argument('--enlarge', type=int, default=1)
  args = parser.parse_args()
  config, params, _ = checkpoint.load_params(args.workdir)
  system, params = systems.build(config), sharding.replicate(params)
  records = {}  # one of each person
  for record in input_pipeline.eval_records(config.data, args.split):
    records.setdefault(record.speaker, record)
  rows = [row for r in list(records.values())[: args.clips] for row in rows_of(system, config, params, r)]
  shown = picture.strip(rows, COLUMNS)
  picture.write(args.output, cv2.resize(shown, None, fx=args.enlarge, fy=args.enlarge, interpolation=cv2.INTER_NEAREST))


if __name__ == '__main__':
  main()

"""Scores the true videos of a corpus with the suite `joint`, as if they had been generated: what a perfect system has.

python -m tests.benchmarks.joint_truth --data_dir=datasets --corpus=puppets
"""

import argparse
import sys

import ml_collections
import numpy as np
from absl import flags

from talkjax.corpora.records import Record
from talkjax.metrics import footage, pairs
from talkjax.metrics.suites import Context, SuiteRun, Truth
from talkjax.training import input_pipeline


def measure(data, split: str, mouth: str, limit: int | None = None) -> dict[str, float | None]:
  """Means over the clips of a split, and the scores of the set.

  Args:
    data: the `data` of a config.
    split: whose clips are scored; the classifiers are fitted to `data.split`.
    mouth: how mouths are measured, see `talkjax.metrics.suites.mouth_opening`.
    limit: of the clips.
  """
  training = lambda: ((r, Truth([r.frame(0)], r.landmarks[:1])) for r in input_pipeline.eval_records(data, data.split))
  run = SuiteRun([pairs.JOINT], Context(mouth, training=training))
  rows = [run.score(_twice(record)) for record in input_pipeline.eval_records(data, split, limit)]
  means = {}
  for name in rows[0]:
    values = [row[name] for row in rows if row[name] is not None]
    means[name] = float(np.mean(values)) if values else None
  return means | run.total()


def _twice(record: Record) -> footage.Pair:
  frames = [record.frame(i) for i in range(len(record.frames))]
  video = footage.from_frames(record.id, frames, record.fps, record.audio.astype(np.float32) / 32768)
  return footage.Pair(record.id, record.speaker, video, video, record.caption)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data_dir', default='datasets')
  parser.add_argument('--corpus', default='puppets')
  parser.add_argument('--split', default='test')
  parser.add_argument('--mouth', default='found', choices=('found', 'landmarks'))
  parser.add_argument('--limit', type=int)
  args = parser.parse_args()
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(['joint_truth'])  # grain reads absl flags
  data = ml_collections.ConfigDict({'dir': args.data_dir, 'corpus': args.corpus, 'split': 'train'})
  for name, value in measure(data, args.split, args.mouth, args.limit).items():
    print(f'{name:32} {"-" if value is None else f"{value:.3f}"}')
  return 0


if __name__ == '__main__':
  sys.exit(main())

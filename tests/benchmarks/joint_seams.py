"""How much more the picture of joint_av changes where windows join than elsewhere, and how long its videos are.

python -m tests.benchmarks.joint_seams --workdir=runs/joint
"""

import argparse

import numpy as np

import talkjax


def seam_ratio(frames: np.ndarray, size: int, overlap: int) -> float:
  """Mean absolute change of frames [f, h, w, 3] where a window of `size` frames ends, over that elsewhere."""
  change = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean((1, 2, 3))
  joins = np.zeros(len(frames), bool)
  joins[size :: size - overlap] = True
  return float(change[joins[1:]].mean() / change[~joins[1:]].mean())


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--seconds', type=float, default=5.0)
  parser.add_argument('--videos', type=int, default=8)
  args = parser.parse_args()
  model = talkjax.load(args.workdir)
  size, overlap, captions = model.config.space.frames, model.config.guidance.overlap, model.config.captions
  ratios = []
  for seed in range(args.videos):
    made = model.generate(caption=captions[seed % len(captions)], seconds=args.seconds, seed=seed)
    ratios.append(seam_ratio(made.frames, size, overlap))
    print(f'seed {seed}: {len(made.frames)} frames, {len(made.sound)} samples, {ratios[-1]:.3f} x')
  print(f'mean {np.mean(ratios):.3f} x')


if __name__ == '__main__':
  main()

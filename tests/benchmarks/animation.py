"""An animated GIF of generated videos under the true ones.

  python -m talkjax.evaluate --workdir=runs/vx_1 --batch_size=16 --videos=videos
  python -m tests.benchmarks.animation --videos=videos --output=docs/vexpress.gif [--clips=4] [--seconds=2.5]

The clips are the first ones of the folders `true` and `generated` that `evaluate --videos` writes, or those that are
named; they are shown at half the rate and twice the size.
"""

import argparse
import itertools
import pathlib

import numpy as np
import PIL.Image

from talkjax.media import video

ENLARGE = 2
COLOURS = 96


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--videos', required=True)
  parser.add_argument('--output', required=True)
  parser.add_argument('--names', help='comma-separated, in place of the first clips')
  parser.add_argument('--clips', type=int, default=4)
  parser.add_argument('--seconds', type=float, default=2.5)
  args = parser.parse_args()
  folder = pathlib.Path(args.videos)
  names = sorted(path.stem for path in (folder / 'true').glob('*.mp4'))
  chosen = args.names.split(',') if args.names else names[: args.clips]
  fps = video.probe(folder / 'true' / f'{chosen[0]}.mp4').fps
  count = round(args.seconds * fps)

  def frames(kind: str, name: str) -> np.ndarray:
    return np.stack(list(itertools.islice(video.read_frames(folder / kind / f'{name}.mp4'), count))[::2])

  columns = [np.concatenate([frames(kind, name) for kind in ('true', 'generated')], axis=1) for name in chosen]
  shown = np.concatenate([c[: min(map(len, columns))] for c in columns], axis=2)
  pictures = [PIL.Image.fromarray(f) for f in shown.repeat(ENLARGE, 1).repeat(ENLARGE, 2)]
  # Without dithering, whose noise does not compress.
  pictures = [p.quantize(COLOURS, dither=PIL.Image.Dither.NONE) for p in pictures]
  pictures[0].save(args.output, save_all=True, append_images=pictures[1:], duration=round(2000 / fps), loop=0)


if __name__ == '__main__':
  main()

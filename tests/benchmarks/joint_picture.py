"""A picture of joint samples: frames and the spectrogram of the same time, of a held-out puppet and of generated ones.

python -m tests.benchmarks.joint_picture --workdir=runs/joint --output=docs/joint_av.jpg

The first two rows are a clip of the corpus; then come a sample of each caption and one of a sentence. Below the frames
is the log-mel spectrogram from low to high, one column of pixels for each 20 ms, enlarged to their width.
"""

import argparse

import cv2
import numpy as np

import talkjax
from talkjax import systems
from talkjax.media import picture, vocoder
from talkjax.training import input_pipeline

COLUMNS, SECONDS = 12, 2.6
SENTENCE = 'place blue at F nine now'


def rows_of(frames, sound: np.ndarray, width: int) -> list[np.ndarray]:
  """A strip of frames [f, h, w, 3], and the spectrogram of its sound [s] as wide."""
  shown = picture.strip([list(frames)], COLUMNS)
  columns = vocoder.spectrogram(sound, 2 * len(frames))
  grey = np.clip(columns.T[::-1] / 7 * 255, 0, 255).astype(np.uint8)
  coloured = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_MAGMA), cv2.COLOR_BGR2RGB)
  return [shown, cv2.resize(coloured, (shown.shape[1], width), interpolation=cv2.INTER_AREA)]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--output', required=True)
  parser.add_argument('--split', default='test')
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  pipeline = talkjax.load(args.workdir)
  config, count = pipeline.config, round(SECONDS * pipeline.config.space.fps)
  record = next(r for r in input_pipeline.eval_records(config.data, args.split) if len(r.frames) >= count)
  frames = systems.build(config).from_records([record], num_frames=count).truth[0].frames
  side = len(frames[0])
  rows = rows_of(frames, record.audio[: round(SECONDS * 16_000)].astype(np.float32) / 32768, side)
  samples = [{'caption': caption, 'seconds': SECONDS} for caption in config.captions]
  for inputs in (*samples, {'text': SENTENCE, 'caption': config.captions[-1]}):
    made = pipeline.generate(seed=args.seed, **inputs)
    rows += rows_of(made.frames[:count], made.sound, side)
  gap = np.full((picture.GAP, rows[0].shape[1], 3), 255, np.uint8)
  picture.write(args.output, np.concatenate([part for row in rows for part in (row, gap)][:-1]))


if __name__ == '__main__':
  main()

"""How near a portrait comes to the frames of its video without any network, laid over their faces in several ways.

  python -m tests.benchmarks.overlays [--split=validation] [--frames=4]

Of frames as `configs/vexpress.py:tiny` sees them, the script prints the PSNR and the gradient energy of face and mouth
over the truth's (`metrics.stability`), of the first frame of the clip: as it is; moved by the similarity of three
keypoints; moved by all landmarks; the better of the first two for every value; the similarity followed by optical flow
to the true frame; and the better of that and the first frame. The last three know the true frame: they bound what a
network can make of the portrait that blends (`from_references`) and moves it further (`apply_flow`).
"""

import argparse

import cv2
import jax
import numpy as np

from configs import vexpress
from talkjax.faces.landmarks import FaceTrack
from talkjax.metrics import image, stability
from talkjax.systems.portrait import framing, overlay
from talkjax.systems.portrait.reading import face_points
from talkjax.training import input_pipeline


def follow_flow(source: np.ndarray, target: np.ndarray) -> np.ndarray:
  """A frame uint8 [h, w, 3] moved by its dense optical flow to another one."""
  grey = [cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (target, source)]
  flow = cv2.calcOpticalFlowFarneback(*grey, None, 0.5, 3, 7, 5, 5, 1.1, 0)
  rows, columns = np.mgrid[: len(source), : len(source)].astype(np.float32)
  where = columns + flow[..., 0], rows + flow[..., 1]
  return cv2.remap(source, *where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def better(a: np.ndarray, b: np.ndarray, truth: np.ndarray) -> np.ndarray:
  """Of two arrays uint8 the values that are nearer to a third."""
  error = lambda x: np.abs(x.astype(int) - truth)
  return np.where(error(a) < error(b), a, b)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--split', default='validation')
  parser.add_argument('--frames', type=int, default=4)
  args = parser.parse_args()
  config = vexpress.get_config('tiny,stage=1')
  size = config.size
  colours = jax.jit(lambda picture, points: overlay.sample(overlay.enlarge(picture), points))
  generator, scores = np.random.default_rng(0), {}
  for record in input_pipeline.eval_records(config.data, args.split):
    chosen = 1 + generator.choice(len(record.frames) - 1, args.frames, replace=False)
    window = framing.of_record(record, config.framing)
    first, landmarks = window.picture(record.frame(0), size), window.points(record.landmarks, size)
    points = face_points(record, config)[None] / np.float32(size)
    box = np.concatenate([landmarks.min(1), landmarks.max(1)], 1)[chosen]
    faces = FaceTrack(landmarks[chosen], None, box, None, np.ones(len(chosen), bool), 1)
    to_uint8 = lambda x: np.clip(np.round(x), 0, 255).astype(np.uint8)
    portrait = first[None].astype(np.float32)
    similar = to_uint8(colours(portrait, overlay.follow(points[:, 0], points[:, chosen], size))[0])
    many = landmarks / np.float32(size)
    given = np.repeat(portrait, len(chosen), 0), np.repeat(many[:1], len(chosen), 0), many[chosen]
    by_landmarks = to_uint8(colours(given[0], overlay.follow_landmarks(*given[1:], size)))
    truth = np.stack([window.picture(record.frame(i), size) for i in chosen])
    flowed = np.stack([follow_flow(a, b) for a, b in zip(similar, truth)])
    still = np.broadcast_to(first, truth.shape)
    shown = {
      'first frame': still,
      'similarity': similar,
      'landmarks': by_landmarks,
      'blend': better(similar, still, truth),
      'flow': flowed,
      'blend of flow': better(flowed, still, truth),
    }
    true = stability.sharpness(truth, faces)
    for name, frames in shown.items():
      made = stability.sharpness(frames, faces)
      psnr = np.mean([image.psnr(a, b) for a, b in zip(frames, truth)])
      scores.setdefault(name, []).append([psnr, *(stability.ratio(made[k], true[k]) for k in ('face', 'mouth'))])
  print('                 PSNR  face  mouth')
  for name, rows in scores.items():
    print(f'{name:15} {np.mean(rows, 0)[0]:5.1f}', *(f'{v:5.2f}' for v in np.mean(rows, 0)[1:]))


if __name__ == '__main__':
  main()

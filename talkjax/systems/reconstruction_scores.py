"""How well autoencoders keep the frames of records; shared by `autoencoder` and FD2Talk's second stage."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from talkjax.corpora.records import Record
from talkjax.faces.landmarks import FaceTrack
from talkjax.media import picture
from talkjax.metrics.suites import Context, Generated, Suite, Truth

CHUNK = 8  # frames that are encoded at once


def truth(clip: Record, count: int, size: int) -> Truth:
  """The first frames of a record, `count` at most, as squares of `size`."""
  count = min(count, len(clip.frames))
  frames = [picture.fit_square(clip.frame(i), size) for i in range(count)]
  return Truth(frames, _to_square(clip.landmarks[:count], clip, size))


def predict(
  clips: Sequence[Record],
  size: int,
  reconstruct: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, Mapping[str, np.ndarray]]],
) -> tuple[list[Truth], list[Generated]]:
  """The frames of records, and what is kept of them.

  Args:
    clips: the records.
    size: of the square frames.
    reconstruct: (images [CHUNK, h, w, 3] uint8, the clip's first frame) -> (the images as they are kept, values of each
      by name, which become `curves`).
  """
  truths, kept = [], []
  for clip in clips:
    true = truth(clip, len(clip.frames), size)
    frames, curves = [], []
    for first in range(0, len(true.frames), CHUNK):
      part = true.frames[first : first + CHUNK]
      padded = [part[min(i, len(part) - 1)] for i in range(CHUNK)]
      made, about = reconstruct(np.stack(padded), true.frames[0])
      frames += list(made[: len(part)])
      curves.append({name: value[: len(part)] for name, value in about.items()})
    truths.append(true)
    joined = {name: np.concatenate([c[name] for c in curves]) for name in curves[0]}
    kept.append(Generated(frames, clip.fps, curves=joined))
  return truths, kept


def scores(codebook: int = 0) -> Suite:
  """Sharpness in the true boxes of face and mouth, made over true; the latents' scale; the use of the codebook.

  `latent_deviation` is the root of the latents' mean square. `codes_used` is the share of the codes that a clip has,
  `code_perplexity` the exponential of the entropy of their frequencies.

  Args:
    codebook: number of codes; 0 for none.
  """

  def start(context: Context):
    from talkjax.metrics import stability

    def score(clip) -> dict[str, float]:
      faces = _faces(clip.record, clip.truth)
      made, true = (stability.sharpness(x.frames, faces) for x in (clip.generated, clip.truth))
      found = {f'sharpness_{part}': stability.ratio(made[part], true[part]) for part in made}
      curves = clip.generated.curves
      found['latent_deviation'] = float(np.sqrt(curves['latent_square'].mean()))
      if codebook:
        _, counts = np.unique(curves['codes'], return_counts=True)
        share = counts / counts.sum()
        found['codes_used'] = len(counts) / codebook
        found['code_perplexity'] = float(np.exp(-np.sum(share * np.log(share))))
      return found

    return score

  names = ('sharpness_face', 'sharpness_mouth', 'latent_deviation')
  return Suite((*names, *(('codes_used', 'code_perplexity') if codebook else ())), start)


def _faces(record: Record, true: Truth) -> FaceTrack:
  """The face of a record in pixels of its truth."""
  count, size = len(true.frames), true.frames[0].shape[0]
  box = _to_square(record.box[:count].reshape(-1, 2, 2), record, size).reshape(-1, 4)
  return FaceTrack(true.landmarks, np.zeros((count, 0, 3)), box, record.pose[:count], np.ones(count, bool), 1)


def _to_square(points: np.ndarray, record: Record, size: int) -> np.ndarray:
  """Points [..., 2] of a record's frames in pixels of their centre squares, resized."""
  side = min(record.size)
  corner = np.array([(record.size[1] - side) // 2, (record.size[0] - side) // 2], np.float32)
  return (points - corner) * (size / side)

"""Corpus records as training examples of vexpress (V-Express sections 2.2 and 2.4)."""

import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.faces import keypoints
from talkjax.systems.audio import AudioFeatures
from talkjax.systems.portrait import reading


def read(record: Record, generator: np.random.Generator, *, config, audio: AudioFeatures) -> dict[str, np.ndarray]:
  """Random clips of a record as training examples, a share of `augment.flip` mirrored.

  Returns:
    As `reading.read`, and kps [k, f, h, w, 3] uint8, the V-Kps images.

  Raises:
    UserError: as `reading.read`, or cached latents are to be mirrored.
  """
  flip = config.augment.flip
  if len(record.features.get('latents', ())) and flip:
    raise UserError(
      f'config.augment.flip={flip} mirrors images, and config.data.feature_cache={config.data.feature_cache} has '
      'latents, which cannot be mirrored: set --config.augment.flip=0, or config.data.feature_cache to nothing'
    )
  points = face_points(record, config.size)

  def complete(example: dict[str, np.ndarray], start: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    own = points[start : start + config.frames]
    if generator.random() < flip:
      own = keypoints.mirrored(own, config.size)
      mirrored = [k for k in ('target', 'reference', 'weight') if k in example]
      example = {**example, **{k: np.ascontiguousarray(example[k][..., ::-1, :]) for k in mirrored}}
    return {**example, 'kps': keypoints.draw_all(own, config.size, config.kps_canvas or config.size)}

  return reading.read(record, generator, config=config, audio=audio, complete=complete)


def face_points(record: Record, size: int) -> np.ndarray:
  """The three keypoints of every frame of a record, [f, 3, 2], in pixels of its square images."""
  return reading.to_square(keypoints.of_landmarks(record.landmarks), record.size, size)

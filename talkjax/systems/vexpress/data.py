"""Corpus records as training examples of vexpress (V-Express sections 2.2 and 2.4)."""

import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.faces import keypoints
from talkjax.systems.audio import AudioFeatures
from talkjax.systems.portrait import overlay, reading


def read(record: Record, generator: np.random.Generator, *, config, audio: AudioFeatures) -> dict[str, np.ndarray]:
  """Random clips of a record as training examples, a share of `augment.flip` mirrored.

  Returns:
    As `reading.read`, and kps [k, f, h, w, 3] uint8, the V-Kps images. With an overlay the keypoints in sides of
    the picture too: points [k, f, 3, 2] and reference_points [k, 3, 2].

  Raises:
    UserError: as `reading.read`, or cached latents are to be mirrored.
  """
  flip, latents = config.augment.flip, len(record.features.get('latents', ()))
  if latents and flip:
    raise UserError(
      f'config.augment.flip={flip} mirrors images, and config.data.feature_cache={config.data.feature_cache} has '
      'latents, which cannot be mirrored: set --config.augment.flip=0, or config.data.feature_cache to nothing'
    )
  points = reading.face_points(record, config)

  def complete(
    example: dict[str, np.ndarray], clip: reading.Clip, generator: np.random.Generator
  ) -> dict[str, np.ndarray]:
    own, reference = points[clip.start : clip.start + config.frames], points[clip.reference]
    if generator.random() < flip:
      own, reference = (keypoints.mirrored(p, config.size) for p in (own, reference))
      mirrored = [k for k in ('target', 'reference', 'weight') if k in example]
      example = {**example, **{k: np.ascontiguousarray(example[k][..., ::-1, :]) for k in mirrored}}
    if overlay.used(config.aids):
      example = {**example, 'points': own / config.size, 'reference_points': reference / config.size}
    return {**example, 'kps': keypoints.draw_all(own, config.size, config.kps_canvas or config.size)}

  return reading.read(record, generator, config=config, audio=audio, complete=complete)

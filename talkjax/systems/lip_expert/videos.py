"""The lip expert's embeddings of the lips and the sound of any video."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from talkjax.faces.landmarks import FaceTrack
from talkjax.metrics.sync import FPS, SAMPLES_PER_FRAME
from talkjax.nn.lip_expert import FRAMES
from talkjax.systems import coefficients
from talkjax.systems.audio import AudioFeatures, Sound
from talkjax.systems.measurement import measure


def embed_lips(
  params,
  pictures: Callable[[], Iterable[np.ndarray]],
  track: FaceTrack,
  fps: float,
  sound: np.ndarray,
  *,
  embed: Callable,
  audio: AudioFeatures,
  config,
) -> Mapping[str, np.ndarray]:
  """See `System.embed_lips`; `embed` is of `model.make_embed`. Raises UserError as `measurement.measure` does."""
  face = measure(pictures, track, next(iter(pictures())).shape[:2], config)
  rows = face.rows(coefficients.numpy_model_of(params, config))
  count = min(round(len(rows) / fps * FPS), len(sound) // SAMPLES_PER_FRAME)
  if count < FRAMES:
    return {}
  index = np.minimum(np.rint(np.arange(count) * fps / FPS).astype(int), len(rows) - 1)
  pair = embed(params, rows[index], audio.of_sound(params, Sound(sound, count, FPS)))
  return {name: np.asarray(x)[: count - FRAMES + 1] for name, x in zip(('lip', 'speech'), pair)}

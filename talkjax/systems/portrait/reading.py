"""Corpus records as training examples of portrait systems, and as the truth that generated videos are compared with."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.faces import keypoints
from talkjax.systems.audio import AudioFeatures
from talkjax.systems.portrait import framing, overlay
from talkjax.systems.portrait.latents import factor


class Clip(NamedTuple):
  """Which frames of a record are an example: the first of the clip, and the portrait."""

  start: int
  reference: int


def read(
  record: Record,
  generator: np.random.Generator,
  *,
  config,
  audio: AudioFeatures,
  complete: Callable[[dict[str, np.ndarray], Clip, np.random.Generator], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
  """Random clips of a record as training examples, `data.examples_per_record` along axis 0.

  Args:
    record: at least `config.frames` long.
    generator: of the clips.
    config: of the system.
    audio: the audio features of each frame.
    complete: (example, its frames, generator) -> the example with what is the system's own.

  Returns:
    target [k, f, h, w, 3] and reference [k, h, w, 3], uint8: the clip and another frame of the record, without an
    overlay no further than `data.reference_within` from it (with cached latents `target_moments` and
    `reference_moments` instead, float16 [..., h', w', 2 c]). `audio` [k, f + 2m, d], the features of the clip with
    `margin` frames on each side. `weight` of the loss [k, f, h', w', 1] at the latents' resolution where
    `mouth_weight` is not 1. `id` [k]. And what `complete` adds.

  Raises:
    UserError: the record is too short, has no sound where it is needed, or its cached features do not fit the config.
  """
  f, count = config.frames, len(record.frames)
  if count < f:
    raise UserError(f'clip {record.id} has {count} frames, fewer than config.frames={f}: rebuild the corpus without it')
  features = audio.of_record(record)
  examples = []
  for _ in range(config.data.examples_per_record):
    start = int(generator.integers(0, count - f + 1))
    other = int(generator.integers(count)) if overlay.used(config.aids) else near(start, f, count, config, generator)
    around = np.arange(start - config.margin, start + f + config.margin)
    example = {
      **images('target', record, range(start, start + f), config, config.framing),
      **{k: v[0] for k, v in images('reference', record, [other], config, config.framing).items()},
    }
    if config.mouth_weight != 1:
      example['weight'] = mouth_weights(record, range(start, start + f), config, config.framing)
    example['audio'] = audio.pad_index(features, around)
    examples.append({**complete(example, Clip(start, other), generator), 'id': record.id})
  return {k: np.stack([e[k] for e in examples]) for k in examples[0]}


def near(start: int, frames: int, count: int, config, generator: np.random.Generator) -> int:
  """A frame of a record of `count` that is no further than `data.reference_within` from a clip."""
  within = config.data.reference_within or count
  return int(generator.integers(max(0, start - within), min(count, start + frames + within)))


def images(name: str, record: Record, frames: Sequence[int], config, crop: float = 0) -> dict[str, np.ndarray]:
  """Frames of a record under the key `name`, or their cached moments under NAME_moments; see `framing` on `crop`.

  Raises:
    UserError: the cached latents are not of images as the config has them.
  """
  if not len(record.features.get('latents', ())):
    window = framing.of_record(record, crop)
    return {name: np.stack([window.picture(record.frame(i), config.size) for i in frames])}
  where = f'config.data.feature_cache={config.data.feature_cache}'
  latents = record.features['latents']
  if overlay.used(config.aids):
    raise UserError(
      f'{where} has no pixels, which config.aids.reference={config.aids.reference} moves: set '
      "config.data.feature_cache to nothing, or config.aids.reference to 'none'"
    )
  if crop:
    raise UserError(
      f'{where} has latents of whole frames, and config.framing={crop} cuts out the face: set config.framing to 0, or '
      'config.data.feature_cache to nothing'
    )
  if config.latents.kind != 'vae':
    raise UserError(
      f'{where} has latents of an autoencoder, and config.latents.kind is {config.latents.kind!r}: set that to vae, or '
      'config.data.feature_cache to nothing'
    )
  if (size := latents.shape[1] * factor(config.latents)) != config.size:
    raise UserError(
      f'{where} has latents of {size} x {size} pixels, and config.size is {config.size}: encode the corpus with '
      f'--size={config.size} --feature_cache=ANOTHER_NAME'
    )
  return {f'{name}_moments': latents[list(frames)]}


def face_points(record: Record, config) -> np.ndarray:
  """The three keypoints of every frame of a record, [f, 3, 2], in pixels of its square images."""
  window = framing.of_record(record, config.framing)
  return window.points(keypoints.of_landmarks(record.landmarks), config.size)


def face_region(record: Record, frames: Sequence[int], size: int, crop: float = 0) -> np.ndarray:
  """[size, size, 1] float32, 1 in the box around the face's landmarks in all `frames` (M of EMO's section 3.2)."""
  points = framing.of_record(record, crop).points(record.landmarks[list(frames)].reshape(-1, 2), size)
  return box_region((*points.min(0), *points.max(0)), size)


def mouth_weights(record: Record, frames: Sequence[int], config, crop: float = 0) -> np.ndarray:
  """[f, h', w', 1] float32 at the latents' resolution: `mouth_weight` in twice the lips' box, 1 elsewhere."""
  size = config.size // factor(config.latents)
  lips = framing.of_record(record, crop).points(record.landmarks[list(frames), 48:], size)
  low, high = lips.min(1), lips.max(1)
  middle, half = (low + high) / 2, high - low
  boxes = np.concatenate([np.floor(middle - half), np.ceil(middle + half)], axis=1)
  return 1 + (config.mouth_weight - 1) * np.stack([box_region(box, size) for box in boxes])


def check_aids(config, references: Sequence[str]) -> None:
  """Raises UserError for `config.aids` that contradict the rest of a config.

  Args:
    config: of a system whose portraits may be laid over faces.
    references: the values of `aids.reference` that the system has.
  """
  aids = config.aids
  if aids.reference not in references:
    raise UserError(f'config.aids.reference={aids.reference!r} is not one of {", ".join(references)}')
  if aids.hidden_mouth and config.mouth_weight == 1:
    raise UserError(
      'config.aids.hidden_mouth needs the mouth map that config.mouth_weight=1 leaves out: set config.mouth_weight '
      'to more than 1, or config.aids.hidden_mouth to 0'
    )
  if aids.reference == 'flow' and config.latents.kind != 'fold':
    raise UserError(
      f'config.aids.reference=flow moves pixels, and config.latents.kind is {config.latents.kind!r}: set that to '
      "'fold', or config.aids.reference to 'overlay'"
    )


def box_region(box: Sequence[float], size: int) -> np.ndarray:
  """[size, size, 1] float32, 1 inside x0, y0, x1, y1, given in pixels."""
  x0, y0, x1, y1 = (int(np.clip(round(float(v)), 0, size)) for v in box)
  region = np.zeros((size, size, 1), np.float32)
  region[y0:y1, x0:x1] = 1
  return region

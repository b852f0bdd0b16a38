"""The coefficients of a morphable model as systems read them, and the mouths of its meshes.

A system that needs the model has it in its parameters as the frozen branch `morphable`, so that a workdir is complete.
"""

import jax
import numpy as np

from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.faces import measures, morphable
from talkjax.faces.morphable import MorphableModel
from talkjax.systems.audio import AudioFeatures

BRANCH = 'morphable'


def model_of(params, config) -> MorphableModel:
  """The model in the parameters of a system."""
  return morphable.of_arrays(config.morphable.name, params[BRANCH])


def numpy_model_of(params, config) -> MorphableModel:
  """The same with arrays of numpy, for arithmetic on the host."""
  return model_of({BRANCH: jax.device_get(params[BRANCH])}, config)


def blank(config) -> dict:
  """The branch of fresh parameters: arrays of the sizes in `config.morphable`, which training fills."""
  settings = config.morphable.to_dict()
  return morphable.blank(settings.pop('name'), morphable.Sizes(**settings)).arrays()


def rows_of(record: Record, config) -> np.ndarray:
  """The cached coefficients of a record's frames, float16 [f, k].

  Raises:
    UserError: it has none, or they are of another model.
  """
  rows = record.features.get('coefficients', ())
  wanted = config.morphable.identity + config.morphable.expression + 6
  if not len(rows):
    raise UserError(
      f'clip {record.id} has no coefficients of a morphable model: compute those of the corpus with `python -m '
      f'talkjax.build data/NAME --coefficients={config.morphable.name}`'
    )
  if rows.shape[-1] != wanted:
    raise UserError(
      f'clip {record.id} has {rows.shape[-1]} coefficients, but config.morphable makes {wanted}: compute those of the '
      'corpus again'
    )
  return rows


def rows_and_features(record: Record, config, audio: AudioFeatures, least: int) -> tuple[np.ndarray, np.ndarray]:
  """The cached coefficients [f, k] of a record and the audio features [f, d] of its frames.

  Raises:
    UserError: the record has fewer than `least` frames, no sound or no coefficients.
  """
  rows, features = np.asarray(rows_of(record, config)), audio.of_record(record)
  if len(rows) < least:
    raise UserError(
      f'clip {record.id} has {len(rows)} frames, fewer than the {least} that an example needs: rebuild the corpus '
      'without it'
    )
  return rows, features


def mouth_motion(model: MorphableModel, alpha, beta):
  """The vertices of the mouth without pose, as a lip expert reads them: [..., k_i], [..., k_e] -> [..., 3 m].

  They are deviations from the mean mouth, in units of their root mean square over the expressions of the training
  split, so that they do not depend on the units of the model.
  """
  mouth = model.part(model.mouth)
  spread = (mouth.expression * model.split(model.row_std)[1]) ** 2
  unit = spread.sum(-1).mean() ** 0.5
  moved = (mouth.shape(alpha, beta) - mouth.mean) / unit
  return moved.reshape(*moved.shape[:-2], -1)


def energies(model: MorphableModel):
  """The share of each expression coefficient in what expressions move over the training split: [k_e], of mean 1."""
  moved = model.expression * model.split(model.row_std)[1]
  energy = (moved**2).sum((0, 1))
  return energy / energy.mean()


def mouth_opening(model: MorphableModel, beta: np.ndarray) -> np.ndarray:
  """The mouth opening of expressions [f, k_e] on the mean face without pose, in face heights: [f].

  As `measures.mouth_opening`, but along the face's vertical axis: noise in the vertices of a closed mouth does not open
  it, and lips that overlap are below 0.
  """
  face = model.part(np.asarray(model.landmarks68))
  points = np.asarray(face.shape(np.zeros(face.identity.shape[-1], np.float32), beta))
  gap = (points[:, [61, 62, 63], 1] - points[:, [67, 66, 65], 1]).mean(-1)
  return gap / measures.face_height(points[..., :2])

"""A made-up morphable model and records that move under it: no face is detected for them."""

import dataclasses

import numpy as np

from talkjax.corpora import coefficients, feature_cache
from talkjax.corpora.records import Record
from talkjax.faces import morphable
from talkjax.faces.morphable import MorphableModel
from talkjax.training import input_pipeline
from tests.example_record import full_record

SIZES = {'vertices': 68, 'triangles': 1, 'mouth': 20, 'rigid': 3, 'identity': 3, 'expression': 4}
LOWER_LIP = (55, 56, 57, 58, 59, 65, 66, 67)


def model() -> MorphableModel:
  """A model whose vertices are the 68 landmarks; its first expression lowers the lower lip."""
  r = np.random.default_rng(7)
  made = morphable.blank('mesh_pca', morphable.Sizes(**SIZES))
  mean = r.normal(size=(68, 3))
  mean[36:42], mean[42:48] = mean[36:42] * 0.1 + [-0.5, 0, 0], mean[42:48] * 0.1 + [0.5, 0, 0]  # the eyes
  mean[48:] = mean[48:] * 0.05 + [0, -1, 0]
  mean[list(LOWER_LIP), 1] -= 0.3
  expression = 0.01 * r.normal(size=(68, 3, 4))
  expression[list(LOWER_LIP), 1, 0] = -0.2
  return dataclasses.replace(
    made,
    mean=mean.astype(np.float32),
    identity=(0.05 * r.normal(size=(68, 3, 3))).astype(np.float32),
    expression=expression.astype(np.float32),
    mouth=np.arange(48, 68, dtype=np.int32),
    landmarks68=np.arange(68, dtype=np.int32),
    row_mean=np.r_[np.zeros(7), 0.1 * np.ones(6)].astype(np.float32),
    row_std=np.r_[np.ones(7), 0.2 * np.ones(6)].astype(np.float32),
  )


def rows(record: Record) -> np.ndarray:
  """Coefficients of a record's frames, float16 [f, 13]: the mouth opens with the loudness of its sound."""
  r = np.random.default_rng(len(record.id) + len(record.frames))
  f = len(record.frames)
  sound = np.pad(record.audio.astype(np.float32), (0, max(0, 640 * f - len(record.audio))))[: 640 * f]
  loudness = np.log10(1e-3 + np.abs(sound.reshape(f, -1) / 32768).mean(1))
  values = r.normal(size=(f, 13)) * np.r_[np.zeros(3), 0.3 * np.ones(4), 0.2 * np.ones(6)]
  values[:, :3] = r.normal(size=3)
  values[:, 3] = (loudness - loudness.mean()) / (loudness.std() + 1e-3)
  return values.astype(np.float16)


def record(frames: int = 40, name: str = 'a') -> Record:
  """A record of noise with coefficients."""
  plain = full_record(frames, name)
  return dataclasses.replace(plain, features={'coefficients': rows(plain)})


def branch() -> dict[str, np.ndarray]:
  """The parameter branch of the model."""
  return model().arrays()


def write_cache(data_dir, corpus: str = 'puppets/tiny') -> None:
  """Writes the coefficients of a corpus under the made-up model, as `talkjax.build --coefficients=mesh_pca` would."""
  (info,) = data_dir.glob(f'{corpus}/*/dataset_info.json')
  builder = input_pipeline.open_builder(_Data(str(data_dir)), 'train', corpus)
  folder = info.parent / 'mesh_pca'
  folder.mkdir()
  coefficients.save(model(), folder, {})
  about = {'corpus': builder.info.full_name, **coefficients.about(model(), 'mesh_pca')}
  feature_cache.write(folder, 'coefficients', about, input_pipeline.all_splits(builder), lambda record: [rows(record)])


@dataclasses.dataclass(frozen=True)
class _Data:
  dir: str

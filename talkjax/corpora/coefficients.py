"""Coefficients of a morphable model as cached features of a corpus, and the model stored with them.

They are in a folder of the corpus that is named after the model, `mesh_pca` or `deep3d`: coefficients.json with its
rows (`feature_cache`), morphable.npz with the arrays of `talkjax.faces.morphable.MorphableModel`, and morphable.json,
written after it, with its name, fingerprint and sizes, and how it was made.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from talkjax.corpora import feature_cache, pool
from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.faces import landmarks, mesh_pca, morphable
from talkjax.faces.morphable import MorphableModel

ARRAYS, ABOUT = 'morphable.npz', 'morphable.json'
FIT_CLIPS, FIT_FRAMES = 160, 100  # clips of the training split that a model is fitted to, and frames of each


@dataclasses.dataclass(frozen=True)
class MeshCoefficients:
  """Encodes a record for the cache: its rows of coefficients under a mesh_pca model; none if there is no face."""

  model: MorphableModel

  def __call__(self, record: Record) -> list[np.ndarray]:
    try:
      track = landmarks.find_faces(map(record.frame, range(len(record.frames))), f'clip {record.id}')
    except landmarks.NoFace:
      return []
    return [mesh_pca.of_track(self.model, track, record.size).astype(np.float16)]


def mesh_pca_model(
  folder: pathlib.Path, splits: Mapping[str, Sequence[Record]], workers: int, source: str = ''
) -> MorphableModel:
  """The mesh_pca model of a corpus: that in `folder`, or else a copy of another, or else fitted and saved.

  Args:
    folder: of the coefficients.
    splits: the records of the corpus; a model is fitted to evenly spaced clips of `train`.
    workers: processes that detect faces; 0 for this one.
    source: the folder of the model of another corpus, which is copied.

  Raises:
    UserError: no model in `source`, another model in `folder`, no training split, or no face in its clips.
  """
  other = load_from(source) if source else None
  with feature_cache.locked(folder):
    model = load(folder)
    if model is not None and other is not None and fingerprint(model) != fingerprint(other):
      raise UserError(f'{folder} has another model than {source}: remove {folder} to replace its coefficients')
    if model is None and other is not None:
      save(other, folder, {'copied_from': str(source)})
    elif model is None:
      fitted, about = _fit(splits, workers)
      save(fitted.model, folder, about)
  return load(folder)


def with_statistics(
  folder: pathlib.Path,
  model: MorphableModel,
  splits: Mapping[str, Sequence[Record]],
  encode: Callable[[Record], Sequence[np.ndarray]],
) -> MorphableModel:
  """A given model with the mean and deviation of a corpus' rows: that in `folder`, or else measured and saved.

  Args:
    folder: of the coefficients.
    model: of users, whose statistics are not known yet.
    splits: the records of the corpus; rows of evenly spaced clips of `train` are measured.
    encode: record -> its rows, in chunks.

  Raises:
    UserError: another model in `folder`, or no training split.
  """
  with feature_cache.locked(folder):
    saved = load(folder)
    if saved is not None:
      unmeasured = dataclasses.replace(saved, row_mean=model.row_mean, row_std=model.row_std)
      if saved.name != model.name or fingerprint(unmeasured) != fingerprint(model):
        raise UserError(f'{folder} has coefficients of another face model: remove {folder} to replace them')
      return saved
    clips = _fitting_clips(splits)
    first = lambda clip: dataclasses.replace(
      clip, frames=clip.frames[:FIT_FRAMES], landmarks=clip.landmarks[:FIT_FRAMES]
    )
    rows = [chunk for clip in tqdm.tqdm(clips, desc=model.name, unit='clip') for chunk in encode(first(clip))]
    mean, std = morphable.statistics(np.concatenate(rows).astype(np.float32))
    measured = dataclasses.replace(model, row_mean=mean, row_std=std)
    save(measured, folder, {'clips': len(clips), 'frames': sum(map(len, rows))})
    return measured


def _fitting_clips(splits: Mapping[str, Sequence[Record]]) -> '_Chosen':
  """Evenly spaced clips of the training split, read when they are needed."""
  clips = splits.get('train', ())
  if not len(clips):
    raise UserError(
      'a face model is fitted to the training split, and this corpus has none: copy the model of another corpus with '
      '--coefficients=mesh_pca:FOLDER'
    )
  chosen = np.unique(np.linspace(0, len(clips) - 1, min(FIT_CLIPS, len(clips))).round().astype(int))
  return _Chosen(clips, tuple(chosen.tolist()))


@dataclasses.dataclass(frozen=True)
class _Chosen:
  clips: Sequence[Record]
  indices: tuple[int, ...]

  def __len__(self) -> int:
    return len(self.indices)

  def __iter__(self) -> Iterator[Record]:
    return (self.clips[i] for i in self.indices)


def _fit(splits: Mapping[str, Sequence[Record]], workers: int) -> tuple[mesh_pca.Fit, dict[str, Any]]:
  chosen, meshes, reasons = _fitting_clips(splits), [], []
  done = pool.ordered_map(_first_meshes, chosen, workers, _slim)
  for record, mesh, error in tqdm.tqdm(done, total=len(chosen), desc='mesh_pca', unit='clip'):
    if error:
      reasons.append(f'{record.id}: {error}')
    else:
      meshes.append((record.speaker or record.id, mesh, record.size))
  if not meshes:
    raise UserError(f'mesh_pca cannot be fitted: none of {len(chosen)} clips has a face; {reasons[0]}')
  fitted = mesh_pca.fit(meshes)
  rounded = lambda values: [round(float(x), 4) for x in values]
  return fitted, {
    'clips': len(meshes),
    'clips_without_a_face': len(reasons),
    'people': len({speaker for speaker, *_ in meshes}),
    'frames': sum(len(mesh) for _, mesh, _ in meshes),
    'identity_explained': rounded(fitted.identity_explained),
    'expression_explained': rounded(fitted.expression_explained),
  }


def _first_meshes(record: Record) -> np.ndarray:
  count = min(FIT_FRAMES, len(record.frames))
  return landmarks.find_faces(map(record.frame, range(count)), f'clip {record.id}').mesh


def _slim(record: Record) -> Record:
  return dataclasses.replace(record, frames=())


def about(model: MorphableModel, source: str) -> dict[str, Any]:
  """The description of coefficients in the cache; `source` is what a user names to compute the same."""
  sizes = model.sizes
  return {
    'branch': 'morphable',
    'weights': fingerprint(model),
    'workdir': source,
    'basis': model.name,
    'identity': sizes.identity,
    'expression': sizes.expression,
    'shape': [sizes.row],
  }


def fingerprint(model: MorphableModel) -> str:
  """Rows of coefficients mean the same only under models of the same fingerprint."""
  return feature_cache.fingerprint(model.arrays())


def save(model: MorphableModel, folder: pathlib.Path, details: Mapping[str, Any]) -> None:
  """Writes a model; its description has what `details` adds."""
  described = {'name': model.name, 'fingerprint': fingerprint(model), **dataclasses.asdict(model.sizes), **details}
  temporary = folder / f'.{ARRAYS}.partial'
  with temporary.open('wb') as file:
    np.savez(file, **model.arrays())
  temporary.replace(folder / ARRAYS)
  temporary = folder / f'.{ABOUT}.partial'
  temporary.write_text(json.dumps(described, indent=2) + '\n')
  temporary.replace(folder / ABOUT)


def load_from(source: str) -> MorphableModel:
  """The model in the folder that a user names. Raises UserError if there is none, or its files are damaged."""
  model = load(pathlib.Path(source))
  if model is None:
    raise UserError(
      f'--coefficients=mesh_pca:{source}: that folder has no {ABOUT}; expected DATA_DIR/CORPUS/.../mesh_pca'
    )
  if model.name != mesh_pca.NAME:
    raise UserError(f'--coefficients=mesh_pca:{source}: that folder has the model {model.name}; expected .../mesh_pca')
  return model


def load(folder: pathlib.Path) -> MorphableModel | None:
  """The model in a folder, or None if there is none.

  Raises:
    UserError: its files are damaged.
  """
  if not (folder / ABOUT).exists():
    return None
  try:
    described = json.loads((folder / ABOUT).read_text())
    with np.load(folder / ARRAYS, allow_pickle=False) as file:
      model = morphable.of_arrays(described['name'], {name: file[name] for name in file.files})
    if fingerprint(model) != described['fingerprint']:
      raise ValueError('its arrays are not those that its description names')
  except Exception as error:  # numpy raises nearly anything for a damaged file
    raise UserError(
      f'the morphable model in {folder} is damaged ({type(error).__name__}: {error}): remove that folder and compute '
      'the coefficients again'
    ) from error
  return model

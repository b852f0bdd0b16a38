"""Coefficients of a morphable model for a corpus: `talkjax.build --coefficients` and training compute and open them.

What a user writes is `mesh_pca` (fitted to the corpus), `mesh_pca:FOLDER` (the model of another corpus, whose
coefficients can then be mixed and compared), or `deep3d:NETWORK,BFM` (workdirs of `talkjax.convert --source=deep3d` and
`--source=bfm`).
"""

import dataclasses
import json
import os
import pathlib

import ml_collections
import numpy as np
from flax.traverse_util import flatten_dict

from talkjax.corpora import coefficients, feature_cache
from talkjax.errors import UsageError, UserError
from talkjax.faces.morphable import MorphableModel
from talkjax.training import input_pipeline

NAMES = ('mesh_pca', 'deep3d')  # also those of the folders in a corpus
KEY = 'coefficients'


def parse(text: str) -> tuple[str, tuple[str, ...]]:
  """'mesh_pca:FOLDER' -> ('mesh_pca', ('FOLDER',)). Raises UsageError for anything else than the module describes."""
  name, colon, rest = text.partition(':')
  sources = tuple(part for part in rest.split(',') if part)
  allowed = {'mesh_pca': (0, 1), 'deep3d': (2,)}
  if len(sources) not in allowed.get(name, ()) or bool(colon) != bool(sources):
    raise UsageError(f'--coefficients={text}: expected mesh_pca, mesh_pca:FOLDER or deep3d:NETWORK_WORKDIR,BFM_WORKDIR')
  return name, sources


def check(text: str) -> None:
  """Raises what `write` would for what is not there, before a corpus is built for it."""
  name, sources = parse(text)
  if name == 'deep3d':
    _deep3d(*sources)
  elif sources:
    coefficients.load_from(*sources)


def write(builder, text: str, workers: int | None = None) -> tuple[pathlib.Path, bool]:
  """Computes the coefficients of all splits of a corpus, resuming after an interruption.

  Args:
    builder: the TFDS builder of the corpus.
    text: what the module describes.
    workers: processes that detect faces; None for one per core, 0 for this one.

  Returns:
    the folder, and whether there was anything to do.

  Raises:
    UsageError, UserError: see `parse`, `talkjax.corpora.coefficients.mesh_pca_model` and `feature_cache.write`.
  """
  name, sources = parse(text)
  folder, splits = pathlib.Path(builder.data_dir) / name, input_pipeline.all_splits(builder)
  about = {'corpus': builder.info.full_name}
  if name == 'mesh_pca':
    workers = (os.cpu_count() or 1) if workers is None else workers
    model = coefficients.mesh_pca_model(folder, splits, workers, *sources)
    encode = coefficients.MeshCoefficients(model)
  else:
    encode, workers = _deep3d(*sources), 0
    about['network'] = encode.fingerprint()
    model = coefficients.with_statistics(folder, encode.model, splits, encode)
  return folder, feature_cache.write(folder, KEY, about | coefficients.about(model, text), splits, encode, workers)


def _deep3d(network_workdir: str, bfm_workdir: str):
  from talkjax.weights import deep3d_coefficients  # which mesh_pca does not need

  return deep3d_coefficients.load(network_workdir, bfm_workdir)


def without_rows(folder: pathlib.Path) -> list[str]:
  """The clips of all splits in which no face was found."""
  splits = json.loads((folder / f'{KEY}.json').read_text())['splits'].values()
  return [clip for split in splits for clip, rows in zip(split['clips'], split['rows'], strict=True) if not rows]


def open_cache(builder, text: str, split: str) -> tuple[feature_cache.FeatureCache, MorphableModel]:
  """The coefficients of a split of a corpus and their model; those of mesh_pca are computed where there are none.

  Raises:
    UserError: there are none of deep3d, or they are damaged or of another corpus.
  """
  name = text.partition(':')[0]
  if name not in NAMES:
    raise UserError(f'config.data.{KEY}={text}: expected one of {", ".join(NAMES)}')
  folder = pathlib.Path(builder.data_dir) / name
  if name == 'mesh_pca' and input_pipeline.first_process() and not (folder / f'{KEY}.json').exists():
    write(builder, text)
  input_pipeline.wait_for_first_process(f'{KEY} of {builder.info.full_name}')
  cache, model = feature_cache.open_cache(builder, name, split, KEY), coefficients.load(folder)
  if model is None or coefficients.fingerprint(model) != cache.about[KEY]['weights']:
    raise UserError(
      f'{folder} has coefficients of another morphable model than its own: remove it and compute them again'
    )
  return cache, model


def open_caches(builders, text: str, split: str) -> tuple[list[feature_cache.FeatureCache], MorphableModel]:
  """As `open_cache` of several corpora; all are of one model, that of the first.

  Raises:
    UserError: see `open_cache`; or the coefficients of a corpus are of another model.
  """
  first, model = open_cache(builders[0], text, split)
  caches = [first]
  for builder in builders[1:]:
    cache, _ = open_cache(builder, f'mesh_pca:{first.folder}' if text == 'mesh_pca' else text, split)
    if cache.about[KEY]['weights'] != first.about[KEY]['weights']:
      raise UserError(
        f'{cache.folder} and {first.folder} have coefficients of different morphable models: remove the former and '
        f'compute it with --coefficients=mesh_pca:{first.folder}'
      )
    caches.append(cache)
  return caches, model


def computed(config, split: str, params) -> tuple[feature_cache.FeatureCache, ...]:
  """The cache with the coefficients of a split of the first corpus; none where they have not been computed.

  Args:
    config: of a system.
    split: name of the split, or a part of it.
    params: the system's, with the morphable model that the coefficients must be of.

  Raises:
    UserError: they are of another model.
  """
  text = config.data.coefficients
  builder = input_pipeline.open_builder(config.data, split, input_pipeline.first_corpus(config.data))
  if not (pathlib.Path(builder.data_dir) / parse(text)[0] / f'{KEY}.json').exists():
    return ()
  cache, _ = open_cache(builder, text, split.partition('[')[0])
  cache.check_weights({path: np.asarray(x) for path, x in flatten_dict(params, sep='/').items()}, ('morphable',))
  return (cache,)


def with_sizes(config, caches):
  """A system's config with the morphable model of the coefficients among `caches` as `config.morphable`, if it has any.

  Args:
    config: a FrozenConfigDict.
    caches: the open feature caches.
  """
  cache = next((cache for cache in caches if KEY in cache.about), None)
  if cache is None or 'morphable' not in config:
    return config
  model = coefficients.load(cache.folder)
  config = ml_collections.ConfigDict(config)
  config.morphable = {'name': model.name, **dataclasses.asdict(model.sizes)}
  return ml_collections.FrozenConfigDict(config)

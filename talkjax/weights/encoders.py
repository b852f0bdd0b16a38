"""The speech encoders as they run once over a corpus, and the feature caches that training reads."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from flax.traverse_util import unflatten_dict

from talkjax.corpora import feature_cache
from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.training import checkpoint, input_pipeline, sharding
from talkjax.training.workdir import is_workdir, read_config
from talkjax.weights import speech as speech_encoders


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Computes feature rows of records; `about` is the description stored by `talkjax.corpora.feature_cache`."""

  about: dict[str, Any]
  encode: Callable[[Record], Iterator[np.ndarray]]


def speech(workdir: str, layers: str) -> Encoder:
  """The states of a speech encoder, 50 per second: rows [layers, d]; no rows without audio.

  Args:
    workdir: folder of a converted wav2vec2, of a trained speech_encoder, or of a system that has one of them.
    layers: of wav2vec 2.0, 'all' for the outputs of all layers, 'last' for that of the last one.

  Raises:
    UserError: the workdir has no speech encoder.
  """
  config = read_config(workdir)
  if config.get('pretrained_network') == 'wav2vec2':
    settings = ml_collections.ConfigDict({'kind': 'wav2vec2', 'wav2vec2': config.get('wav2vec2', {})})
  elif config.get('system') == 'speech_encoder':
    settings = ml_collections.ConfigDict({'kind': 'speech_encoder', 'speech_encoder': config.model})
  else:
    settings = config.get('audio', {'kind': 'none'})
  encoder = speech_encoders.make(settings, layers) if settings['kind'] in speech_encoders.KINDS else None
  if encoder is None:
    raise UserError(
      f'--speech={workdir} has no speech encoder: expected a workdir made by `talkjax.convert --source=wav2vec2` or '
      '`talkjax.train --config=configs/speech_encoder.py`, or the workdir of a system that has one'
    )
  return _of_speech(encoder, speech_encoders.load(encoder, workdir), workdir)


def _of_speech(encoder: speech_encoders.Encoder, params: Mapping[str, np.ndarray], workdir: str) -> Encoder:
  """`encoder` with these parameters by path."""
  tree = sharding.replicate(unflatten_dict(params, sep='/'))

  def encode(record: Record) -> Iterator[np.ndarray]:
    if len(record.audio):
      waveform = speech_encoders.fit_duration(record.audio.astype(np.float32) / 32768, len(record.frames) / record.fps)
      yield from (states.astype(np.float16) for states in encoder.encode(tree, waveform))

  about = {'branch': encoder.kind, 'weights': feature_cache.fingerprint(params), 'workdir': workdir}
  return Encoder({**about, 'shape': list(encoder.shape)}, encode)


def open_caches(
  config, encoder: speech_encoders.Encoder | None, features: Sequence[str] = ()
) -> tuple[list[feature_cache.FeatureCache], dict[str, np.ndarray]]:
  """The feature caches that training reads, and the parameters of what computed them that it starts with, by path.

  Each corpus has its own. The states of the speech encoder are computed here where no cache has them: in a folder of
  the corpus that is named after encoder and weights. So are the coefficients of mesh_pca; the first corpus' model is
  that of the others.

  Args:
    config: of a system.
    encoder: the system's, or None.
    features: the system's. With `coefficients`, `config.data.coefficients` says which ('mesh_pca' without it), and the
      arrays of the morphable model are the parameters under `morphable`, unless those of `config.init_from` have some.

  Raises:
    UserError: the corpus is not built, a named cache does not exist or fit, or the encoder has no weights.
  """
  data, caches, branch, computed = config.data, [], {}, None
  builders = [
    input_pipeline.open_builder(data, data.split, name) for name in input_pipeline.corpus_weights(data.corpus)
  ]
  if encoder:
    params = speech_encoders.load(encoder, config.audio.weights, config.init_from)
    branch = {f'{encoder.kind}/{path}': value for path, value in params.items()}
    computed = _of_speech(encoder, params, config.audio.weights or config.init_from)
  split = data.split.partition('[')[0]
  for builder in builders:
    named = None
    if name := data.get('feature_cache', ''):
      named = feature_cache.open_cache(builder, name, split)
      caches.append(named)
    if computed and not (named and named.about.get('speech', {}).get('branch') == encoder.kind):
      caches.append(_states(builder, encoder, computed, split))
  if 'coefficients' in features:
    from talkjax.weights import coefficients  # which other systems need not import

    opened, model = coefficients.open_caches(builders, data.get('coefficients', 'mesh_pca'), split)
    caches += opened
    earlier = checkpoint.saved_paths(config.init_from) if is_workdir(config.init_from) else ()
    if not any(path.startswith('morphable/') for path in earlier):
      branch |= {f'morphable/{name}': np.asarray(value) for name, value in model.arrays().items()}
  return caches, branch


def _states(builder, encoder: speech_encoders.Encoder, computed: Encoder, split: str) -> feature_cache.FeatureCache:
  """The cache of a corpus with the states that `computed` computes, written if there is none yet."""
  name = '_'.join([encoder.kind, computed.about['weights'], *map(str, encoder.shape)])
  if input_pipeline.first_process():
    feature_cache.write(
      pathlib.Path(builder.data_dir) / name,
      'speech',
      {'corpus': builder.info.full_name, **computed.about},
      input_pipeline.all_splits(builder),
      computed.encode,
    )
  input_pipeline.wait_for_first_process(f'speech of {builder.info.full_name}')
  return feature_cache.open_cache(builder, name, split)

"""The expressions that stage 1 predicts for a corpus, which stage 3 learns from (section 3.4.2), cached with it."""

import pathlib
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from flax.traverse_util import flatten_dict

from talkjax.corpora import feature_cache
from talkjax.corpora.feature_cache import FeatureCache
from talkjax.corpora.records import Record
from talkjax.errors import UserError
from talkjax.systems import coefficients
from talkjax.systems.audio import AudioFeatures
from talkjax.systems.fd2talk import motion, motion_generation
from talkjax.training import checkpoint, input_pipeline, sharding
from talkjax.training.workdir import is_workdir

KIND = 'motion'  # of the feature cache


def open_caches(caches: Sequence[FeatureCache], *, config, first, audio: AudioFeatures) -> list[FeatureCache]:
  """A cache of predicted expressions for every corpus, written where there is none of these weights.

  Args:
    caches: those of the speech states.
    config: of stage 3; `init_from` is the workdir with stage 1.
    first: of stage 1, in it.
    audio: the audio features of each frame.

  Raises:
    UserError: there is no workdir with stage 1.
  """
  if not is_workdir(config.init_from):
    raise UserError(
      'config.motion=predicted learns from what stage 1 predicts: set --config.init_from to a workdir that has it, or '
      '--config.motion=true'
    )
  _, params, _ = checkpoint.load_params(config.init_from)
  if motion.EXPRESSION not in params:
    raise UserError(f'--config.init_from={config.init_from} has no {motion.EXPRESSION}: give a workdir with stage 1')
  weights = {path: np.asarray(x) for path, x in flatten_dict(params[motion.EXPRESSION], sep='/').items()}
  about = {
    'branch': motion.EXPRESSION,
    'weights': feature_cache.fingerprint(weights),
    'workdir': config.init_from,
    'steps': first.sampler.steps,
    'shape': [config.morphable.expression],
  }
  params, sampler = sharding.replicate(params), motion_generation.make_sampler(first)
  model = coefficients.numpy_model_of(params, config)

  def encode(record: Record) -> Iterator[np.ndarray]:
    if not record.audio.size:  # stage 3 takes the true expressions of silent videos
      return
    seed = zlib.crc32(record.id.encode())
    (made,) = motion_generation.generate_motion(params, [audio.of_record(record)], [seed], sampler=sampler, pose=False)
    yield motion_generation.physical(model, made).astype(np.float16)

  split = config.data.split.partition('[')[0]
  opened = []
  for name in input_pipeline.corpus_weights(config.data.corpus):
    builder = input_pipeline.open_builder(config.data, split, name)
    records = input_pipeline.open_corpus(config.data, split, caches, name)
    folder = f'{KIND}_{about["weights"]}_{first.sampler.steps}'
    described = {'corpus': builder.info.full_name, **about}
    feature_cache.write(pathlib.Path(builder.data_dir) / folder, KIND, described, {split: records}, encode)
    opened.append(feature_cache.open_cache(builder, folder, split))
  return opened

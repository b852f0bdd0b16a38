"""Stage 3 of FD2Talk: frames from coefficients and a portrait (sections 3.3 and 3.4.2)."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from talkjax.corpora.records import Record
from talkjax.diffusion import schedules
from talkjax.errors import UserError
from talkjax.faces import mesh_pca
from talkjax.systems import System, coefficients, deferred
from talkjax.systems.audio import AudioFeatures
from talkjax.systems.fd2talk import OPTIONS, frame_networks, motion
from talkjax.systems.fd2talk.frame_networks import BRANCH, Networks
from talkjax.systems.portrait import framing, reading
from talkjax.systems.portrait.loss import denoising_loss, hide_mouths
from talkjax.systems.portrait.networks import encode

SAMPLERS = ('ddim', 'ddpm', 'dpm++')
MOTIONS = ('predicted', 'true')  # of `config.motion`


def build(config) -> System:
  """The system of stage 3 (see configs/fd2talk.py)."""
  from talkjax.metrics import suites
  from talkjax.systems.sampling import check_sampler, make_schedule, make_table

  check_sampler(config, SAMPLERS)
  _check(config)
  nets, first = frame_networks.make_networks(config), motion_config(config)
  audio = motion.make_audio(first)
  encoder = (audio.kind,) if audio.encoder else ()

  @functools.cache
  def sampler():
    from talkjax.systems.fd2talk import generation, motion_generation

    return generation.Sampler(nets, config, motion_generation.make_sampler(first), audio, make_table(config))

  made = {'sampler': sampler}
  precompute = deferred('fd2talk.predicted.open_caches', config=config, first=first, audio=audio)
  autoencoder = ('autoencoder',) if config.latents.kind == 'vae' else ()
  return System(
    read=functools.partial(read, config=config),
    init=functools.partial(init, config=config, nets=nets, audio=audio),
    loss=functools.partial(loss, nets=nets, schedule=make_schedule(config.diffusion), config=config),
    generate=deferred('fd2talk.generation.generate', made),
    from_records=deferred('fd2talk.conditions.from_records', config=config),
    from_files=deferred('fd2talk.conditions.from_files', config=config),
    oracle=('pose',),
    options=OPTIONS,
    scores=(suites.IMAGES, suites.LIPS, suites.PORTRAIT),
    frozen=(coefficients.BRANCH, *autoencoder, *encoder),
    encoder=audio.encoder,
    features=('coefficients',),
    precompute=precompute if config.motion == 'predicted' else None,
    renderer=deferred('fd2talk.generation.renderer', made),
  )


def motion_config(config) -> ml_collections.ConfigDict:
  """The config of stage 1 in that of stage 3."""
  shared = {name: config[name] for name in ('audio', 'morphable', 'dtype')}
  return ml_collections.ConfigDict({**config.first_stage, **shared})


def _check(config) -> None:
  if config.motion not in MOTIONS:
    raise UserError(f'config.motion={config.motion!r} is not one of {", ".join(MOTIONS)}')
  if config.sampler.noise not in ('video', 'frame'):
    raise UserError(f'config.sampler.noise={config.sampler.noise!r} is not one of video, frame')
  if config.framing and config.morphable.name != mesh_pca.NAME:
    raise UserError(
      f'config.framing={config.framing} cuts out the face, and coefficients of {config.morphable.name} are of whole '
      'pictures: set config.framing to 0'
    )
  reading.check_aids(config, ('none', 'overlay', 'flow'))


def read(record: Record, generator: np.random.Generator, *, config) -> dict[str, np.ndarray]:
  """Random frames of a record and, of each, the first frame of a random clip with it as the portrait.

  Args:
    record: with cached coefficients.
    generator: of the clips.
    config: of the system; `clip` is the number of frames of a clip.

  Returns:
    target and reference [k, h, w, 3] uint8 (or their cached moments); rows [k, c], the coefficients of the
    target, whose expression is the predicted one with `motion` 'predicted'; reference_rows [k, c]; `weight` of the loss
    [k, h', w', 1] where `mouth_weight` is not 1; id [k].

  Raises:
    UserError: the record has no coefficients, or its cached features do not fit the config.
  """
  rows = np.asarray(coefficients.rows_of(record, config))
  k, count = config.data.examples_per_record, len(rows)
  first = generator.integers(count, size=k)
  first[generator.random(k) < config.data.first_frames] = 0
  frames = generator.integers(first, np.minimum(count, first + (config.clip or count)))
  example = {
    **reading.images('target', record, frames, config, config.framing),
    **reading.images('reference', record, first, config, config.framing),
    'rows': framed(record, driving_rows(record, rows, config)[frames], config),
    'reference_rows': framed(record, rows[first], config),
    'id': np.full(k, record.id),
  }
  if config.mouth_weight != 1:
    example['weight'] = reading.mouth_weights(record, frames, config, config.framing)
  return example


def framed(record: Record, rows: np.ndarray, config) -> np.ndarray:
  """A record's coefficients [..., c] in the square of its pictures that `config.framing` asks for."""
  if not config.framing:
    return rows
  x, y, side = framing.of_record(record, config.framing)
  return mesh_pca.in_square(rows, (x, y), side, record.size)


def driving_rows(record: Record, rows: np.ndarray, config) -> np.ndarray:
  """The coefficients [f, c] that a record's frames are learned from.

  Stage 1 predicts the expression from the sound. It draws a pose at random, which says nothing of the true frame, so
  that the pose is the true one.
  """
  if config.motion == 'true' or not record.audio.size:
    return rows
  first = config.morphable.identity
  predicted = record.features['motion']
  return np.concatenate([rows[:, :first], predicted, rows[:, -6:]], axis=1)


def init(rng: jax.Array, batch: Mapping[str, jax.Array], *, config, nets: Networks, audio: AudioFeatures) -> Any:
  """Fresh parameters: those of this stage, and of all that generation needs."""
  keys = jax.random.split(rng, 4)
  params = nets.latents.init(keys[0]) | {coefficients.BRANCH: coefficients.blank(config)}
  params |= motion.init_networks(jax.random.split(keys[1]), motion_config(config), audio.channels)
  if encoder := audio.encoder:
    params[encoder.kind] = encoder.init(keys[2])
  example = {k: v[:1] for k, v in batch.items() if k.startswith('reference')}
  latents = jax.eval_shape(lambda p: encode(p, example, 'reference', nets), params)
  motions = config.morphable.expression + 6
  params[BRANCH] = frame_networks.init(keys[3], jnp.zeros(latents.shape), motions, config.size, nets)
  return params


def loss(
  params,
  batch: Mapping[str, jax.Array],
  rng: jax.Array,
  train: bool,
  *,
  nets: Networks,
  schedule: schedules.Schedule,
  config,
) -> tuple[jax.Array, dict]:
  """L_second, eq. 16: the error of the predicted latents, squared or pseudo-Huber.

  Args:
    params: from `init`.
    batch: from `read`.
    rng: of the latents, the noise and its level, and the mouths that are hidden.
    train: mouths are hidden.
    nets: the networks.
    schedule: of the noise.
    config: of the system.

  Returns:
    (loss, metrics).
  """
  latent_rng, *rngs = jax.random.split(rng, 3)
  hide_rng, share = jax.random.fold_in(rng, 3), config.aids.hidden_mouth
  portrait = frame_networks.portrait(params, batch, batch['reference_rows'], nets)
  model = coefficients.model_of(params, config)
  given = frame_networks.condition(params, portrait, batch['rows'].astype(jnp.float32), model, nets, config)
  latents = encode(params, batch, 'target', nets, latent_rng)
  predict = lambda x, level: frame_networks.predict(params, x, level, given, nets)
  hide = lambda x, noise, level: hide_mouths(x, noise, level, batch['weight'] > 1, share, hide_rng)
  corrupt, weight = hide if train and share else None, batch.get('weight')
  return denoising_loss(predict, latents, rngs, schedule, config.diffusion, weight=weight, corrupt=corrupt), {}

"""Stage 1 of FD2Talk: expression and pose coefficients from speech (sections 3.2 and 3.4.1)."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.corpora.records import Record
from talkjax.diffusion import losses, schedules, targets
from talkjax.errors import UserError
from talkjax.nn import lip_expert
from talkjax.nn.motion_transformer import MotionTransformer
from talkjax.systems import System, coefficients
from talkjax.systems.audio import AudioFeatures
from talkjax.weights.speech import Encoder

EXPRESSION, POSE, EXPERT = 'expression_transformer', 'pose_transformer', 'lip_expert'  # branches of the parameters
PARTS = (EXPRESSION, POSE)
SAMPLERS = ('ddim', 'ddpm')  # a multistep solver does not work with predictions averaged over windows


def build(config) -> System:
  """The system of stage 1 (see configs/fd2talk.py)."""
  from talkjax.systems.fd2talk import motion_scores
  from talkjax.systems.sampling import check_sampler, make_schedule

  check_sampler(config, SAMPLERS)
  _check(config)
  audio = make_audio(config)
  expert = make_expert(config)
  encoder = (audio.kind,) if audio.encoder else ()

  @functools.cache
  def sampler():
    from talkjax.systems.fd2talk import motion_generation

    return motion_generation.make_sampler(config)

  def score(params, records, speech=None):
    return motion_scores.predict(params, records, speech, audio=audio, sampler=sampler())

  return System(
    read=functools.partial(read, config=config, audio=audio),
    init=functools.partial(init, config=config, encoder=audio.encoder, expert=expert),
    loss=functools.partial(loss, config=config, schedule=make_schedule(config.diffusion), expert=expert),
    scores=(motion_scores.MOTION,),
    frozen=(coefficients.BRANCH, *((EXPERT,) if expert else ()), *encoder),
    load=((EXPERT, EXPERT, '', ''),) if expert else (),
    encoder=audio.encoder,
    features=('coefficients',),
    predict=score,
  )


def _check(config) -> None:
  if not 0 <= config.windows.overlap < config.frames:
    raise UserError(
      f'config.windows.overlap={config.windows.overlap} must be at least 0 and less than config.frames={config.frames}'
    )
  if config.loss.sync and config.frames < lip_expert.FRAMES:
    raise UserError(
      f'config.frames={config.frames} is fewer than the {lip_expert.FRAMES} frames of the lip expert: set it higher, '
      'or config.loss.sync to 0'
    )


def make_audio(config) -> AudioFeatures:
  """The audio features of a config."""
  from talkjax.systems.portrait.audio import spectrogram

  return AudioFeatures(config.audio, functools.partial(spectrogram, settings=config.audio))


def make_network(config) -> MotionTransformer:
  """The network of a config: one class, of which expression and pose have an instance each."""
  return MotionTransformer(**config.model, dtype=jnp.dtype(config.dtype))


def make_expert(config) -> lip_expert.LipExpert | None:
  """The lip expert of the synchronisation loss, or None where that has no weight."""
  return lip_expert.LipExpert(**config.expert) if config.loss.sync else None


def read(record: Record, generator: np.random.Generator, *, config, audio: AudioFeatures) -> dict[str, np.ndarray]:
  """Random clips of a record; `data.examples_per_record` along axis 0.

  Args:
    record: with cached coefficients and sound.
    generator: of the clips.
    config: of the system.
    audio: the audio features of each frame.

  Returns:
    coefficients [k, f, c] float16; audio [k, f, d]; id [k].

  Raises:
    UserError: the record is shorter than a clip, has no sound or no coefficients.
  """
  k, f = config.data.examples_per_record, config.frames
  rows, features = coefficients.rows_and_features(record, config, audio, f)
  frames = generator.integers(len(rows) - f + 1, size=(k, 1)) + np.arange(f)
  return {'coefficients': rows[frames], 'audio': features[frames], 'id': np.full(k, record.id)}


def init(
  rng: jax.Array,
  batch: Mapping[str, jax.Array],
  *,
  config,
  encoder: Encoder | None,
  expert: lip_expert.LipExpert | None,
) -> Any:
  """Fresh parameters; the frozen branches are filled by training."""
  keys, audio = jax.random.split(rng, 4), batch['audio'][:1].astype(jnp.float32)
  params = {coefficients.BRANCH: coefficients.blank(config), **init_networks(keys, config, audio.shape[-1])}
  if expert:
    mouth = jnp.zeros((1, lip_expert.FRAMES, 3 * config.morphable.mouth))
    params[EXPERT] = expert.init(keys[2], mouth, audio[:, : lip_expert.FRAMES])['params']
  if encoder:
    params[encoder.kind] = encoder.init(keys[3])
  return params


def init_networks(keys: Sequence[jax.Array], config, channels: int) -> dict[str, Any]:
  """Fresh parameters of PARTS, for audio features of so many channels."""
  net, f = make_network(config), config.frames
  sizes = (config.morphable.expression, 6)
  fresh = lambda key, d: net.init(key, jnp.zeros((1, f, d)), jnp.zeros(1), jnp.zeros((1, f, channels)))['params']
  return {part: fresh(key, d) for part, key, d in zip(PARTS, keys, sizes)}


def predict(params, part: str, x: jax.Array, timestep: jax.Array, audio: jax.Array, config) -> jax.Array:
  """Clean coefficients of one of PARTS from noisy ones x [b, f, d], at timesteps [b] or []."""
  timestep = jnp.broadcast_to(timestep, x.shape[:1])
  return make_network(config).apply({'params': params[part]}, x, timestep, audio.astype(jnp.float32))


def loss(
  params,
  batch: Mapping[str, jax.Array],
  rng: jax.Array,
  train: bool,
  *,
  config,
  schedule: schedules.Schedule,
  expert: lip_expert.LipExpert | None,
):
  """L_first, eq. 12: the errors of expression (eq. 8) and pose (eq. 9), and the synchronisation loss (eq. 11).

  Args:
    params: from `init`.
    batch: from `read`.
    rng: of the noise and its levels.
    train: not used.
    config: of the system; `loss` has the three weights.
    schedule: of the noise.
    expert: the lip expert, or None.

  Returns:
    (loss, metrics).
  """
  model = coefficients.model_of(params, config)
  rows = batch['coefficients'].astype(jnp.float32)
  alpha, *motion = model.split(model.normalise(rows))
  clean = dict(zip(PARTS, (motion[0], jnp.concatenate(motion[1:], -1))))
  keys = jax.random.split(rng, 4)
  terms, predicted = {}, {}
  for i, part in enumerate(PARTS):
    x0 = clean[part]
    level = schedules.uniform_level(keys[2 * i], schedule, len(x0))
    x = targets.add_noise(x0, jax.random.normal(keys[2 * i + 1], x0.shape), level)
    predicted[part] = predict(params, part, x, level.timestep, batch['audio'], config)
    # Coefficients count as much as they move the face: most have little but noise, which would hide the mouth.
    weight = coefficients.energies(model) if part == EXPRESSION else None
    terms[part] = losses.loss(predicted[part], x0, weight=weight)
  total = config.loss.expression * terms[EXPRESSION] + config.loss.pose * terms[POSE]
  metrics = {'expression': terms[EXPRESSION], 'pose': terms[POSE]}
  if expert:
    identity = model.split(rows)[0][:, :1]  # of the reference image: any frame of the clip has the same person
    p = synchrony(params, model, expert, identity, predicted[EXPRESSION], batch['audio'])
    metrics |= {'sync': -jnp.log(p).mean(), 'p_sync': p.mean()}
    total += config.loss.sync * metrics['sync']
  return total, metrics


def synchrony(params, model, expert: lip_expert.LipExpert, alpha, beta, audio, epsilon: float = 1e-3) -> jax.Array:
  """P_sync (eq. 10) of every five frames of normalised expressions, at least epsilon, so that its logarithm is finite.

  Args:
    params: with the expert.
    model: the morphable model.
    expert: the network.
    alpha: [b, 1, k_i] identities.
    beta: [b, f, k_e] normalised.
    audio: [b, f, d].
    epsilon: the smallest value.

  Returns:
    [b, f - 4].
  """
  mean, deviation = (model.split(row)[1] for row in (model.row_mean, model.row_std))
  mouth = coefficients.mouth_motion(model, alpha, beta * deviation + mean)
  pair = [lip_expert.windows(x.astype(jnp.float32)) for x in (mouth, audio)]
  flat = [x.reshape(-1, *x.shape[2:]) for x in pair]
  embedded = expert.apply({'params': params[EXPERT]}, *flat)
  return jnp.clip(lip_expert.synchrony(*embedded), epsilon, 1).reshape(pair[0].shape[:2])

"""The classifier: its parameters, its loss, and how well it tells captions apart at each level of noise."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.corpora.records import Record
from talkjax.diffusion import schedules, targets
from talkjax.metrics.suites import Clip, Context, Generated, Suite, Truth
from talkjax.systems.joint import data
from talkjax.systems.joint.loss import BRANCH, apply, init_network, noised

LEVELS = 10  # of noise, evenly spaced over the timesteps, that accuracy is measured at


def init(rng: jax.Array, batch: Mapping[str, jax.Array], *, space, net) -> Any:
  """Fresh parameters; the frozen branches are filled by training."""
  return {**space.fresh(), BRANCH: init_network(net, rng, space, _shifts(rng, space, net))}


def _shifts(rng, space, net) -> jax.Array:
  """Shifts of the network's windows."""
  inner = net.unet if hasattr(net, 'unet') else net.streams
  return inner.draw_shifts(rng, space.frames)


def loss(
  params,
  batch: Mapping[str, jax.Array],
  rng: jax.Array,
  train: bool,
  *,
  space,
  net,
  schedule: schedules.Schedule,
  config,
) -> tuple[jax.Array, dict]:
  """The cross-entropy of the captions of noisy samples, whose timesteps are uniform (section V.B).

  Args:
    params: from `init`.
    batch: from `joint.data.read`; clips without a caption do not count.
    rng: of the noise, its level, the shifts and the dropout.
    train: activations are dropped.
    space: of the samples.
    net: the network.
    schedule: of the noise.
    config: of the system.

  Returns:
    (loss, metrics).
  """
  level_rng, noise_rng, shift_rng, dropout_rng = jax.random.split(rng, 4)
  x, _, level = noised(space.sample_of(params, batch), (level_rng, noise_rng), schedule)
  shifts = _shifts(shift_rng, space, net)
  logits = apply(net, params, x, level.timestep, shifts, train=train, rngs={'dropout': dropout_rng})
  labels, known = jnp.minimum(batch['caption'], len(config.captions) - 1), batch['caption'] < len(config.captions)
  likelihood = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]
  count = jnp.maximum(known.sum(), 1)
  right = (logits.argmax(-1) == labels) & known
  return -jnp.sum(likelihood * known) / count, {'accuracy': right.sum() / count}


def classify(params, x: Mapping[str, jax.Array], timesteps: jax.Array, *, space, net) -> jax.Array:
  """Logits [b, captions] of noisy samples, see `System.classify`; its windows are not shifted."""
  return apply(net, params, x, timesteps, jnp.zeros_like(_shifts(jax.random.key(0), space, net)))


def predict(
  params,
  records: Sequence[Record],
  speech: Sequence[Record] | None = None,
  *,
  space,
  net,
  schedule: schedules.Schedule,
  config,
) -> tuple[list[Truth], list[Generated]]:
  """Whether the caption of a segment of each record is right at each level of noise: curves `right` [LEVELS].

  With `speech`, their sound is classified with the record's picture.
  """
  batch, other = (_batch(own, config) for own in (records, speech or records))
  batch |= {name: other[name] for name in ('sound', 'waveform') if name in other}
  clean = space.sample_of(params, batch)
  entries = np.linspace(0, schedule.num_steps - 1, LEVELS).round().astype(int)
  right = []
  for entry in entries:
    level = schedules.level_at(schedule, jnp.full(len(records), entry))
    noise = {k: jax.random.normal(jax.random.key(int(entry)), x.shape) for k, x in clean.items()}
    x = targets.add_noise(clean, noise, level)
    right.append(np.asarray(classify(params, x, level.timestep, space=space, net=net).argmax(-1) == batch['caption']))
  rows = np.array(right, float).T
  truths = [Truth((), record.landmarks) for record in records]
  return truths, [Generated((), record.fps, curves={'right': row}) for record, row in zip(records, rows)]


def _batch(records: Sequence[Record], config) -> dict[str, np.ndarray]:
  own = config.copy_and_resolve_references()
  own.data.examples_per_record = 1
  examples = [data.read(record, np.random.default_rng(0), config=own) for record in records]
  return {k: np.concatenate([e[k] for e in examples]) for k in examples[0] if k != 'id'}


def _start(context: Context) -> Callable[[Clip], Mapping[str, float]]:
  def score(clip: Clip) -> dict[str, float]:
    right = clip.generated.curves['right']
    return {
      'accuracy': float(right[0]),
      'accuracy_noisy': float(right.mean()),
      'accuracy_other_sound': float(clip.with_other_speech.curves['right'][0]),
    }

  return score


# The share of captions that are right: without noise, as a mean over LEVELS levels up to pure noise (where half of two
# captions are), and without noise beside the sound of another clip.
ACCURACY = Suite(('accuracy', 'accuracy_noisy', 'accuracy_other_sound'), _start)

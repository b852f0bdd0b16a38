"""Whether motion and sound that a workdir of joint_av generates belong together, before anything is drawn.

python -m tests.benchmarks.joint_motion --workdir=runs/joint [--set sampler.eta=1.0 guidance.caption=1.0]

Samples for the captions of a split's clips, as long as these, are compared with the clips' own coefficients and sound:
correlation of loudness and mouth opening, and standard deviations within a clip. `..._truth` are the figures of the
clips, and `..._rearranged` those of clips put together from windows of themselves at random places, as of a model that
does not know where in a clip its windows are. `caption` is the share of samples whose code is nearest to a person whom
the caption describes. Nothing is rendered, so that samplers can be compared quickly.
"""

import argparse
import ast
import sys

import numpy as np
from absl import flags

from talkjax.metrics import joint
from talkjax.systems import coefficients
from talkjax.systems.joint import label_of, spaces
from talkjax.systems.joint_av import generation
from talkjax.systems.joint_av.conditions import Conditions
from talkjax.training import checkpoint
from tests.benchmarks.coefficient_records import read_records


def rearranged(curves: np.ndarray, size: int, overlap: int, generator: np.random.Generator) -> np.ndarray:
  """Curves [n, frames] put together from windows of themselves at random places; the first `overlap` frames of all
  but the first are left out."""
  count = curves.shape[1]
  parts = []
  while sum(p.shape[1] for p in parts) < count:
    start = generator.integers(0, count - size + 1)
    parts.append(curves[:, start + (overlap if parts else 0) : start + size])
  return np.concatenate(parts, axis=1)[:, :count]


def measure(workdir: str, split: str, limit: int | None, changes: dict) -> dict[str, float]:
  """Figures of the samples by name, of the clips under `..._truth` and `..._rearranged`."""
  config, params, _ = checkpoint.load_params(workdir)
  config.update_from_flattened_dict(changes)
  records = read_records(config.data, split, limit)
  space = spaces.make(config)
  sampler = generation.Sampler(space, space.network(len(config.captions)), config)
  model = coefficients.numpy_model_of(params, config)
  identity = config.morphable.identity

  def curves(beta, sound):
    opening = coefficients.mouth_opening(model, beta)
    return np.stack([opening, joint.loudness(sound, space.fps, len(opening))])

  lengths = tuple(len(r.frames) for r in records)
  nothing = [None] * len(records)
  captions = tuple(label_of(r.caption, config.captions, r.id) for r in records)
  conditions = Conditions(captions=captions, sound=nothing, portraits=nothing, lengths=lengths)
  samples, _ = generation.sample(params, conditions, np.arange(len(records), dtype=np.uint32), sampler)
  motions = space.motions(params, samples['video'])
  made = []
  for motion, audio, length in zip(motions, samples['audio'], lengths):
    sound = space.sound(params, audio[:length])
    made.append(curves(motion[:length, : config.morphable.expression], sound))
  true = []
  for record in records:
    rows = coefficients.rows_of(record, config)
    beta = rows[:, identity : identity + config.morphable.expression]
    true.append(curves(beta, record.audio.astype(np.float32) / 32768))
  anyone = [len(config.captions)]
  shown = [space.who(params, x[None, :n], anyone)[0] for x, n in zip(samples['video'], lengths)]
  found = {'clips': len(records)}
  generator = np.random.default_rng(0)
  mixed = [rearranged(c, space.frames, config.guidance.overlap, generator) for c in true]
  sets = {'': made, '_truth': true, '_rearranged': mixed}
  for name, both in sets.items():
    found[f'loudness_mouth{name}'] = float(np.nanmean([joint.correlation(*c) for c in both]))
    found[f'shuffled{name}'] = joint.shuffled(both)
    for row, curve in enumerate(('opening', 'loudness')):
      found[f'{curve}_deviation{name}'] = joint.deviation(both, row) / joint.deviation(true, row)
  found['caption'] = float(np.mean(np.asarray(params['corpus']['captions'])[shown] == np.array(captions)))
  return found


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--split', default='validation')
  parser.add_argument('--limit', type=int)
  parser.add_argument('--set', nargs='*', default=[], metavar='KEY=VALUE', help='keys of the config to change')
  args = parser.parse_args()
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(['joint_motion'])  # grain reads absl flags
  changes = {}
  for change in args.set:
    key, _, value = change.partition('=')
    try:
      changes[key] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      changes[key] = value
  for name, value in measure(args.workdir, args.split, args.limit, changes).items():
    print(f'{name:24} {value:.3f}')
  return 0


if __name__ == '__main__':
  sys.exit(main())

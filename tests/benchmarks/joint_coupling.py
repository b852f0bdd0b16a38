"""How much sound and picture of a joint_av workdir depend on each other.

python -m tests.benchmarks.joint_coupling --workdir=runs/joint_pixels [--split=test --limit=32]

Clips are noised, both modalities alike, and predicted in one step: the picture once with its own noisy sound and once
with that of the next clip, the sound once with its own noisy picture and once with the next clip's. The picture's error
is that of the mouth: twice the lips' box in pixels; in motion the expression's coefficients, which count as in the
loss. The ratio of the two errors is 1 where a modality makes no use of the other.
"""

import argparse
import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from talkjax import systems
from talkjax.diffusion import schedules, targets
from talkjax.nn.conv import space_to_depth
from talkjax.systems import coefficients
from talkjax.systems.joint import label_of, spaces
from talkjax.systems.joint.loss import apply
from talkjax.systems.portrait import framing, reading
from talkjax.systems.sampling import make_schedule
from talkjax.training import checkpoint, input_pipeline
from tests import micro
from tests.benchmarks.coefficient_records import read_records

ALPHA_BAR = (0.9, 0.5, 0.1, 0.02)  # shares of signal in the variance
DRAWS = 8  # of the noise


def clips_of(config, split: str, limit: int) -> list:
  """Records as long as a sample."""
  motion = config.space.kind == 'motion'
  records = (read_records if motion else input_pipeline.eval_records)(config.data, split, limit)
  clips = []
  for record in records:
    count = round(config.space.frames / config.space.fps * record.fps)
    features = {name: x[:count] for name, x in record.features.items()}
    clips.append(dataclasses.replace(micro.cut(record, count), features=features))
  return clips


def mouth_of(clip, params, config, space) -> np.ndarray:
  """Weights [f, ...] of a sample's video, 0 for what is not the mouth."""
  if config.space.kind == 'motion':
    weight = np.zeros((space.frames, *space.shapes['video']), np.float32)
    energies = coefficients.energies(coefficients.numpy_model_of(params, config))
    weight[:, config.space.code : config.space.code + config.morphable.expression] = energies
    return weight
  numbers = ((np.arange(space.frames) + 0.5) / space.fps * clip.fps).astype(int)
  lips = framing.of_record(clip).points(clip.landmarks[numbers, 48:], config.space.size)
  low, high = lips.min(1), lips.max(1)
  boxes = np.concatenate([(low + high) / 2 - (high - low), (low + high) / 2 + (high - low)], axis=1)
  region = np.stack([reading.box_region(box, config.space.size) for box in boxes])
  return np.asarray(space_to_depth(jnp.asarray(np.repeat(region, 3, -1)), config.space.fold_pixels))


def measure(workdir: str, split: str, limit: int) -> list[dict[str, float]]:
  """For every level: errors with the own partner and with another's."""
  config, params, _ = checkpoint.load_params(workdir)
  config.data.examples_per_record = 1
  space, system = spaces.make(config), systems.build(config)
  net, clips = space.network(len(config.captions)), clips_of(config, split, limit)
  examples = [system.read(clip, np.random.default_rng(0)) for clip in clips]
  batch = {k: np.concatenate([e[k] for e in examples]) for k in examples[0] if k != 'id'}
  clean = space.sample_of(params, batch)
  weight = {'video': np.stack([mouth_of(c, params, config, space) for c in clips]), 'audio': np.ones((), np.float32)}
  captions = np.array([label_of(c.caption, config.captions, c.id) for c in clips], np.int32)
  table = make_schedule(config.diffusion)
  ends = space.ends(batch.get('first'), batch.get('length'))

  @jax.jit
  def errors(clean, level, key):
    keys = dict(zip(clean, jax.random.split(key, len(clean))))
    noisy = targets.add_noise(clean, {k: jax.random.normal(keys[k], x.shape) for k, x in clean.items()}, level)
    found = {}
    for name, partner in (('video', 'audio'), ('audio', 'video')):
      for which, x in (('own', noisy), ('other', {**noisy, partner: jnp.roll(noisy[partner], 1, axis=0)})):
        shifts = net.draw_shifts(jax.random.fold_in(key, 1), space.frames)
        output = apply(net, params, x, level.timestep, shifts, *((captions,) if config.captions else ()), **ends)
        x0 = targets.to_x0(config.diffusion.target, output, x, level)[name]
        mask = jnp.broadcast_to(weight[name], x0.shape)
        found[f'{name}_{which}'] = jnp.sum(mask * jnp.square(x0 - clean[name])) / mask.sum()
    return found

  rows = []
  for share in ALPHA_BAR:
    level = schedules.level_at(table, int(np.abs(table.alpha_bar - share).argmin()))
    drawn = [jax.device_get(errors(clean, level, jax.random.key(i))) for i in range(DRAWS)]
    rows.append({'alpha_bar': share} | {k: float(np.mean([d[k] for d in drawn])) for k in drawn[0]})
  return rows


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--split', default='test')
  parser.add_argument('--limit', type=int, default=32)
  args = parser.parse_args()
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(['joint_coupling'])  # grain reads absl flags
  for row in measure(args.workdir, args.split, args.limit):
    parts = [f'alpha_bar {row["alpha_bar"]:.2f}']
    for name, title in (('video', 'mouth'), ('audio', 'sound')):
      own, other = row[f'{name}_own'], row[f'{name}_other']
      parts.append(f'{title} {own:.4f} with its own, {other:.4f} with another: {own / other:.3f}')
    print('; '.join(parts))
  return 0


if __name__ == '__main__':
  sys.exit(main())

"""Scores of generated motion: whether the mouth opens when the true one does, and whether heads move as variously."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from talkjax.corpora.records import Record
from talkjax.faces import measures, morphable
from talkjax.metrics.suites import Clip, Context, Generated, Suite, Truth
from talkjax.systems import coefficients
from talkjax.systems.audio import AudioFeatures, Sound
from talkjax.systems.fd2talk import motion_generation
from talkjax.systems.fd2talk.motion_generation import Sampler

SEEDS = 4  # with which each clip is generated
ANGLES = ('yaw', 'pitch', 'roll')


def predict(
  params,
  records: Sequence[Record],
  speech: Sequence[Record] | None = None,
  *,
  audio: AudioFeatures,
  sampler: Sampler,
) -> tuple[list[Truth], list[Generated]]:
  """The true motion of records, and the motion generated from their sound or from that of as many others in `speech`.

  Curves: `opening`, the mouth opening in face heights, of the mesh without pose with the first seed; and for each of
  SEEDS seeds (one with other speech) `yaw_0`, `pitch_0`, ... in degrees. Those of the truth are of its landmarks and
  its head pose.
  """
  model = coefficients.model_of(params, sampler.config)
  sounds = [Sound.of_record(v, len(r.frames), r.fps) for r, v in zip(records, speech or records, strict=True)]
  count = 1 if speech else SEEDS
  features = [feature for sound in sounds for feature in [audio.of_sound(params, sound)] * count]
  seeds = np.tile(np.arange(count), len(records))
  normalised = motion_generation.generate_motion(params, features, seeds, sampler=sampler)
  truths, predictions = [], []
  for i, record in enumerate(records):
    motion = [motion_generation.physical(model, rows) for rows in normalised[i * count : (i + 1) * count]]
    curves = {'opening': coefficients.mouth_opening(model, motion[0][:, :-6])}
    for seed, rows in enumerate(motion):
      curves |= {f'{name}_{seed}': angle for name, angle in zip(ANGLES, morphable.degrees(rows[:, -6:-3]).T)}
    true = {'opening': measures.mouth_opening(record.landmarks), **dict(zip(ANGLES, record.pose.T))}
    truths.append(Truth((), record.landmarks, curves=true))
    predictions.append(Generated((), record.fps, curves=curves))
  return truths, predictions


def _start(context: Context) -> Callable[[Clip], Mapping[str, float]]:
  from talkjax.metrics import lips

  def score(clip: Clip) -> dict[str, float]:
    true, own, other = (x.curves for x in (clip.truth, clip.generated, clip.with_other_speech))
    heads = np.stack([[own[f'{name}_{seed}'] for name in ANGLES] for seed in range(SEEDS)])  # [seeds, 3, f]
    return {
      'pearson_opening': lips.lip_score(own['opening'], true['opening']),
      'pearson_opening_other_speech': lips.lip_score(other['opening'], true['opening']),
      'opening_range': float(own['opening'].std() / true['opening'].std()),
      'diversity': float(heads.std(-1).mean()),
      'diversity_truth': float(np.stack([true[name] for name in ANGLES]).std(-1).mean()),
      'seed_diversity': float(heads.std(0).mean()),
      'head_speed': float(np.mean([measures.head_speed(h.T, clip.generated.fps).mean() for h in heads])),
      'head_speed_truth': float(
        measures.head_speed(np.stack([true[name] for name in ANGLES], -1), clip.generated.fps).mean()
      ),
    }

  return score


# Correlation of the mouth opening; standard deviation of the head's angles in degrees over the frames of a video (the
# paper's Diversity, of the angles themselves) and between seeds at the same frame; speed in degrees per second.
MOTION = Suite(
  (
    *('pearson_opening', 'pearson_opening_other_speech', 'opening_range'),
    *('diversity', 'diversity_truth', 'seed_diversity', 'head_speed', 'head_speed_truth'),
  ),
  _start,
  'motion',
)

"""How well the lip expert tells sound in sync from sound out of sync."""

from collections.abc import Callable, Mapping

import numpy as np

from talkjax.metrics.suites import Clip, Context, Suite


def _start(context: Context) -> Callable[[Clip], Mapping[str, float]]:
  def score(clip: Clip) -> dict[str, float]:
    in_sync, out_of_sync = (clip.generated.curves[name] for name in ('in_sync', 'out_of_sync'))
    other = clip.with_other_speech.curves['in_sync']
    return {
      'accuracy': float(np.mean([(in_sync > 0.5).mean(), (out_of_sync <= 0.5).mean()])),
      'accuracy_other_speech': float(np.mean([(in_sync > 0.5).mean(), (other <= 0.5).mean()])),
      'in_sync': float(in_sync.mean()),
      'out_of_sync': float(out_of_sync.mean()),
      'other_speech': float(other.mean()),
    }

  return score


# The share of judgements that are right at a cosine of 0.5, over as many windows in sync as out of sync: those of the
# same clip at another time, or those of another clip's speech; and the mean cosines.
ACCURACY = Suite(('accuracy', 'accuracy_other_speech', 'in_sync', 'out_of_sync', 'other_speech'), _start, 'sync')

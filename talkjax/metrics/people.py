"""Scores by person: a mean hides the one whose videos fail."""

from collections.abc import Mapping, Sequence

import numpy as np

# Scores that are better the lower, and those of which 1 is best. Of all others higher is better.
LOWER = ('lip_score_other_speech', 'keypoint_distance', 'lpips', 'lse_d')
ONE = ('sharpness_face', 'sharpness_mouth', 'jitter', 'flicker', 'seam_jump', 'change')


def badness(score: str, value: float) -> float:
  """A number that is larger the worse a value of a score is."""
  score = score.removeprefix('oracle_')
  if score in ONE:
    return abs(np.log(value)) if value > 0 else np.inf
  return value if score in LOWER else -value


def judged(score: str) -> bool:
  """Whether a score says how good a video is; those of true videos and of baselines do not."""
  return not score.endswith(('_truth', '_identity', '_reference', '_bicubic', '_other_truth', 'offset'))


def by_person(rows: Sequence[Mapping], scores: Sequence[str]) -> dict[str, dict[str, float | None]]:
  """Means over the clips of each person, with their number as `clips`; {} for fewer than two people.

  Args:
    rows: of clips, with their `person`.
    scores: which are averaged.
  """
  people: dict[str, list[Mapping]] = {}
  for row in rows:
    people.setdefault(row.get('person', ''), []).append(row)
  if len(people) < 2:
    return {}
  return {
    person: {'clips': len(own), **{s: _mean([row.get(s) for row in own]) for s in scores if judged(s)}}
    for person, own in sorted(people.items())
  }


def worst(people: Mapping[str, Mapping], scores: Sequence[str]) -> dict[str, dict]:
  """For each score the person with the worst mean: {score: {'person': ..., 'value': ...}}."""
  found = {}
  for score in filter(judged, scores):
    values = {person: own[score] for person, own in people.items() if own.get(score) is not None}
    if values:
      person = max(values, key=lambda p: badness(score, values[p]))
      found[score] = {'person': person, 'value': values[person]}
  return found


def table(people: Mapping[str, Mapping], means: Mapping, scores: Sequence[str]) -> str:
  """A line for each person, then the mean over all clips, the worst person's value of each score, and who that is."""
  bad = worst(people, scores)
  shown = [s for s in scores if s in bad]
  cell = lambda value: '-' if value is None else f'{value:.3f}'
  lines = [['person', 'clips', *shown]]
  lines += [[person, str(own['clips']), *(cell(own[s]) for s in shown)] for person, own in people.items()]
  lines += [['mean', str(sum(own['clips'] for own in people.values())), *(cell(means.get(s)) for s in shown)]]
  lines += [['worst', '', *(cell(bad[s]['value']) for s in shown)], ['who', '', *(bad[s]['person'] for s in shown)]]
  widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
  text = ['  '.join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:]))]) for line in lines]
  rule = '-' * len(text[0])
  return '\n'.join([text[0], rule, *text[1:-3], rule, *text[-3:]])


def _mean(values: Sequence[float | None]) -> float | None:
  defined = [v for v in values if v is not None and np.isfinite(v)]
  return float(np.mean(defined)) if defined else None

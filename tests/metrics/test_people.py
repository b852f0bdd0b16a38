import pytest

from talkjax.metrics import people

SCORES = ('lip_score', 'lip_score_other_speech', 'lse_d', 'sharpness_face', 'psnr_identity', 'identity_truth')
ROWS = [
  {'person': 'a', 'lip_score': 0.9, 'lip_score_other_speech': 0.3, 'lse_d': 7.0, 'sharpness_face': 0.5},
  {'person': 'a', 'lip_score': 0.7, 'lip_score_other_speech': 0.1, 'lse_d': 8.0, 'sharpness_face': 0.5},
  {'person': 'b', 'lip_score': 0.4, 'lip_score_other_speech': 0.0, 'lse_d': None, 'sharpness_face': 1.4},
]


def test_means_and_the_worst():
  found = people.by_person(ROWS, SCORES)
  assert found['a'] == {
    'clips': 2,
    'lip_score': pytest.approx(0.8),
    'lip_score_other_speech': pytest.approx(0.2),
    'lse_d': 7.5,
    'sharpness_face': 0.5,
  }
  assert found['b']['lse_d'] is None
  bad = people.worst(found, SCORES)
  assert {k: v['person'] for k, v in bad.items()} == {
    'lip_score': 'b',
    'lip_score_other_speech': 'a',
    'lse_d': 'a',
    'sharpness_face': 'a',  # a half is farther from one than 1.4
  }
  assert people.badness('oracle_lse_d', 3.0) == 3.0


def test_one_person_needs_no_table():
  assert people.by_person(ROWS[:2], SCORES) == {} and people.worst({}, SCORES) == {}


def test_the_table_has_straight_columns():
  found = people.by_person(ROWS, SCORES)
  lines = people.table(found, {'lip_score': 0.667, 'lse_d': 7.5}, SCORES).splitlines()
  assert len({len(line) for line in lines}) == 1
  assert lines[0].split() == ['person', 'clips', 'lip_score', 'lip_score_other_speech', 'lse_d', 'sharpness_face']
  assert lines[-3].split()[:3] == ['mean', '3', '0.667']
  assert lines[-2].split()[:2] == ['worst', '0.400'] and lines[-1].split()[:2] == ['who', 'b']

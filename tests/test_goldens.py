"""Every golden case whose module exists here, within its own tolerance; other cases of those modules run unchanged."""

import json
import os
import pathlib
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import golden_cases  # noqa: E402
from golden_cases import Case, Elementwise, Skip, compare, find_check  # noqa: E402

FOLDER = pathlib.Path(
  os.environ.get('TALKJAX_GOLDENS', pathlib.Path(__file__).resolve().parents[2] / 'shared' / 'goldens')
)


# At the published sizes these take a minute and up to 12 GiB each; the same modules have narrow cases too.
PUBLISHED_SIZES = ('sd15_unet', 'vexpress_unet', 'vexpress_reference_net')
PUBLISHED_SIZES += ('guided_unet', 'mm_diffusion_sr', 'mm_diffusion_unet')


def _case(name):
  if name in PUBLISHED_SIZES:
    return pytest.param(name, marks=pytest.mark.large)
  return pytest.param(name, marks=pytest.mark.slow if name == 'vexpress_pipeline_tiny' else ())


@pytest.mark.parametrize('name', list(map(_case, golden_cases.case_names(FOLDER) or [None])))
def test_golden(name, goldens):
  if name is None:
    pytest.skip(f'no golden case in {goldens}')
  check = find_check(name, golden_cases.registry()[0])
  if check is None:
    pytest.skip('no such module here yet')
  case = Case(name, goldens)
  computed = check(case)
  problems = compare(case, computed)
  assert not problems, f'{name}:\n' + '\n'.join(problems)
  exempt = {k: v.reason for k, v in computed.items() if isinstance(v, Skip) and k in case.outputs}
  for output, reason in exempt.items():
    print(f'{name}: {output} not compared: {reason}')
  if len(exempt) == len(case.outputs):
    pytest.skip('; '.join(sorted(set(exempt.values()))))


@pytest.mark.parametrize('module', golden_cases.module_names() or [None])
def test_checks_can_be_imported(module):
  assert module not in golden_cases.registry()[1], golden_cases.registry()[1].get(module)


# The harness itself: a wrong output must not pass.


@pytest.fixture
def case(tmp_path):
  long = np.arange(12, dtype=np.float32).reshape(3, 4)
  outputs = {
    'whole': np.array([1.0, -10.0], np.float32),
    'thin': long.reshape(-1)[::5],
    'count': np.array([3, 4]),
    'near': np.array([0.5], np.float32),
    'path': np.array([[1000.0, 0.0], [1.0, 0.0]], np.float32),
  }
  meta = {
    'config': {},
    'state': {'a': [2], 'b': [2], 'c': [2]},
    'buffer_same_as': {'c': 'b'},
    'outputs': {'thin': {'flat_stride': 5, 'full_shape': [3, 4]}, 'path': {'layout': 'step,N'}},
    'tolerance': 1e-3,
    'absolute_tolerances': {'near': 0.1},
  }
  (tmp_path / 'made.json').write_text(json.dumps(meta))
  (tmp_path / 'weights.py').write_text('import numpy as np\ndef value(name, shape): return np.ones(shape)\n')
  stored = {f'out/{k}': v for k, v in outputs.items()} | {'state/b': np.array([5.0, 6.0])}
  np.savez(tmp_path / 'made.npz', **stored)
  return Case('made', tmp_path), dict(outputs, thin=long)


def test_right_outputs_pass(case):
  assert compare(*case) == []


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('whole', np.array([1.02, -10.0])),
    ('whole', np.array([1.0, np.nan])),
    ('whole', np.array([1.0])),
    ('thin', np.ones((3, 4))),
    ('thin', np.ones((4, 3))),
    ('count', np.array([3, 5])),
    ('near', np.array([0.7])),
    ('path', np.array([[1000.0, 0.0], [1.01, 0.0]])),  # small beside the first step, large beside its own
    ('whole', Elementwise(np.array([1.002, -10.0]), 1e-3)),
    ('whole', None),
  ],
)
def test_wrong_outputs_fail(case, name, value):
  problems = compare(case[0], case[1] | {name: value})
  assert len(problems) == 1 and problems[0].startswith(name)


def test_exemption_is_not_compared(case):
  assert compare(case[0], case[1] | {'whole': Skip('not on this machine')}) == []


def test_state_takes_stored_buffers_and_their_copies(case):
  state = case[0].state
  np.testing.assert_array_equal(state['a'], [1, 1])
  np.testing.assert_array_equal(state['c'], [5, 6])
  assert set(state) == {'a', 'b', 'c'}


def test_longest_prefix_is_asked():
  assert find_check('dve_unet_multi_b', {'dve': 1, 'dve_unet': 2, 'dve_unet_single': 3}) == 2
  assert find_check('other', {'dve': 1}) is None

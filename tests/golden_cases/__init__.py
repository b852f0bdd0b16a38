"""Golden cases: reading them, finding the check for each, and comparing.

A golden case is `NAME.json` + `NAME.npz` (see the README beside them): what a published module returned for stored
inputs. Every module of this package may hold

    CHECKS: dict[str, Callable[[Case], dict[str, np.ndarray | Skip | Elementwise]]]

keyed by a prefix of case names; the longest prefix that fits a case is asked. A check computes the case's outputs with
this project's own code, taking every size from the case. The harness (tests/test_goldens.py) compares all of them.
"""

import dataclasses
import functools
import importlib
import importlib.util
import json
import pathlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Skip:
  """Stands for an output that cannot be computed here; `reason` is shown."""

  reason: str


@dataclasses.dataclass(frozen=True)
class Elementwise:
  """An output compared element by element, each within `relative` (one for all, or its own) of the stored element."""

  value: Any
  relative: float | np.ndarray


@dataclasses.dataclass(frozen=True)
class Case:
  """One golden case. Arrays are as stored: layouts (mostly NCHW) are named in `json`."""

  name: str
  folder: pathlib.Path

  @functools.cached_property
  def json(self) -> dict[str, Any]:
    return json.loads((self.folder / f'{self.name}.json').read_text())

  @functools.cached_property
  def arrays(self) -> dict[str, np.ndarray]:
    with np.load(self.folder / f'{self.name}.npz') as file:
      return {name: file[name] for name in file.files}

  @property
  def config(self) -> dict[str, Any]:
    return self.json.get('config', {})

  def _under(self, prefix: str) -> dict[str, np.ndarray]:
    return {k[len(prefix) :]: v for k, v in self.arrays.items() if k.startswith(prefix)}

  @property
  def inputs(self) -> dict[str, np.ndarray]:
    return self._under('in/')

  @property
  def outputs(self) -> dict[str, np.ndarray]:
    return self._under('out/')

  @property
  def stored(self) -> dict[str, np.ndarray]:
    """True buffers that replace made-up weights."""
    return self._under('state/')

  @functools.cached_property
  def state(self) -> dict[str, np.ndarray]:
    """The published module's state dict: made-up weights, with the stored buffers in their places."""
    weights = _load(self.folder / 'weights.py')
    stored, same = self.stored, self.json.get('buffer_same_as', {})
    shapes = self.json.get('state', {})
    state = {n: weights.value(n, tuple(s)) for n, s in shapes.items() if n not in stored and n not in same}
    state.update(stored)
    state.update({name: state[source] for name, source in same.items()})
    return state


@functools.cache
def _load(path: pathlib.Path):
  spec = importlib.util.spec_from_file_location('golden_weights', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def case_names(folder: pathlib.Path) -> list[str]:
  """Names of the cases in a folder, in order."""
  return sorted(p.stem for p in folder.glob('*.json') if p.with_suffix('.npz').exists())


def module_names() -> list[str]:
  """The modules of this package."""
  return sorted(m.name for m in pkgutil.iter_modules(__path__))


@functools.cache
def registry() -> tuple[dict[str, Callable], dict[str, str]]:
  """All checks by prefix, and for each module that cannot be imported its error."""
  checks, errors = {}, {}
  for name in module_names():
    try:
      found = importlib.import_module(f'{__name__}.{name}').CHECKS
    except Exception as error:  # one broken module must not hide the cases of the others
      errors[name] = f'{type(error).__name__}: {error}'
      continue
    for prefix, check in found.items():
      if prefix in checks:
        errors[name] = f'prefix {prefix!r} is registered twice'
      checks[prefix] = check
  return checks, errors


def find_check(name: str, checks: Mapping[str, Callable]) -> Callable | None:
  """The check with the longest prefix of the case's name, or None."""
  fitting = [prefix for prefix in checks if name == prefix or name.startswith(prefix)]
  return checks[max(fitting, key=len)] if fitting else None


def compare(case: Case, computed: Mapping[str, Any]) -> list[str]:
  """What is wrong with the computed outputs: a sentence for each output that is missing or differs."""
  problems = []
  for name, stored in case.outputs.items():
    value = computed.get(name)
    if value is None:
      problems.append(f'{name}: not computed')
    elif not isinstance(value, Skip):
      problem = _difference(case.json, name, stored, value)
      if problem:
        problems.append(f'{name}: {problem}')
  return problems


def _difference(meta: dict, name: str, stored: np.ndarray, value: Any) -> str | None:
  relative = None
  if isinstance(value, Elementwise):
    value, relative = value.value, value.relative
  spec = meta.get('outputs', {}).get(name, {})
  got = np.asarray(value)
  if 'flat_stride' in spec and got.shape != stored.shape:
    full = tuple(spec['full_shape'])
    if got.shape != full:
      return f'shape {got.shape}, expected {full}'
    got = got.reshape(-1)[:: spec['flat_stride']]
  if got.shape != stored.shape:
    return f'shape {got.shape}, expected {stored.shape}'
  if stored.dtype.kind in 'biu' or stored.dtype.kind in 'US':
    different = int(np.sum(got != stored))
    return f'{different} of {stored.size} values differ, expected all equal' if different else None
  got, want = got.astype(np.float64), stored.astype(np.float64)
  finite = np.isfinite(want)
  if not np.array_equal(got[~finite], want[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
    return 'not finite where it should be, or the other way round'
  got, want = np.where(finite, got, 0), np.where(finite, want, 0)
  error = np.abs(got - want)
  if relative is not None:
    wrong = np.flatnonzero(error > relative * np.abs(want))
    if not len(wrong):
      return None
    allowed = np.broadcast_to(relative, error.shape).reshape(-1)[wrong[0]]
    return f'{len(wrong)} elements off by more than allowed of themselves, the first at {wrong[0]} ({allowed:.3g})'
  if name in meta.get('absolute_tolerances', {}):
    allowed = meta['absolute_tolerances'][name]
    largest = float(np.max(error, initial=0))
    return f'absolute difference {largest:.3g}, allowed {allowed:g}' if largest > allowed else None
  tolerance = meta.get('tolerances', {}).get(name, meta.get('tolerance', 1e-4))
  # A trajectory grows or shrinks by decades from step to step: each step is measured by its own size.
  rows = error.shape[0] if spec.get('layout', '').startswith('step') and error.ndim > 1 else 1
  for row, (e, w) in enumerate(zip(error.reshape(rows, -1), want.reshape(rows, -1), strict=True)):
    scale = float(np.max(np.abs(w), initial=0)) or 1.0
    worst = float(np.max(e, initial=0)) / scale
    if worst > tolerance:
      return f'relative difference {worst:.3g} (row {row}), allowed {tolerance:g}'
  return None

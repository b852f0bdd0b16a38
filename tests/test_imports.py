"""Imports point one way (the packages of the design), asserted from the imports themselves."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'talkjax'

COMMANDS = {'train', 'generate', 'evaluate', 'build', 'convert', 'benchmark', 'cli'}
# What each package or module may import other than itself, from the bottom up. Commands may import everything.
PACKAGES = {
  'errors': set(),
  'options': {'errors'},
  'nn': set(),
  'diffusion': set(),
  'media': {'errors'},
  'weights': {'errors', 'nn'},
  'faces': {'errors', 'media', 'weights'},
  'corpora': {'errors', 'media', 'faces'},
  'metrics': {'errors', 'media', 'faces'},
  'training': {'errors', 'media', 'corpora'},
  'systems': {'errors', 'options', 'nn', 'diffusion', 'media', 'weights', 'faces', 'corpora', 'metrics', 'training'},
  'pipeline': {'errors', 'options', 'systems', 'media', 'training'},
  'message': {'errors', 'options', 'media'},
  '': {'pipeline'},  # talkjax itself, in `load`
}
# Modules that may import more than the rest of their package.
MODULES = {
  'weights.encoders': {'corpora', 'training'},  # precomputes features of corpora with trained weights
  'weights.coefficients': {'corpora', 'training', 'faces'},
  'weights.deep3d': {'faces'},  # the face model
  'weights.deep3d_coefficients': {'corpora', 'training', 'faces'},
  'weights.latents': {'media', 'corpora', 'training'},
  'weights.speech': {'media', 'training'},  # reads sound, and trained weights
  'weights.packaged': {'training'},
  'weights.scoring': {'media', 'corpora', 'training'},  # reads trained weights, and splits batches over devices
}
SHARED = {'portrait', 'joint'}  # packages of `systems` that systems share
# Arithmetic and parameters: no files, no configs, no pictures.
LIBRARIES = {'diffusion': {'jax', 'numpy'}, 'nn': {'jax', 'numpy', 'flax', 'einops', 'jaxtyping'}}


def imported(source: str, module: str) -> set[str]:
  """Dotted names a module's source imports, relative ones made absolute; `from a import b` is a.b (and a).

  `deferred('emo.generation.generate')` imports below talkjax.systems.
  """
  names = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ''
      if node.level:
        parts = module.split('.')[: -node.level]
        base = '.'.join(parts + ([node.module] if node.module else []))
      names |= {f'{base}.{alias.name}' for alias in node.names} | {base}
    elif isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'deferred':
      names.add(f'talkjax.systems.{node.args[0].value}')
  return names


def violations(source: str, module: str) -> list[str]:
  """What a module of talkjax may not import and does. `module`: its dotted name, '.__init__' included."""
  parts = [p for p in module.split('.')[1:] if p != '__init__']
  package = parts[0] if parts else ''
  found = []
  for name in sorted(imported(source, module)):
    top, *inside = name.split('.')
    if top in ('configs', 'tests'):
      found.append(f'{module} imports {name}: talkjax never imports {top}')
    elif top == 'talkjax' and inside:
      problem = _inside(package, parts, inside)
      if problem:
        found.append(f'{module} imports {name}: {problem}')
    elif package in LIBRARIES and top not in LIBRARIES[package] | {'talkjax'} | sys.stdlib_module_names:
      found.append(f'{module} imports {name}: {package} uses {", ".join(sorted(LIBRARIES[package]))} alone')
  return found


def _inside(package, parts, inside):
  target = inside[0]
  if package in COMMANDS:
    return None
  if target in COMMANDS:
    return 'only commands import commands'
  if package == 'systems' and target == 'systems':
    named = inside[1] if len(inside) > 1 else ''
    is_system = (PACKAGE / 'systems' / named).is_dir() and named not in SHARED  # a file there is shared too
    return 'systems never import systems' if named and is_system and parts[1:2] != [named] else None
  allowed = PACKAGES[package] | MODULES.get('.'.join(parts), set())
  return None if target == package or target in allowed else f'{package} may not import {target}'


def files():
  return sorted(PACKAGE.rglob('*.py'))


@pytest.mark.parametrize('path', files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
  module = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
  assert violations(path.read_text(), module) == []


def test_every_package_is_listed():
  packages = {p.parent.name for p in PACKAGE.glob('*/__init__.py')}
  modules = {p.stem for p in PACKAGE.glob('*.py')} - {'__init__'}
  assert packages | modules == set(PACKAGES) - {''} | COMMANDS, 'a new package or module needs a line in PACKAGES'


def test_every_exception_is_needed():
  for name, more in MODULES.items():
    source = (PACKAGE / f'{name.replace(".", "/")}.py').read_text()
    used = {parts[1] for parts in (n.split('.') for n in imported(source, f'talkjax.{name}')) if len(parts) > 1}
    assert more <= used, f'{name} need no longer import {", ".join(more - used)}'


@pytest.mark.parametrize(
  ('module', 'source'),
  [
    ('talkjax.nn.unet', 'from talkjax.diffusion import targets'),
    ('talkjax.nn.unet', 'import ml_collections'),
    ('talkjax.diffusion.samplers', 'import flax.linen as nn'),
    ('talkjax.diffusion.samplers', 'def f():\n  from ..nn import unet'),
    ('talkjax.faces.align', 'from talkjax import systems'),
    ('talkjax.media.video', 'import talkjax.train'),
    ('talkjax.training.input_pipeline', 'from talkjax.systems import speech_edit'),
    ('talkjax.train', 'import configs.speech_edit'),
    ('talkjax.media.video', 'from talkjax.corpora import records'),
    ('talkjax.options', 'from talkjax import systems'),
    ('talkjax.errors', 'from talkjax.media import files'),
    ('talkjax.cli', 'from tests import commands'),
    ('talkjax.weights.read', 'from talkjax.training import checkpoint'),
    ('talkjax.weights.encoders', 'from talkjax.systems import portrait'),
    ('talkjax.systems.portrait.loss', 'from talkjax.systems.emo import model'),
    ('talkjax.systems.sampling', 'from talkjax.systems import emo'),
    ('talkjax.systems.vexpress', "deferred('emo.generation.generate')"),
  ],
)
def test_a_wrong_import_is_seen(module, source):
  assert len(violations(source, module)) >= 1


def test_a_system_may_not_know_another(tmp_path, monkeypatch):
  for name in ('one', 'two', 'portrait'):
    (tmp_path / 'systems' / name).mkdir(parents=True)
  monkeypatch.setattr(f'{__name__}.PACKAGE', tmp_path)
  assert violations('from talkjax.systems import two', 'talkjax.systems.one.model')
  assert violations('from ..two import model', 'talkjax.systems.one.model')
  assert not violations('from talkjax.systems import System', 'talkjax.systems.one.model')
  assert violations('from ..one import model', 'talkjax.systems.portrait.networks')
  assert violations('from talkjax.systems import one', 'talkjax.systems.sampling')
  assert not violations('from . import model', 'talkjax.systems.one.__init__')
  assert not violations('from talkjax.systems.portrait import networks', 'talkjax.systems.one.model')
  assert not violations('from talkjax.systems.sampling import make_table', 'talkjax.systems.one.model')

"""Imports point one way (the rooms of the design), asserted from the imports themselves."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'talkjax'

COMMANDS = {'train', 'generate', 'evaluate', 'build', 'convert', 'benchmark'}
GROUND = {'cli', 'records', 'pool', 'weights'}  # what any room that touches files or users may stand on
# A room may import itself and these; files beside the commands may import every room, but no system and no command.
ROOMS = {
  'nn': set(),
  'diffusion': set(),
  'media': GROUND,
  'faces': GROUND | {'media'},
  'metrics': GROUND | {'faces', 'media'},
  'weights': {'cli'},
  'systems': GROUND | {'nn', 'diffusion', 'faces', 'media'},
}
# Arithmetic and parameters: no files, no configs, no pictures.
LIBRARIES = {'diffusion': {'jax', 'numpy'}, 'nn': {'jax', 'numpy', 'flax', 'einops', 'jaxtyping'}}


def imported(source: str, module: str) -> set[str]:
  """Dotted names a module's source imports, relative ones made absolute; `from a import b` is a.b (and a)."""
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
  return names


def violations(source: str, module: str) -> list[str]:
  """What a module of talkjax may not import and does. `module`: its dotted name, '.__init__' included."""
  parts = [p for p in module.split('.')[1:] if p != '__init__']
  room = parts[0] if parts else ''
  found = []
  for name in sorted(imported(source, module)):
    top, *inside = name.split('.')
    if top in ('configs', 'tests'):
      found.append(f'{module} imports {name}: talkjax never imports {top}')
    elif top == 'talkjax' and inside:
      problem = _inside(room, parts, inside)
      if problem:
        found.append(f'{module} imports {name}: {problem}')
    elif room in LIBRARIES and top not in LIBRARIES[room] | {'talkjax'} | sys.stdlib_module_names:
      found.append(f'{module} imports {name}: {room} uses {", ".join(sorted(LIBRARIES[room]))} alone')
  return found


def _inside(room, parts, inside):
  target = inside[0]
  if room in COMMANDS:
    return None
  if target in COMMANDS:
    return 'only commands import commands'
  if room == 'systems' and target == 'systems':
    named = inside[1] if len(inside) > 1 else ''
    is_system = (PACKAGE / 'systems' / named).is_dir()  # a file there is what systems share
    return 'systems never import systems' if named and is_system and parts[1:2] != [named] else None
  if room in ROOMS:
    return None if target == room or target in ROOMS[room] else f'{room} may not know {target}'
  if room in GROUND:
    return None if target in GROUND else f'{room} is the floor the rooms stand on'
  return 'only commands import systems' if target == 'systems' else None


def files():
  return sorted(PACKAGE.rglob('*.py'))


@pytest.mark.parametrize('path', files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
  module = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
  assert violations(path.read_text(), module) == []


def test_every_room_exists():
  rooms = {p.parent.name for p in PACKAGE.glob('*/__init__.py')}
  assert rooms == set(ROOMS), 'a new room needs a line in ROOMS'


@pytest.mark.parametrize(
  ('module', 'source'),
  [
    ('talkjax.nn.unet', 'from talkjax.diffusion import targets'),
    ('talkjax.nn.unet', 'import ml_collections'),
    ('talkjax.diffusion.samplers', 'import flax.linen as nn'),
    ('talkjax.diffusion.samplers', 'def f():\n  from ..nn import unet'),
    ('talkjax.faces.align', 'from talkjax import systems'),
    ('talkjax.media.video', 'import talkjax.train'),
    ('talkjax.input', 'from talkjax.systems import speech_edit'),
    ('talkjax.train', 'import configs.speech_edit'),
    ('talkjax.records', 'from talkjax.media import video'),
  ],
)
def test_a_wrong_import_is_seen(module, source):
  assert len(violations(source, module)) >= 1


def test_a_system_may_not_know_another(tmp_path, monkeypatch):
  for name in ('one', 'two'):
    (tmp_path / 'systems' / name).mkdir(parents=True)
  monkeypatch.setattr(f'{__name__}.PACKAGE', tmp_path)
  assert violations('from talkjax.systems import two', 'talkjax.systems.one.model')
  assert violations('from ..two import model', 'talkjax.systems.one.model')
  assert not violations('from talkjax.systems import System', 'talkjax.systems.one.model')
  assert not violations('from . import model', 'talkjax.systems.one.__init__')

"""How much there is to read, and what repeats: figures of the source itself.

  python -m tests.benchmarks.structure [--root=.]

imports     files and lines of talkjax and configs that a training run of each system imports (its config included)
functions   longer than 80 lines, docstring included, or with more than 8 arguments
files       longer than 400 lines
similar     pairs of functions in different systems whose code, docstrings aside, is more than 0.6 similar
            (difflib's ratio of the unparsed code, functions of five lines or more)
"""

import argparse
import ast
import difflib
import pathlib
import subprocess
import sys

LOAD = """
import pathlib, runpy, sys
import talkjax.train
from talkjax import systems
config = runpy.run_path('configs/{name}.py')['get_config']({argument!r})
systems.build(config)
root = pathlib.Path.cwd()
files = {{getattr(m, '__file__', None) for n, m in sys.modules.items() if n.split('.')[0] in ('talkjax', 'configs')}}
files = [pathlib.Path(f) for f in files | {{str(root / 'configs/{name}.py')}} if f]
print('\\n'.join(str(f) for f in files if f.stat().st_size))
"""
SYSTEMS = {'speech_edit': 'tiny', 'emo': 'tiny,stage=3', 'vexpress': 'tiny,stage=3'}


def imported(root: pathlib.Path, name: str, argument: str) -> list[pathlib.Path]:
  """The files that a training run of a system imports, empty ones aside."""
  script = LOAD.format(name=name, argument=argument)
  done = subprocess.run([sys.executable, '-c', script], cwd=root, capture_output=True, text=True, check=True)
  return [pathlib.Path(line) for line in done.stdout.split()]


def functions(path: pathlib.Path):
  """(name, lines, arguments, code without docstring) of every function of a file."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      a = node.args
      count = len([*a.posonlyargs, *a.args, *a.kwonlyargs]) - (bool(a.args) and a.args[0].arg == 'self')
      body = node.body[1:] if ast.get_docstring(node) else node.body
      code = '\n'.join(ast.unparse(statement) for statement in body)
      yield node.name, node.end_lineno - node.lineno + 1, count, code


def similar(package: pathlib.Path, least: float = 0.6):
  """(ratio, function, function) of functions in different systems that are more alike than `least`."""
  found = []
  for path in sorted((package / 'systems').glob('*/*.py')):
    found += [(path, name, code) for name, _, _, code in functions(path) if code.count('\n') >= 4]
  match = difflib.SequenceMatcher(autojunk=False)
  for index, (b, second, y) in enumerate(found):
    match.set_seq2(y)  # is analysed once, unlike the first sequence
    for a, first, x in found[:index]:
      if a.parent == b.parent or 'portrait' in (a.parent.name, b.parent.name):
        continue
      match.set_seq1(x)
      if match.real_quick_ratio() > least and match.quick_ratio() > least and (ratio := match.ratio()) > least:
        yield ratio, f'{a.parent.name}/{a.name} {first}', f'{b.parent.name}/{b.name} {second}'


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--root', type=pathlib.Path, default=pathlib.Path(), help='another clone to measure')
  root = parser.parse_args().root.resolve()
  package = root / 'talkjax'
  for name, argument in SYSTEMS.items():
    files = imported(root, name, argument)
    print(f'imports    {name}: {len(files)} files, {sum(len(f.read_text().splitlines()) for f in files)} lines')
  for path in sorted(package.rglob('*.py')):
    length = len(path.read_text().splitlines())
    if length > 400:
      print(f'files      {path.relative_to(root)}: {length} lines')
    for name, lines, arguments, _ in functions(path):
      if lines > 80 or arguments > 8:
        print(f'functions  {path.relative_to(root)} {name}: {lines} lines, {arguments} arguments')
  for ratio, first, second in sorted(similar(package), reverse=True):
    print(f'similar    {ratio:.2f} {first} ~ {second}')


if __name__ == '__main__':
  main()

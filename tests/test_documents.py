"""The commands of the READMEs and configs run down to their first step, on eight devices; see `tests.documents`.

Behind the marker `slow`, those of all documents run to their end.
"""

import json
import os
import re
import subprocess
import sys

import pytest

from talkjax import cli, train
from tests import documents
from tests.commands import ROOT


def run(folder, *args):
  """The rows of the table by (document, line)."""
  output = folder / 'table.json'
  flag = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={documents.DEVICES}'
  done = subprocess.run(
    [sys.executable, '-m', 'tests.documents', f'--output={output}', *args],
    cwd=ROOT, env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flag},
    check=False, capture_output=True, text=True,
  )  # fmt: skip
  assert output.exists(), done.stderr[-3000:]
  rows = json.loads(output.read_text())
  errors = [f'{row["document"]}:{row["line"]}: {row["command"]}: {row["error"]}' for row in rows if row['error']]
  assert done.returncode == bool(errors)
  return rows, errors


@pytest.mark.slow
def test_every_command_runs_to_its_first_step(tmp_path):
  first = ('README.md', 'data/README.md', 'configs/')
  rows, errors = run(tmp_path, f'--only=^({"|".join(first)})')
  assert not errors
  assert [row['command'] for row in rows] == [str(c) for c in documents.find() if c.document.startswith(first)]
  assert {'README.md', 'data/README.md', 'configs/emo.py'} <= {row['document'] for row in rows}


def test_every_training_of_the_other_documents_has_flags_and_keys_that_exist(monkeypatch):
  monkeypatch.chdir(ROOT)
  trainings = [c for c in documents.find() if documents.handler(c) is documents.Trial.train]
  assert {'docs/recipes.md', 'docs/scores.md'} <= {c.document for c in trainings}
  for command in trainings:
    assert isinstance(cli.parse(command.words[2:], train.OPTIONS).config.steps, int)


def test_every_test_that_a_document_names_exists():
  named = [m for path in ROOT.glob('docs/*.md') for m in re.findall(r'(tests/[\w/]+\.py)::(\w+)', path.read_text())]
  assert len(named) > 20
  for file, test in named:
    assert f'\ndef {test}(' in (ROOT / file).read_text(), f'{file} has no {test}'


@pytest.mark.large
def test_every_command_trains_generates_and_scores(tmp_path):
  rows, errors = run(tmp_path, '--whole')
  assert not errors
  assert [row['command'] for row in rows] == [str(c) for c in documents.find()]


def test_commands_of_a_document():
  text = """
`python -m inline` is not one.
```
./a.sh   # why
# only a comment
X=1 python -m talkjax.train --config=a.py:tiny,stage=2 \\
  --workdir='two words'
```
```text
wget is a picture
```
```python
import this
```
"""
  assert [(c.line, c.environment, c.words) for c in documents.read(text, 'a.md')] == [
    (4, (), ('./a.sh',)),
    (6, ('X=1',), ('python', '-m', 'talkjax.train', '--config=a.py:tiny,stage=2', '--workdir=two words')),
  ]
  module = '"""A config.\n\n  python -m a \\\\\n    --b\n\nNot this.\n"""\n'
  assert [c.words for c in documents.read(module, 'a.py')] == [('python', '-m', 'a', '--b')]


@pytest.mark.parametrize(
  ('command', 'error'),
  [
    ('wget https://example.org/weights.pth', 'no handler in tests/documents.py knows this command'),
    ('python -m talkjax.tarin --config=a.py', 'no handler in tests/documents.py knows this command'),
    ('launch/setup.sh rocm', 'setup.py has no extra rocm'),
    ('launch/start.sh', 'launch/start.sh is not a script that can run'),
    ('python -m pytest tests/test_nothing.py', 'there is no tests/test_nothing.py'),
    ('python -m tests.benchmarks.structure --rot=.', 'tests.benchmarks.structure has no --rot'),
    ('python -m talkjax.train --config=configs/emo.py:tiny,stage=4 --workdir=runs/a', 'stage=4 is not one of 1, 2, 3'),
    ('python -m talkjax.train --config=configs/emo.py:tiny --config.frmes=1 --workdir=runs/a', "no key 'frmes'"),
    ('python -m talkjax.generate --workdir=runs/nobody --steps=2', 'runs/nobody is not a workdir'),
  ],
)
def test_a_command_that_does_not_work_is_reported(command, error, tmp_path):
  (found,) = documents.read(f'```\n{command}\n```\n', 'a.md')
  trial = documents.Trial(tmp_path, [found])
  assert error in trial.run(found).error

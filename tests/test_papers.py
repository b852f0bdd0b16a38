"""docs/papers.md: every key that it gives for a statement of a paper has that value in `paper`."""

import ast
import re

import pytest

from configs import emo, fd2talk, speech_edit, vexpress
from talkjax.training.workdir import flatten
from tests.commands import ROOT

FILES = {'speech_edit': speech_edit, 'emo': emo, 'vexpress': vexpress, 'fd2talk': fd2talk}


def statements():
  """(system, argument of its config, key, value) of every `key=value` in the tables."""
  system = None
  for line in (ROOT / 'docs' / 'papers.md').read_text().splitlines():
    if line.startswith('## '):
      system = line[3:]
    cells = re.split(r'(?<!\\)\|', line)
    if len(cells) != 6 or '`' not in cells[3]:
      continue
    for sizes, keys in re.findall(r'([\w, ]+): ((?:[^;`]|`[^`]*`)*)', cells[3]):
      for key, value in re.findall(r'`([\w.]+)=([^`]*)`', keys):
        for size in sizes.replace(' ', '').split(','):
          yield system, f'paper,stage={size}' if size.isdigit() else size, key, value.replace('\\|', '|')


@pytest.mark.parametrize(('system', 'argument', 'key', 'value'), list(statements()))
def test_the_config_has_the_value(system, argument, key, value):
  assert flatten(FILES[system].get_config(argument).to_dict())[key] == ast.literal_eval(value)


def test_every_table_is_read():
  found = list(statements())
  assert {(system, argument) for system, argument, *_ in found} == {
    *(('speech_edit', size) for size in ('paper', 'grid_s1')),
    *((system, f'paper,stage={stage}') for system in ('emo', 'vexpress') for stage in (1, 2, 3)),
    ('fd2talk', 'paper,stage=1'),
  }
  assert len(found) > 80

"""The options of every command: its --help, and what it takes from the systems."""

import importlib
import json
import re

import pytest

from talkjax import cli, options, systems
from talkjax.errors import UsageError
from talkjax.options import Option
from tests.commands import call

COMMANDS = ('train', 'generate', 'evaluate', 'convert', 'benchmark')  # talkjax.build has the flags of the tfds command
OF_SYSTEMS = {'generate': lambda option: True, 'evaluate': lambda option: option.evaluate}


def _options(name):
  return importlib.import_module(f'talkjax.{name}').OPTIONS


def _of_systems(name) -> dict[str, list[Option]]:
  """By system, the options of systems that a command accepts."""
  accept = OF_SYSTEMS.get(name, lambda option: False)
  return {system: [o for o in systems.module(system).OPTIONS if accept(o)] for system in systems.names()}


def _sections(text) -> dict[str, dict[str, str]]:
  """The titles of a --help, and for each the options and what is said of them."""
  found = {}
  for part in re.split(r'\n\n(?=Options)', text)[1:]:
    title, rest = part.split(':\n', 1)
    lines = re.findall(r'^  --(\S+) +(.*(?:\n {26}.*)*)', rest, re.MULTILINE)
    found[title] = {option: ' '.join(text.split()) for option, text in lines}
  return found


@pytest.mark.parametrize('name', COMMANDS)
def test_help_lists_every_option(name):
  for flag in ('--help', '-h'):
    done = call(f'talkjax.{name}', flag)
    assert done.stderr == ''
  module = importlib.import_module(f'talkjax.{name}')
  assert done.stdout.startswith(module.__doc__.strip())
  sections = _sections(done.stdout)
  own = sections.pop('Options')
  more = ['config.KEY=VALUE'] if options.CONFIG in module.OPTIONS else []
  assert list(own) == [*(o.name for o in module.OPTIONS), 'debug', *more]
  for option in module.OPTIONS:
    expected = option.help if option.default is None else f'{option.help} (default: {option.default})'
    assert own[option.name] == expected
  # Each option of a system is in one section, which names the systems that accept it.
  listed = {(s, option): text for t, of in sections.items() for s in t[11:].split(', ') for option, text in of.items()}
  assert listed == {(system, o.name): o.help for system, of in _of_systems(name).items() for o in of}
  assert len({pair for of in sections.values() for pair in of.items()}) == sum(map(len, sections.values()))


def test_help_of_build_lists_its_own_flags_and_those_of_tfds(capsys):
  for flag in ('-h', '--help'):
    assert importlib.import_module('talkjax.build').main(['build', flag]) == 0
    out = capsys.readouterr().out
  sections = _sections(out)
  assert list(sections) == ['Options', 'Options of the tfds command']
  own, more = sections.values()
  assert {
    'workers', 'clip_timeout', 'beam', 'latents', 'size', 'speech', 'speech_layers', 'coefficients', 'feature_cache',
    'debug',
  } == own.keys()  # fmt: skip
  assert {'manual_dir', 'data_dir', 'config', 'overwrite', 'max_examples_per_split'} <= more.keys()
  assert own['size'].endswith('(default: 512)') and 'tensorflow_datasets' not in more['data_dir']
  assert all(text for text in (own | more).values()) and '_parse' not in out and 'SUPPRESS' not in out


@pytest.mark.parametrize('name', COMMANDS)
def test_no_option_leaks_from_one_command_into_another(name):
  mine = {'debug', *(o.name for o in _options(name)), *(o.name for of in _of_systems(name).values() for o in of)}
  others = {o.name for n in COMMANDS for o in (*_options(n), *(x for of in _of_systems(n).values() for x in of))}
  for option in sorted(others - mine):
    done = call(f'talkjax.{name}', f'--{option}=1', check=False)
    assert done.returncode == 2 and option in done.stderr, option


def test_options_of_one_name_mean_what_each_command_says():
  parsed = {
    name: cli.parse([name, '--output=here', '--batch_size=3'], _options(name), OF_SYSTEMS[name])
    for name in ('generate', 'evaluate')
  }
  for arguments in parsed.values():
    assert (arguments.output, arguments.batch_size, arguments.given) == ('here', 3, {})
  default = {name: cli.parse([name], _options(name), OF_SYSTEMS[name]) for name in parsed}
  assert (default['generate'].output, default['generate'].batch_size) == ('out.mp4', None)
  assert (default['evaluate'].output, default['evaluate'].batch_size) == (None, 10)
  declared = {name: {o.name: o for o in _options(name)} for name in COMMANDS}
  helps = [of['output'].help for of in declared.values() if 'output' in of]
  assert len(set(helps)) == len(helps) == 4


def test_options_of_systems_are_given_by_name():
  parse = lambda *args: cli.parse(['generate', *args], _options('generate'), OF_SYSTEMS['generate']).given
  assert parse('--seed=1') == {}
  assert parse('--image=a.png', '--steps=4', '--nomotion_frames', '--speed=1') == {
    'image': 'a.png',
    'steps': 4,
    'motion_frames': False,
    'speed': 1.0,
  }


@pytest.mark.parametrize('workdir', [['--workdir={}'], ['--workdir', '{}']])
def test_a_system_that_is_defined_elsewhere_has_its_options(workdir, tmp_path, monkeypatch):
  (tmp_path / 'elsewhere').mkdir()
  (tmp_path / 'elsewhere' / 'mine.py').write_text(
    'from talkjax.options import Option\nOPTIONS = (Option("colour", str, "Of the hair."),)\n'
  )
  (tmp_path / 'config.json').write_text(json.dumps({'system': 'elsewhere.mine'}))
  monkeypatch.syspath_prepend(tmp_path)
  args = [*(part.format(tmp_path) for part in workdir), '--colour=red']
  assert cli.parse(['generate', *args], _options('generate'), OF_SYSTEMS['generate']).given == {'colour': 'red'}
  with pytest.raises(UsageError, match='colour'):
    cli.parse(['generate', '--colour=red'], _options('generate'), OF_SYSTEMS['generate'])

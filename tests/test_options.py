"""Options: which values are allowed, how they change a config, and what can be swept."""

import ml_collections
import pytest

from talkjax import options, systems
from talkjax.errors import UsageError
from talkjax.options import Option

PORTRAIT = (
  Option('image', str, 'The portrait.', required=True, several=True),
  Option('audio', str, 'The speech.', required=True),
  Option('guidance', float, 'Its scale.', key='model.guidance', sweep=True),
  Option('speed', float, 'Of the head.', sweep=True, minimum=0),
  Option('steps', int, 'Of the sampler.', key='steps', minimum=1),
  Option('compat', str, 'With what.', key='compat', choices=('paper', 'published')),
)
INPUTS = {'image': ('a.png',), 'audio': 'a.wav'}


@pytest.fixture
def config():
  return ml_collections.ConfigDict({'model': {'guidance': 3.5}, 'steps': 40, 'compat': 'paper'})


@pytest.mark.parametrize(
  ('option', 'allowed', 'refused', 'sentence'),
  [
    (Option('x', str, '', choices=('a', 'b')), ('a', 'b'), 'c', '--x=c: expected one of a, b'),
    (Option('x', int, '', minimum=1), (1, 10**9), 0, '--x=0: expected 1 or more'),
    (Option('x', int, '', minimum=0), (0,), -1, '--x=-1: expected 0 or more'),
    (Option('x', float, ''), (-1.5, 0.0), float('inf'), '--x=inf: expected a finite number'),
    (Option('x', float, '', minimum=0), (0.0,), float('nan'), '--x=nan: expected 0 or more'),
    (Option('x', float, ''), (1e30,), float('nan'), '--x=nan: expected a finite number'),
  ],
)
def test_values_that_are_not_allowed(option, allowed, refused, sentence):
  for value in allowed:
    option.check(value)
  with pytest.raises(UsageError) as caught:
    option.check(refused)
  assert str(caught.value) == sentence


def test_an_option_without_bounds_allows_anything():
  Option('x', str, '').check('anything')
  Option('x', int, '').check(-1)
  Option('x', bool, '').check(False)


@pytest.mark.parametrize(
  ('values', 'sentence'),
  [
    ({'image': ('a.png',)}, 'emo needs --image, --audio: --audio is missing'),
    ({}, 'emo needs --image, --audio: --image, --audio is missing'),
    (
      INPUTS | {'video': 'v.mp4', 'kps': 'k.npy'},
      'emo does not take --video, --kps: it takes --image, --audio, --guidance, --speed, --steps, --compat',
    ),
    (INPUTS | {'steps': 0}, '--steps=0: expected 1 or more'),
    (INPUTS | {'image': ''}, '--image is empty: give it a value, or leave it out'),
    (INPUTS | {'compat': 'no'}, '--compat=no: expected one of paper, published'),
  ],
)
def test_values_that_a_system_refuses(values, sentence):
  with pytest.raises(UsageError) as caught:
    options.check('emo', PORTRAIT, values)
  assert str(caught.value) == sentence


def test_values_that_a_system_accepts():
  options.check('emo', PORTRAIT, INPUTS)
  options.check('emo', PORTRAIT, INPUTS | {'guidance': 1.0, 'steps': 1, 'compat': 'published'})


def test_values_become_config_changes_and_inputs(config):
  values = INPUTS | {'guidance': 1.0, 'compat': 'published', 'speed': 8.0}
  changed, inputs = options.apply(config, PORTRAIT, values)
  assert changed.to_dict() == {'model': {'guidance': 1.0}, 'steps': 40, 'compat': 'published'}
  assert inputs == INPUTS | {'speed': 8.0}
  assert config.model.guidance == 3.5 and config.compat == 'paper'  # a copy was changed


def test_a_value_that_is_false_or_zero_is_given():
  assert options.given({'a': None, 'b': False, 'c': 0, 'd': ''}) == {'b': False, 'c': 0, 'd': ''}


def test_a_sweep_is_an_option_and_numbers():
  parse = lambda text: options.parse_sweep(text, 'emo', PORTRAIT)
  assert parse(None) is None
  assert parse('guidance=0.5,1,1.0,2') == ('guidance', (0.5, 1.0, 2.0))
  for text in ('guidance', 'guidance=', 'guidance=1', 'guidance=1,1.0', 'guidance=1,x', 'guidance=1,nan', '', '=1,2'):
    with pytest.raises(UsageError, match='--sweep='):
      parse(text)
  for text in ('guidance', 'guidance=', 'guidance=1', 'guidance=1,x', 'guidance=1,nan'):
    with pytest.raises(UsageError, match='expected an option and two numbers'):
      parse(text)


def test_a_sweep_of_what_cannot_be_swept():
  for name in ('steps', 'gidance'):
    with pytest.raises(UsageError, match=f'--sweep={name}: emo can sweep guidance, speed$'):
      options.parse_sweep(f'{name}=1,2', 'emo', PORTRAIT)
  with pytest.raises(UsageError, match='--sweep=guidance: speech_edit can sweep nothing$'):
    options.parse_sweep('guidance=1,2', 'speech_edit', ())
  with pytest.raises(UsageError, match='--speed=-1.0: expected 0 or more'):
    options.parse_sweep('speed=-1,2', 'emo', PORTRAIT)


@pytest.mark.parametrize('system', systems.names())
def test_every_option_of_a_system_can_do_something(system):
  declared = systems.module(system).OPTIONS
  assert len({o.name for o in declared}) == len(declared)
  for option in declared:
    assert option.help.endswith('.') and '\n' not in option.help
    assert option.default is None  # what is not given is the config's
    assert option.key or not option.evaluate  # evaluate has no inputs: it can only change the config
    assert not (option.key and (option.required or option.several))

import pathlib
import runpy

import pytest

from configs import portrait, speech_edit
from talkjax.errors import UsageError
from talkjax.training import ranges

FOLDER = pathlib.Path(__file__).parents[2] / 'configs'
CONFIGS = sorted(path for path in FOLDER.glob('*.py') if path.stem not in ('common', 'portrait'))
COUNTS = ('batch_size', 'steps', 'log_every', 'checkpoint_every', 'keep_checkpoints')


def example():
  return runpy.run_path(str(CONFIGS[0]))['get_config']('tiny')


@pytest.mark.parametrize(
  'change',
  [
    *({'seed': x} for x in (-1, 2**32)),
    *({key: x} for key in COUNTS for x in (0, -2)),
    *({'sample_every': -1}, {'ema': 1.0}, {'ema': -0.1}, {'ema': float('nan')}, {'dtype': 'float31'}),
    *({f'optimizer.{key}': x} for key in ('learning_rate', 'eps') for x in (0.0, -1.0, float('inf'), float('nan'))),
    *({'optimizer.b1': 1.0}, {'optimizer.clip': -1.0}, {'optimizer.accumulate': 0}, {'optimizer.warmup': -1}),
    *({'data.examples_per_record': 0}, {'data.workers': -1}, {'data.threads': 0}, {'data.prefetch': -1}),
    *({'mesh.data': 0}, {'mesh.data': -2}, {'mesh.fsdp': 0}, {'mesh.tensor': -8}),
  ],
  ids=str,
)  # fmt: skip
def test_a_value_outside_its_range_is_named(change):
  config = example()
  config.update_from_flattened_dict(change)
  (key,) = change
  with pytest.raises(UsageError, match=rf'^config\.{key}=.*(expected|is not one of)'):
    ranges.check(config)


@pytest.mark.parametrize(
  'change',
  [{'model.multipliers': ()}, {'model.num_res_blocks': -1}],
  ids=str,
)
def test_a_diffusion_model_outside_its_range_is_named(change):
  config = speech_edit.get_config('tiny')
  config.update_from_flattened_dict(change)
  (key,) = change
  with pytest.raises(UsageError, match=rf'^config\.{key}=.*expected'):
    ranges.check(config)


def test_numbers_in_sequences_are_finite():
  config = example()
  config.more = (1.0, float('nan'))
  with pytest.raises(UsageError, match=r'config\.more=.*finite'):
    ranges.check(config)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_every_size_is_within_the_ranges(path):
  module = runpy.run_path(str(path))
  for size in module.get('SIZES') or portrait.SIZES:
    ranges.check(module['get_config'](size))


@pytest.mark.parametrize(
  ('key', 'value', 'sentence'),
  [
    ('train', ((1, True),), '1 in .* is no regular expression'),
    ('train', (('(', True),), r"'\(' in .* is no regular expression"),
    ('train', (('x',),), 'expected tuples of 2 values'),
    ('train', 'x', 'expected tuples of 2 values'),
    ('rules', (('[', 'fsdp'),), r"'\[' in .* is no regular expression"),
    ('load', (('sd15', 'backbone'),), 'expected tuples of 4 values'),
  ],
)
def test_patterns_are_regular_expressions(key, value, sentence):
  config = example()
  with config.ignore_type():
    config[key] = value
  with pytest.raises(UsageError, match=f'^config.{key}: {sentence}'):
    ranges.check(config)

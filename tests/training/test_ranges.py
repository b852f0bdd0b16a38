import contextlib
import pathlib
import runpy
from collections.abc import Iterator

import ml_collections
import pytest

from configs import joint_av, portrait, speech_edit
from talkjax import systems
from talkjax.errors import UsageError, UserError
from talkjax.training import ranges, workdir

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
    *({'data.mouth': x} for x in ('lips', '', 3)),
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


def every_config(path: pathlib.Path) -> Iterator[tuple[str, ml_collections.ConfigDict]]:
  """(argument, config) of every size and stage of a config file."""
  module = runpy.run_path(str(path))
  for size in module.get('SIZES') or portrait.SIZES:
    for argument in (size, *(f'{size},stage={n}' for n in (1, 2, 3))):
      with contextlib.suppress(UsageError, ValueError):  # a stage that it does not have
        yield argument, module['get_config'](argument)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_every_size_is_within_the_ranges(path):
  sizes = list(every_config(path))
  for _, config in sizes:
    ranges.check(config)
  assert len(sizes) > 1


# Numbers that may be negative.
SIGNED = {
  'audio.offset', 'audio.scale', 'augment.region_frames', 'augment.snr', 'context_scales.audio',
  'context_scales.reference', 'diffusion.start', 'diffusion.end', 'guidance', 'guidance.caption',
  'guidance.classifier', 'guidance.scale', 'mesh.data',
}  # fmt: skip


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_every_number_has_a_range(path):
  """Of every size and stage."""
  is_number = lambda x: isinstance(x, (int, float)) and not isinstance(x, bool)
  found = {}
  for argument, config in every_config(path):
    for key, value in workdir.flatten(config.to_dict()).items():
      several = isinstance(value, tuple) and value and all(map(is_number, value))
      if (is_number(value) or several) and key.removeprefix('first_stage.') not in SIGNED:
        found.setdefault(key, (argument, (-1,) * len(value) if several else -1))
  assert len(found) > 20
  module = runpy.run_path(str(path))
  for key, (argument, value) in found.items():
    config = module['get_config'](argument)
    with config.ignore_type():
      config.update_from_flattened_dict({key: value})
    with pytest.raises(UsageError, match=rf'^config\.{key}=.*expected'):
      ranges.check(config)


@pytest.mark.parametrize(
  ('change', 'allowed'),
  [
    ({'model.heads': 0}, False),
    ({'model.num_res_blocks': None}, False),
    ({'size': '8'}, False),
    ({'model.widths': (0, 8)}, False),
    ({'model.multipliers': ()}, False),
    ({'model.attention_downsamples': ()}, True),
    ({'first_stage.model.radius': -1}, False),
    ({'first_stage.model.radius': None}, True),
    ({'joined.renderer.size': -1}, False),
    ({'space.size': 7}, False),
    ({'loss.anything': -0.5}, False),
    ({'loss.anything': 'l1'}, True),
    ({'drop.anything': 1.5}, False),
    ({'augment.snr': (-5.0, 40.0)}, True),
    ({'joined': 3}, False),
    ({'space': ()}, False),
    ({'joined': {}}, True),
    ({'captions': ()}, False),
    ({'captions': ('',)}, False),
    ({'joins': ('renderer', 3)}, False),
    ({'joins': 'renderer'}, False),
    ({'joins': ()}, True),
  ],
  ids=str,
)
def test_parts_sequences_and_groups(change, allowed):
  """A name stands for every key that ends in it, and a range for every number of a sequence."""
  ((key, value),) = change.items()
  for part in reversed(key.split('.')):
    value = {part: value}
  config = ml_collections.ConfigDict(value)
  with contextlib.nullcontext() if allowed else pytest.raises(UsageError, match=rf'^config\.{key}='):
    ranges.check(config)


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


@pytest.mark.parametrize('key', ['guidance.caption_by', 'guidance.speech', 'data.segments', 'data.mouth'])
def test_texts_of_joint_av_are_of_a_few(key):
  config = joint_av.get_config('tiny')
  ranges.check(config)
  config.update_from_flattened_dict({key: 'x'})
  with pytest.raises(UsageError, match=rf"^config\.{key}='x' is not one of \w+, \w+"):
    ranges.check(config)


def test_windows_of_joint_av_may_not_overlap_whole():
  config = joint_av.get_config('tiny')
  config.guidance.overlap = config.space.frames
  with pytest.raises(UserError, match=rf'overlap={config.space.frames}: expected 0 to {config.space.frames - 1}, less'):
    systems.build(config)

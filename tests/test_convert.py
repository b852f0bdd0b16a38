"""Published checkpoints as workdirs."""

import numpy as np
import pytest
import torch_file

from configs import speech_edit
from talkjax import convert
from talkjax.errors import UsageError, UserError
from talkjax.systems.speech_edit import published
from talkjax.training import checkpoint
from tests.commands import call
from tests.published_files import FIELDS, SIZE, state_dict


@pytest.fixture
def config():
  made = speech_edit.get_config(f'paper,size={SIZE}')
  made.model.update(head_channels=16, dropout=0.3)
  return made


@pytest.fixture
def path(tmp_path):
  return tmp_path / '735_Network.pth'


def test_sizes_names_and_layouts(path, tmp_path, config):
  state = state_dict(0)
  torch_file.save(path, state)
  convert.convert(published.NAME, path, tmp_path / 'out', config)
  saved, params, step = checkpoint.load_params(tmp_path / 'out')
  assert step == 735
  model = saved.model.to_dict()
  for name, value in FIELDS.items():
    assert (tuple(model[name]) if isinstance(value, tuple) else model[name]) == value
  params = params['unet']
  kernel = state['denoise_fn.output_blocks.1.0.skip_connection.weight']
  np.testing.assert_array_equal(params['up_1_block_1']['skip']['kernel'], kernel[:, :, 0, 0].T)
  kernel = state['denoise_fn.input_blocks.2.0.in_layers.2.weight']
  np.testing.assert_array_equal(params['down_0_shrink']['conv_0']['kernel'][2, 1], kernel[:, :, 2, 1].T)
  # The second head's keys: rows 16..31 of its 48 in the published order, after all queries in ours.
  rows = state['denoise_fn.middle_block.1.qkv.weight'][48 + 16 : 48 + 32, :, 0]
  np.testing.assert_array_equal(params['middle_attention']['qkv']['kernel'][:, 96 + 16 : 96 + 32], rows.T)


def test_folder_with_averaged_weights(tmp_path, config):
  for seed, name in enumerate(('12_Network.pth', '735_Network.pth', '735_Network_ema.pth')):
    torch_file.save(tmp_path / name, state_dict(seed))
  convert.convert(published.NAME, tmp_path, tmp_path / 'out', config)
  for item, seed in (('params', 1), ('ema', 2)):
    _, params, _ = checkpoint.load_params(tmp_path / 'out', item)
    np.testing.assert_array_equal(params['unet']['conv_out']['bias'], state_dict(seed)['denoise_fn.out.2.bias'])


def test_released_settings_are_the_default_in_any_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = convert._default_config(published)
  assert (config.model.head_channels, config.model.dropout) == (64, 0.1)


def without(name):
  return lambda state: {k: v for k, v in state.items() if k != name}


@pytest.mark.parametrize(
  ('change', 'sentence'),
  [
    (without('denoise_fn.middle_block.2.out_layers.3.bias'), 'lacks parameter unet/middle_block_1/conv_1/bias'),
    (without('denoise_fn.out.2.bias'), 'is not one of DiffusionVideoEditing'),
    (lambda s: s | {'denoise_fn.other.weight': np.ones(3, np.float32)}, "has an entry 'other.weight'"),
    (lambda s: s | {'denoise_fn.middle_block.0.in_layers.0.bias': np.ones(3, np.float32)}, 'of shape'),
    (lambda s: {'model.weight': np.ones(3, np.float32)}, 'is not one of DiffusionVideoEditing'),
    (
      lambda s: s | {'denoise_fn.out.2.bias': np.array([0, np.nan, 0], np.float32)},
      'unet/conv_out/bias with values that are not finite',
    ),
  ],
)
def test_other_checkpoints_are_refused(path, tmp_path, config, change, sentence):
  torch_file.save(path, change(state_dict(0)))
  with pytest.raises(UserError, match=sentence):
    convert.convert(published.NAME, path, tmp_path / 'out', config)
  assert not (tmp_path / 'out').exists()


def test_wrong_arguments(tmp_path, path, config):
  with pytest.raises(
    UsageError, match='--source=sd: expected one of diffusion_video_editing, super_resolution, vexpress, moore, wav2lip'
  ):
    convert.convert('sd', path, tmp_path / 'out')
  with pytest.raises(UserError, match='no such file'):
    convert.convert(published.NAME, path, tmp_path / 'out')
  with pytest.raises(UserError, match='expected files like 735_Network.pth'):
    convert.convert(published.NAME, tmp_path, tmp_path / 'out')
  torch_file.save(path, state_dict(0))
  (tmp_path / 'out' / 'checkpoints' / '3').mkdir(parents=True)
  with pytest.raises(UserError, match='already has checkpoints'):
    convert.convert(published.NAME, path, tmp_path / 'out', config)


@pytest.mark.parametrize(
  ('args', 'code', 'sentence'),
  [
    ([], 2, '--source is missing: python -m talkjax.convert --source=diffusion_video_editing|'),
    (['--source=sd', '--path=.', '--output=x'], 2, '--source=sd: expected one of diffusion_video_editing, '),
    (['--source=sd15', '--output=x'], 2, '--path is missing'),
    (['--source=diffusion_video_editing', '--path=.'], 2, '--output is missing'),
    (['--source=sd15', '--path=nowhere', '--output=x'], 1, 'nowhere'),
    (['--source=moore', '--path=nowhere', '--output=x'], 1, 'nowhere'),
  ],
)
def test_errors_of_the_command(args, code, sentence):
  done = call('talkjax.convert', *args, check=False)
  assert done.returncode == code and sentence in done.stderr and done.stderr.count('\n') == 1


def test_the_command_says_what_it_read(path, tmp_path):
  state = state_dict(0)
  torch_file.save(path, state)
  changes = (f'--config.size={SIZE}', '--config.model.head_channels=16', '--config.model.dropout=0.3')
  done = call(
    'talkjax.convert',
    f'--source={published.NAME}',
    f'--path={path}',
    f'--output={tmp_path / "out"}',
    '--config=configs/speech_edit.py',
    *changes,
  )
  assert done.stdout.startswith(f'{tmp_path / "out"}: ') and path.name in done.stdout
  _, params, step = checkpoint.load_params(tmp_path / 'out')
  assert step == 735
  np.testing.assert_array_equal(params['unet']['conv_out']['bias'], state['denoise_fn.out.2.bias'])

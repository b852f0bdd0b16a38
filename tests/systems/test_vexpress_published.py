"""Published files as workdirs: random parameters under the published names and in the published layouts."""

import jax
import numpy as np
import pytest
import torch_file

from talkjax import convert
from talkjax.errors import UserError
from talkjax.media import video
from talkjax.systems.vexpress import moore, published
from talkjax.training import checkpoint
from tests.commands import call
from tests.published_files import SIZES, as_published, make_config, vexpress_params, write_vexpress


@pytest.fixture(scope='module')
def made():
  return vexpress_params()


@pytest.fixture
def folder(made, tmp_path):
  return write_vexpress(tmp_path / 'model_ckpts', made)


def test_every_parameter_comes_back(made, folder, tmp_path):
  config = make_config(published.ARGUMENTS)
  notes = convert.convert('vexpress', folder, str(tmp_path / 'out'), config)
  saved, params, _ = checkpoint.load_params(tmp_path / 'out')
  jax.tree.map(np.testing.assert_array_equal, params, made)
  for key, value in SIZES.items():
    part = saved.to_dict()['model'][key.removeprefix('model.')]
    assert (tuple(part) if isinstance(value, tuple) else part) == value, key
  assert saved.model.max_frames == 20 and saved.margin == 2
  assert make_config(published.ARGUMENTS).fps == 25 and saved.fps == 30  # the rate that they were trained at
  backbone, reference = (next(n for n in notes if n.startswith(part)) for part in ('backbone', 'reference'))
  assert 'denoising_unet.bin and motion_module.bin' in backbone and 'ignored: positional encodings' in backbone
  assert 'ignored: conv_out.bias, conv_out.weight' in reference


@pytest.mark.slow
def test_a_converted_workdir_generates_the_published_sample(folder, samples, tmp_path):
  """Its portrait, its voice (4.57 s) and its keypoints, by the command, at the size of the made-up weights."""
  convert.convert('vexpress', folder, str(tmp_path / 'converted'), make_config(published.ARGUMENTS))
  sample = samples / 'vexpress'
  files = (f'--image={sample}/triple_ref.jpg', f'--audio={sample}/triple_aud.mp3', f'--kps={sample}/triple_kps.pth')
  out = tmp_path / 'out.mp4'
  call('talkjax.generate', f'--workdir={tmp_path}/converted', *files, '--retarget=naive', f'--output={out}')
  frames = np.stack(list(video.read_frames(out)))
  assert len(frames) == 137 and frames.std() > 0


def test_a_partial_set_is_refused_and_all_that_is_missing_named(folder, tmp_path):
  for name in ('v-express/motion_module.bin', 'v-express/v_kps_guider.bin'):
    (folder / name).unlink()
  (folder / 'sd-vae-ft-mse').rename(folder / 'elsewhere')
  with pytest.raises(UserError, match=r'missing motion_module\.bin, v_kps_guider\.bin, sd-vae-ft-mse/ \(or --config'):
    convert.convert('vexpress', folder, str(tmp_path / 'out'), make_config(published.ARGUMENTS))
  assert not (tmp_path / 'out').exists()


def test_other_files_are_refused(folder, tmp_path):
  torch_file.save(folder / 'v-express' / 'audio_projection.bin', {'other.weight': np.ones((2, 2), np.float32)})
  with pytest.raises(UserError, match="not those of V-Express: they have no entry 'latents'"):
    convert.convert('vexpress', folder, str(tmp_path / 'out'), make_config(published.ARGUMENTS))
  assert not (tmp_path / 'out').exists()


def test_released_settings_are_the_default():
  config = convert._default_config(published)
  assert (config.windows.frames, config.windows.overlap) == (24, 4)
  assert (config.context_scales.reference, config.context_scales.audio, config.guidance) == (0.95, 3.0, 3.5)
  assert (config.diffusion.target, config.diffusion.zero_snr, config.sampler.spacing) == ('velocity', True, 'trailing')
  assert config.audio.kind == 'wav2vec2'


def test_moore_animate_anyone_is_a_start(made, folder, tmp_path):
  """Its blocks have two attentions: the first is that of the portrait too, the second has no effect at first."""
  state = as_published(made['backbone'])
  unet = {k: v for k, v in state.items() if '1_5' not in k and 'motion_modules' not in k}
  torch_file.save(folder / 'denoising_unet.pth', unet)
  torch_file.save(folder / 'motion_module.pth', {k: v for k, v in state.items() if 'motion_modules' in k})
  torch_file.save(folder / 'reference_unet.pth', as_published(made['reference']))
  torch_file.save(folder / 'pose_guider.pth', as_published(made['guider']))
  small = {k: v for k, v in SIZES.items() if k.startswith('model.audio')}
  notes = convert.convert('moore', folder, str(tmp_path / 'out'), make_config(moore.ARGUMENTS, **small))
  assert any('has no effect before training' in n for n in notes)
  saved, params, _ = checkpoint.load_params(tmp_path / 'out')
  assert saved.fps == 25  # of the training that starts from them
  block, given = (p['backbone']['mid_block_attentions_0']['transformer_blocks_0'] for p in (params, made))
  for ours, theirs in (('attn1', 'attn1'), ('attn1_5', 'attn1'), ('norm1_5', 'norm1'), ('norm2', 'norm2')):
    jax.tree.map(np.testing.assert_array_equal, block[ours], given[theirs])
  assert not np.any(block['attn2']['to_out_0']['kernel']) and np.any(block['attn2']['to_q']['kernel'])
  moved = 'down_blocks_0_motion_modules_0_temporal_transformer'
  jax.tree.map(np.testing.assert_array_equal, params['backbone'][moved], made['backbone'][moved])
  (folder / 'pose_guider.pth').unlink()
  with pytest.raises(UserError, match=r'missing pose_guider\.pth'):
    convert.convert('moore', folder, str(tmp_path / 'b'), make_config(moore.ARGUMENTS, **small))

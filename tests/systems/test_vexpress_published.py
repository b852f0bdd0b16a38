"""Published files as workdirs: random parameters under the published names and in the published layouts."""

import re

import jax
import numpy as np
import pytest
import torch_file

from configs import vexpress as config_file
from talkjax import convert
from talkjax.errors import UserError
from talkjax.media import video
from talkjax.systems.portrait import networks
from talkjax.systems.vexpress import model, moore, published
from talkjax.training import checkpoint
from tests.commands import call
from tests.micro import ENCODER, random_params

TINY = {
  'size': 32,
  'frames': 2,
  'dtype': 'float32',
  'model.heads': 2,
  'model.groups': 8,
  'model.temporal_heads': 2,
  'model.temporal_groups': 8,
  'model.audio_head_features': 4,
  'latents.widths': (32, 32),
  'windows.frames': 4,
  'windows.overlap': 1,
  'sampler.steps': 1,
}
# What the shapes in the files determine.
SIZES = {
  'model.widths': (16, 32),
  'model.attention': (True, False),
  'model.layers': 1,
  'model.context': 12,
  'model.guider': (8, 16),
  'model.audio_tokens': 3,
  'model.audio_features': 8,
  'model.audio_layers': 1,
  'model.audio_heads': 2,
  'model.audio_expansion': 2,
}


def make_config(arguments, **changes):
  config = config_file.get_config(arguments)
  if config.audio.kind == 'wav2vec2':
    config.audio.wav2vec2 = {**ENCODER, 'layers': 1}
  config.update_from_flattened_dict({**TINY, **changes})
  return config


def as_published(tree) -> dict[str, np.ndarray]:
  """A tree of parameters under PyTorch's names and in its layouts."""
  state = {}
  for path, value in jax.tree_util.tree_leaves_with_path(tree):
    *parts, leaf = (k.key for k in path)
    name = '.'.join(re.sub(r'_(\d+)(?=_|$)', r'.\1', p) if '1_5' not in p else p for p in parts)
    name = re.sub(r'\.(\d+)_', r'.\1.', name).replace('mid_block_', 'mid_block.')
    array = np.asarray(value, np.float32)
    if leaf == 'kernel':
      array = array.transpose(array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))
      if name.endswith(('attentions.0.proj_in', 'attentions.0.proj_out', 'conv_shortcut', 'quant_conv')):
        array = array[..., None, None]
    kind = leaf if leaf in ('bias', 'latents') else 'weight'
    state[f'{name}.{kind}'.lstrip('.')] = array
  return state


@pytest.fixture(scope='module')
def made():
  """Random parameters of a small vexpress, none of them zero."""
  config = make_config('paper,stage=3', **SIZES)
  nets, example = model.make_networks(config), published.batch(config)
  shapes = jax.eval_shape(lambda rng: networks.init(rng, example, nets=nets), jax.random.key(0))
  return jax.tree.map(np.asarray, random_params(shapes))


@pytest.fixture
def folder(made, tmp_path):
  """The published folder, with entries that are of no use here."""
  ours = {part: as_published(made[part]) for part in published.FILES}
  motion = {k: v for k, v in ours['backbone'].items() if 'motion_modules' in k}
  inside = 'down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0'
  motion[f'{inside}.pos_encoder.pe'] = np.zeros((1, 20, 16), np.float32)
  # The denoising U-Net is saved whole, with motion modules that the other file replaces.
  whole = {k: np.zeros_like(v) if k in motion else v for k, v in ours['backbone'].items()}
  reference = {**ours['reference'], 'conv_out.weight': np.ones((4, 16, 3, 3)), 'conv_out.bias': np.ones(4)}
  reference = {k: v.astype(np.float32) for k, v in reference.items()}
  root = tmp_path / 'model_ckpts'
  for name, state in (
    ('v-express/denoising_unet.bin', whole),
    ('v-express/motion_module.bin', motion),
    ('v-express/reference_net.bin', reference),
    ('v-express/v_kps_guider.bin', ours['guider']),
    ('v-express/audio_projection.bin', ours['audio']),
    ('sd-vae-ft-mse/diffusion_pytorch_model.bin', as_published(made['autoencoder'])),
    ('wav2vec2-base-960h/pytorch_model.bin', as_published(made['wav2vec2'])),
  ):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    torch_file.save(root / name, state)
  return root


def test_every_parameter_comes_back(made, folder, tmp_path):
  config = make_config(published.ARGUMENTS)
  notes = convert.convert('vexpress', folder, str(tmp_path / 'out'), config)
  saved, params, _ = checkpoint.load_params(tmp_path / 'out')
  jax.tree.map(np.testing.assert_array_equal, params, made)
  for key, value in SIZES.items():
    part = saved.to_dict()['model'][key.removeprefix('model.')]
    assert (tuple(part) if isinstance(value, tuple) else part) == value, key
  assert saved.model.max_frames == 20 and saved.margin == 2
  assert config_file.get_config(published.ARGUMENTS).fps == 25 and saved.fps == 30  # the rate that they were trained at
  backbone, reference = (next(n for n in notes if n.startswith(part)) for part in ('backbone', 'reference'))
  assert 'denoising_unet.bin and motion_module.bin' in backbone and 'ignored: positional encodings' in backbone
  assert 'ignored: conv_out.bias, conv_out.weight' in reference


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
  jax.tree.map(np.testing.assert_array_equal, params['wav2vec2'], made['wav2vec2'])
  assert not np.any(block['attn2']['to_out_0']['kernel']) and np.any(block['attn2']['to_q']['kernel'])
  moved = 'down_blocks_0_motion_modules_0_temporal_transformer'
  jax.tree.map(np.testing.assert_array_equal, params['backbone'][moved], made['backbone'][moved])
  (folder / 'pose_guider.pth').unlink()
  with pytest.raises(UserError, match=r'missing pose_guider\.pth'):
    convert.convert('moore', folder, str(tmp_path / 'b'), make_config(moore.ARGUMENTS, **small))

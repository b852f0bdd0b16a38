"""Published ADM U-Nets, classifiers and MM-Diffusion's networks: sizes from shapes, heads, files, what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax import convert
from talkjax.errors import UserError
from talkjax.nn.coupled_unet import CoupledUNet
from talkjax.nn.guided_unet import NoisyClassifier
from talkjax.nn.unet import UNet
from talkjax.training import checkpoint
from talkjax.weights import adm, guided_diffusion, mm_diffusion
from tests import torch_file
from tests.micro import random_params
from tests.published_files import adm_state, as_published

FIELDS = {'width': 32, 'multipliers': (1, 2, 2), 'attention_downsamples': (2, 4), 'num_res_blocks': 2}
SMALL = {'width': 32, 'multipliers': (1, 2), 'attention_downsamples': (2,), 'num_res_blocks': 1}
COUPLED = {'width': 32, 'multipliers': (1, 2), 'num_res_blocks': 1, 'video_attention': (2,), 'cross_attention': (2,)}
COUPLED |= {'windows': (2,), 'middle_window': None, 'heads': 2, 'head_channels': 16}
FLAGS = {'num_heads': 2, 'num_head_channels': 16, 'cross_attention_windows': '2'}


def unet_state(seed=0, **fields):
  """Entries of a published U-Net with these fields."""
  net = UNet(**fields, noise_embedding='timestep')
  labels = jnp.zeros(1, jnp.int32) if net.num_classes else None
  side = 2 ** (len(net.multipliers) - 1)
  init = lambda key: net.init(key, jnp.zeros((1, side, side, 3)), jnp.zeros(1), labels=labels)
  shapes = jax.eval_shape(init, jax.random.key(0))['params']
  return adm_state(shapes, adm.layer_names(fields), np.random.default_rng(seed))


def classifier_state(**fields):
  state = unet_state(**fields, decoder=False)
  r, c = np.random.default_rng(1), fields['width'] * fields['multipliers'][-1]
  shapes = {'out.0.weight': (c,), 'out.0.bias': (c,), 'out.2.positional_embedding': (c, 17)}
  shapes |= {'out.2.qkv_proj.weight': (3 * c, c, 1), 'out.2.qkv_proj.bias': (3 * c,)}
  shapes |= {'out.2.c_proj.weight': (5, c, 1), 'out.2.c_proj.bias': (5,)}
  return state | {name: r.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(
  'fields',
  [
    {'num_classes': 7, 'out_channels': 6},
    {'scale_shift': False},
    {'resize_blocks': False},
    {'multipliers': (0.5, 1, 2), 'width': 64, 'attention_downsamples': (4,)},
    {'decoder': False},
    {'decoder': False, 'num_res_blocks': 4, 'multipliers': (1, 2), 'attention_downsamples': (2,)},
    {'decoder': False, 'resize_blocks': False, 'num_res_blocks': 1},
  ],
)
def test_sizes_are_inferred(fields):
  fields = FIELDS | fields
  inferred = adm.infer_fields(unet_state(**fields), 'x')
  assert {k: inferred[k] for k in fields} == fields
  assert inferred['num_classes'] == fields.get('num_classes')


def test_rows_of_heads_are_reordered_only_where_they_are_legacy():
  state = unet_state(**SMALL)
  flags = {'num_head_channels': 16}
  rows = state['middle_block.1.qkv.weight'][48 + 16 : 48 + 32, :, 0]  # the second head's keys
  legacy = guided_diffusion.convert(state, flags, 'x')[0]['middle_attention']['qkv']['kernel']
  np.testing.assert_array_equal(legacy[:, 64 + 16 : 64 + 32], rows.T)
  new = guided_diffusion.convert(state, flags | {'use_new_attention_order': True}, 'x')[0]
  np.testing.assert_array_equal(new['middle_attention']['qkv']['kernel'], state['middle_block.1.qkv.weight'][..., 0].T)
  # Heads by number, others in the decoder: of 64 channels 4 and 2.
  two = guided_diffusion.convert(state, {'num_heads': 4, 'num_heads_upsample': 2}, 'x')
  assert two[1]['heads'] == (4, 2)
  rows = state['output_blocks.0.1.qkv.weight'][96 + 32 : 96 + 64, :, 0]
  np.testing.assert_array_equal(two[0]['up_1_attention_0']['qkv']['kernel'][:, 64 + 32 : 128], rows.T)


def test_a_released_file_becomes_a_workdir(tmp_path):
  torch_file.save(tmp_path / '64x64_classifier.pt', classifier_state(**SMALL | {'width': 64}))
  convert.convert('guided_diffusion', tmp_path, str(tmp_path / 'out'))
  config, params, _ = checkpoint.load_params(tmp_path / 'out')
  net = guided_diffusion.network(config.guided_diffusion.to_dict())
  assert isinstance(net, NoisyClassifier) and net.num_classes == 5 and net.unet.head_channels == 64
  logits = jax.eval_shape(net.apply, {'params': params}, jnp.zeros((2, 8, 8, 3)), jnp.zeros(2))
  assert logits.shape == (2, 5)


@pytest.mark.parametrize(
  ('change', 'flags', 'sentence'),
  [
    ({}, {'num_head_channels': 24}, '24 does not divide the 64 channels of input_blocks'),
    ({}, {'num_heads': 'four'}, "the flag num_heads is 'four': expected a whole number"),
    ({}, {'heads': 4}, 'has none of the flags num_head_channels, num_heads'),
    ({}, None, r'not all settings of .*model\.pt are in its shapes: write a config\.json'),
    ({'more.weight': np.ones(3, np.float32)}, {'num_heads': 4}, r'has unexpected entries: more\.weight'),
    ({'middle_block.1.norm.bias': None}, {'num_heads': 4}, 'lacks middle_attention/norm/bias'),
    ({'time_embed.0.weight': None}, {'num_heads': 4}, 'is no ADM U-Net: expected entries like time_embed'),
  ],
)
def test_what_does_not_fit_is_said(tmp_path, change, flags, sentence):
  state = {k: v for k, v in {**unet_state(**SMALL), **change}.items() if v is not None}
  torch_file.save(tmp_path / 'model.pt', state)
  if flags is not None:
    (tmp_path / 'config.json').write_text(json.dumps(flags))
  with pytest.raises(UserError, match=sentence):
    convert.convert('guided_diffusion', tmp_path / 'model.pt', str(tmp_path / 'out'))
  assert not (tmp_path / 'out').exists()


def coupled():
  """The parameters of a small coupled U-Net, and their published entries."""
  params = random_params(mm_diffusion.parameter_shapes(CoupledUNet(**COUPLED)))
  return params, as_published(params)


def test_a_coupled_unet_becomes_a_workdir(tmp_path):
  params, state = coupled()
  torch_file.save(tmp_path / 'fine_tuned.pt', state)
  (tmp_path / 'config.json').write_text(json.dumps(FLAGS))
  convert.convert('mm_diffusion', tmp_path / 'fine_tuned.pt', str(tmp_path / 'out'))
  config, loaded, _ = checkpoint.load_params(tmp_path / 'out')
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  net = mm_diffusion.network(config.mm_diffusion.to_dict())
  assert {name: getattr(net, name) for name in COUPLED} == COUPLED


def test_super_resolution_is_an_adm_unet(tmp_path):
  torch_file.save(tmp_path / 'landscape_SR.pt', unet_state(**SMALL, out_channels=6))
  convert.convert('mm_diffusion', tmp_path / 'landscape_SR.pt', str(tmp_path / 'out'))
  config, _, _ = checkpoint.load_params(tmp_path / 'out')
  net = mm_diffusion.network(config.mm_diffusion.to_dict())
  assert isinstance(net, UNet) and net.heads == (4, 4) and net.out_channels == 6


@pytest.mark.parametrize(
  ('flags', 'drop', 'sentence'),
  [
    ({'cross_attention_windows': '1,4,8'}, '', 'at 1 levels, but cross_attention_windows has 3 numbers'),
    ({'cross_attention_windows': 'all'}, '', 'the flags of .* cannot be read'),
    ({'num_head_channels': 48}, '', 'heads of 48 do not divide the channels of'),
    ({}, 'time_embed.0.weight', 'is no coupled U-Net of MM-Diffusion'),
    ({}, 'audio_out.0.GroupNorm.weight', 'lacks audio_out_0_GroupNorm/scale'),
  ],
)
def test_other_coupled_networks_are_refused(flags, drop, sentence):
  state = {name: array for name, array in coupled()[1].items() if name != drop}
  with pytest.raises(UserError, match=sentence):
    mm_diffusion.convert(state, FLAGS | flags, 'x')

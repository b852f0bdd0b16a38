"""Published state dicts as parameters: names, layouts, old spellings, and wrong files."""

import dataclasses
import json
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from talkjax import convert
from talkjax.errors import UserError
from talkjax.nn.autoencoder import Autoencoder
from talkjax.nn.lpips import LPIPS
from talkjax.nn.resnet import ResNet
from talkjax.nn.wav2vec2 import Wav2Vec2
from talkjax.training import checkpoint
from talkjax.weights import autoencoders, pretrained, vqgan
from talkjax.weights.fit import fit
from tests import published_files, torch_file

SHAPES = {
  'blocks_0_resnets_1': {'conv1': {'kernel': (3, 3, 2, 4), 'bias': (4,)}, 'conv_shortcut': {'kernel': (2, 4)}},
  'norm': {'scale': (4,), 'bias': (4,)},
}
WANTED = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, jnp.float32), SHAPES, is_leaf=lambda s: isinstance(s, tuple))


def state(**changes):
  r = np.random.default_rng(0)
  shapes = {
    'blocks.0.resnets.1.conv1.weight': (4, 2, 3, 3),
    'blocks.0.resnets.1.conv1.bias': (4,),
    'blocks.0.resnets.1.conv_shortcut.weight': (4, 2, 1, 1),
    'norm.weight': (4,),
    'norm.bias': (4,),
  } | changes
  return {k: r.normal(size=s).astype(np.float16) for k, s in shapes.items() if s}


def test_layouts():
  made = state()
  params = fit(made, WANTED, 'x')
  block = params['blocks_0_resnets_1']
  np.testing.assert_array_equal(block['conv1']['kernel'][1, 2, 0], made['blocks.0.resnets.1.conv1.weight'][:, 0, 1, 2])
  np.testing.assert_array_equal(
    block['conv_shortcut']['kernel'], made['blocks.0.resnets.1.conv_shortcut.weight'][:, :, 0, 0].T
  )
  np.testing.assert_array_equal(params['norm']['scale'], made['norm.weight'])
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(params))


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'norm.bias': None}, r'lacks norm/bias: it is of another network'),
    ({'norm.more': (4,)}, r'has unexpected entries: norm\.more'),
    ({'norm.weight': (5,)}, r'norm\.weight is \[5\], which does not fit norm/scale \[4\]'),
  ],
)
def test_what_does_not_fit_is_named(changes, sentence):
  with pytest.raises(UserError, match=sentence):
    fit(state(**changes), WANTED, 'x')


def test_tables_are_left_out():
  fit(state(**{'norm.pos_encoder.pe': (1, 24, 4)}), WANTED, 'x', ignored=r'pos_encoder\.pe$')


def test_old_names_of_attention():
  old = {f'encoder.mid_block.attentions.0.{n}.weight': np.zeros(1) for n in ('query', 'key', 'value', 'proj_attn')}
  assert sorted(pretrained.autoencoder_state(old)) == [
    f'encoder.mid_block.attentions.0.{n}.weight' for n in ('to_k', 'to_out.0', 'to_q', 'to_v')
  ]


def test_names_of_motion_modules():
  ours = 'up_blocks.1.motion_modules.0.temporal_transformer.'
  block = f'{ours}transformer_blocks.0.'
  wanted = [
    f'{ours}norm.bias',
    f'{block}attention_blocks.1.to_out.0.bias',
    f'{block}ff.net.0.proj.bias',
    f'{block}ff_norm.bias',
    f'{block}norms.0.bias',
  ]
  adapter = 'up_blocks.1.motion_modules.0.'
  inside = f'{adapter}transformer_blocks.0.'
  names = ['attn2.to_out.0.bias', 'ff.net.0.proj.bias', 'norm3.bias', 'norm1.bias', 'pos_embed.pe']
  of_diffusers = [f'{adapter}norm.bias', *(inside + name for name in names)]
  as_published = ['module.' + name for name in wanted] + [f'{block}attention_blocks.0.pos_encoder.pe']
  for state in (of_diffusers, as_published, ['animatediff_config', *as_published]):
    assert list(pretrained.motion_state(dict.fromkeys(state))) == wanted


@pytest.mark.parametrize(
  'names', [('weight_g', 'weight_v'), ('parametrizations.weight.original0', 'parametrizations.weight.original1')]
)
def test_weight_normalisation_is_multiplied_out(names):
  r = np.random.default_rng(0)
  gain, direction = r.normal(size=(1, 1, 8)), r.normal(size=(4, 2, 8))
  conv = 'wav2vec2.encoder.pos_conv_embed.conv.'
  made = pretrained.wav2vec2_state(
    {conv + names[0]: gain, conv + names[1]: direction, 'lm_head.bias': gain, 'wav2vec2.masked_spec_embed': gain}
  )
  assert list(made) == ['encoder.pos_conv_embed.conv.weight']
  for k in range(8):
    column = direction[:, :, k]
    np.testing.assert_allclose(
      made['encoder.pos_conv_embed.conv.weight'][:, :, k], gain[0, 0, k] * column / np.linalg.norm(column)
    )


def test_a_folder_without_weights(tmp_path):
  with pytest.raises(UserError, match='holds no weights of sd15: expected a file, or a folder with unet/diffusion'):
    convert.convert('sd15', tmp_path, str(tmp_path / 'out'))
  assert not (tmp_path / 'out').exists()


def test_the_sizes_of_wav2vec2_are_those_of_its_published_config(tmp_path):
  """As of wav2vec2-large-xlsr; without one they are those of the base model."""
  published = {'hidden_size': 1024, 'num_hidden_layers': 24, 'num_attention_heads': 16, 'intermediate_size': 4096}
  published |= {'conv_dim': [512] * 7, 'conv_bias': True, 'feat_extract_norm': 'layer', 'do_stable_layer_norm': True}
  assert pretrained.wav2vec2_fields(tmp_path / 'model.safetensors') == {}
  (tmp_path / 'config.json').write_text(json.dumps({**published, 'vocab_size': 32}))
  net = Wav2Vec2(**pretrained.wav2vec2_fields(tmp_path / 'model.safetensors'))
  assert (net.width, net.layers, net.heads, net.hidden) == (1024, 24, 16, 4096)
  assert (net.conv_widths, net.conv_bias, net.conv_norm, net.stable) == ((512,) * 7, True, 'layer', True)
  (tmp_path / 'config.json').write_text('no JSON')
  with pytest.raises(UserError, match='is not the config of a wav2vec 2.0 model'):
    pretrained.wav2vec2_fields(tmp_path / 'model.safetensors')


@pytest.mark.parametrize(
  ('name', 'key', 'value'),
  [
    ('config.json', 'hidden_act', 'relu'),
    ('preprocessor_config.json', 'do_normalize', False),
    ('preprocessor_config.json', 'sampling_rate', 8000),
  ],
)
def test_a_wav2vec2_with_other_input_or_activations_is_refused(name, key, value, tmp_path):
  for right in ({}, {key: pretrained._WAV2VEC2_FIXED[name][key]}):
    (tmp_path / name).write_text(json.dumps(right))
    assert pretrained.wav2vec2_fields(tmp_path / 'model.safetensors') == {}
  (tmp_path / name).write_text(json.dumps({key: value}))
  with pytest.raises(UserError, match=f'{name} has {key}={value}: only models with '):
    pretrained.wav2vec2_fields(tmp_path / 'model.safetensors')


def test_networks_of_scores_are_imported_by_name(monkeypatch):
  """With the prefix of a data-parallel module; counters and unused heads are left out, what is missing is named."""
  net = ResNet((1,), width=2)
  params = net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))['params']
  params = jax.tree.map(lambda x: np.random.default_rng(x.size).normal(size=x.shape).astype(np.float32), params)
  state = published_files.as_published(params)
  more = {f'module.{k}': v for k, v in state.items()} | {'module.bn1.num_batches_tracked': np.array(3)}
  monkeypatch.setitem(pretrained.SCORING, 'hopenet', (net, (1, 32, 32, 3)))
  for made in (state, more, more | {'fc.weight': np.zeros((3, 8))}):
    jax.tree.map(np.testing.assert_array_equal, pretrained.scoring(made, 'x', source='hopenet'), params)
  with pytest.raises(UserError, match='x lacks bn1/running_var'):
    pretrained.scoring({k: v for k, v in state.items() if k != 'bn1.running_var'}, 'x', source='hopenet')


def test_a_torchscript_program_is_not_run(tmp_path):
  with zipfile.ZipFile(tmp_path / 'i3d_torchscript.pt', 'w') as archive:
    for name in ('data.pkl', 'constants.pkl', 'code/__torch__/i3d.py'):
      archive.writestr(f'i3d/{name}', pickle.dumps({}))
  with pytest.raises(UserError, match='is a TorchScript program, and no code is executed: give the state dict'):
    convert.convert('i3d', tmp_path / 'i3d_torchscript.pt', str(tmp_path / 'out'))
  assert not (tmp_path / 'out').exists()


def taming_state(attention=True, codebook=True):
  """A small state dict in the layout of VQGAN, with entries of its training."""
  net = Autoencoder((32, 64), 3, 1, attention=(False, attention), codebook=5 * codebook)
  shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 4, 4, 3)))['params']
  r = np.random.default_rng(0)
  names = {'down_blocks_0_resnets_0': 'down.0.block.0', 'down_blocks_1_resnets_0': 'down.1.block.0'}
  names |= {f'up_blocks_{b}_resnets_{i}': f'up.{1 - b}.block.{i}' for b in range(2) for i in range(2)}
  names |= {'down_blocks_0_downsamplers_0': 'down.0.downsample', 'up_blocks_0_upsamplers_0': 'up.1.upsample'}
  names |= {'down_blocks_1_attentions_0': 'down.1.attn.0'}
  names |= {f'up_blocks_0_attentions_{i}': f'up.1.attn.{i}' for i in range(2)}
  names |= {'mid_block_resnets_0': 'mid.block_1', 'mid_block_resnets_1': 'mid.block_2'}
  names |= {'mid_block_attentions_0': 'mid.attn_1', 'conv_norm_out': 'norm_out', 'conv_shortcut': 'nin_shortcut'}
  names |= {'quantize_embedding': 'quantize.embedding', 'group_norm': 'norm', 'to_out_0': 'proj_out'}
  names |= {'to_q': 'q', 'to_k': 'k', 'to_v': 'v', 'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}
  state = {'loss.logvar': np.zeros(()), 'loss.discriminator.main.0.weight': np.zeros((4, 3, 4, 4))}
  for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
    joined = '/'.join(k.key for k in path).replace('mid_block/', 'mid_block_').replace('_group_norm', '/group_norm')
    name = '.'.join(names.get(part, part) for part in joined.split('/'))
    shape = leaf.shape
    if path[-1].key == 'kernel':
      shape = (*shape[:-3:-1], *(shape[:2] if len(shape) == 4 else (1, 1)))
    state[name] = r.normal(size=shape).astype(np.float32)
  return state, net


@pytest.mark.parametrize('prefix', ['', 'first_stage_model.'])
@pytest.mark.parametrize(('attention', 'codebook'), [(True, True), (False, True), (False, False)])
def test_vqgan_by_its_shapes(attention, codebook, prefix, tmp_path):
  """Also where it is a part of a latent diffusion model; the workdir says which sizes it has."""
  state, net = taming_state(attention, codebook)
  published = {prefix + k: v for k, v in state.items()} | ({'model.x.weight': np.zeros(3)} if prefix else {})
  safetensors.numpy.save_file(published, tmp_path / 'model.safetensors')
  convert.convert('vqgan', tmp_path / 'model.safetensors', str(tmp_path / 'out'))
  config, params, _ = checkpoint.load_params(tmp_path / 'out')
  made = autoencoders.network(config.vqgan)
  wanted = dataclasses.replace(net, scaling=1.0, inner_channels=3, attention=(False, attention))
  assert made == wanted
  kernel = state['encoder.down.1.block.0.conv1.weight']
  np.testing.assert_array_equal(
    params['encoder']['down_blocks_1_resnets_0']['conv1']['kernel'][1, 2], kernel[:, :, 1, 2].T
  )
  coarse = state['decoder.up.1.block.1.conv2.bias']
  np.testing.assert_array_equal(params['decoder']['up_blocks_0_resnets_1']['conv2']['bias'], coarse)


def test_what_is_not_vqgan():
  with pytest.raises(UserError, match=r'x lacks .*: it is not an autoencoder in the layout of VQGAN'):
    vqgan.fields({'encoder.down.0.x': np.zeros(1)}, 'x')


def test_lpips_needs_its_trunk(tmp_path):
  """Published in two files, which may also be one."""
  wanted = jax.eval_shape(LPIPS().init, jax.random.key(0), *[jnp.zeros((1, 32, 32, 3))] * 2)['params']
  state = {}
  for layer, leaves in wanted.items():
    for leaf, x in leaves.items():
      name = layer.replace('_', '.') + ('.weight' if leaf == 'kernel' else '.bias')
      shape = x.shape if leaf == 'bias' else (1, x.shape[0], 1, 1) if 'lin' in layer else x.shape[::-1]
      state[name] = np.full(shape, 0.5, np.float32)
  heads = {k: v for k, v in state.items() if k.startswith('lin')}
  trunk = {k: v for k, v in state.items() if k not in heads} | {'classifier.1.weight': np.zeros((2, 2), np.float32)}
  save = lambda name, state: torch_file.save(tmp_path / name, {k: torch_file.Tensor(x) for k, x in state.items()})
  save('alex.pth', heads)
  with pytest.raises(UserError, match='alex.pth has the heads of LPIPS only: put .* alexnet-owt-7be5be79.pth'):
    convert.convert('lpips', tmp_path, str(tmp_path / 'out'))
  save('alexnet-owt-7be5be79.pth', trunk)
  convert.convert('lpips', tmp_path, str(tmp_path / 'out'))
  _, params, _ = checkpoint.load_params(tmp_path / 'out')
  assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, wanted)

"""Golden cases of MM-Diffusion's coupled U-Net and its blocks, with every stored activation."""

import jax
import jax.numpy as jnp
import numpy as np

from golden_cases.unet import thin
from talkjax.nn.coupled_blocks import CrossAttention, ResBlock
from talkjax.nn.coupled_unet import CoupledUNet
from talkjax.weights import mm_diffusion
from talkjax.weights.fit import fit


def channels_last(x) -> jnp.ndarray:
  """Video [b, f, c, h, w] or audio [b, c, s] -> [b, f, h, w, c] or [b, s, c]."""
  return jnp.moveaxis(jnp.asarray(x), 2 if x.ndim == 5 else 1, -1)


def as_stored(x) -> np.ndarray:
  """The inverse of `channels_last`."""
  return np.moveaxis(np.asarray(x), -1, 2 if x.ndim == 5 else 1)


def _pair(name, pair) -> dict[str, np.ndarray]:
  return {f'{name}_video': as_stored(pair[0]), f'{name}_audio': as_stored(pair[1])}


def _run(case, prefix, net, *args):
  """The outputs of one of the case's modules, and of the modules in it."""
  state = {n.removeprefix(f'{prefix}.'): a for n, a in case.state.items() if n.startswith(f'{prefix}.')}
  wanted = jax.eval_shape(lambda key: net.init(key, *args), jax.random.key(0))['params']
  params = fit(state, wanted, f'{case.name} {prefix}')
  pair, made = jax.jit(lambda p: net.apply({'params': p}, *args, capture_intermediates=True))(params)
  return pair, made['intermediates']


def blocks(case):
  """A residual block with attention, attention between the modalities, and blocks that resize, in a chain."""
  c, inputs = case.config, case.inputs
  width, heads, cross = c['out_channels'], c['num_heads'], c['cross']
  conditions = jax.nn.silu(jnp.asarray(inputs['emb'])), None, False
  shift = jnp.asarray(inputs['shift'])[0] if cross['window_shift'] else None
  head_channels = cross['num_head_channels']
  head_channels = width // cross['num_heads'] if head_channels == -1 else head_channels

  def block(prefix, pair, resize=None, video=0, audio=0):
    # The case says the dilation of its first block only; that of the others is the one that gives the stored audio.
    made = []
    for dilation in (c['audio_dilation'],) if resize is None else (1, 2, 4, 8, 16):
      net = ResBlock(width, dilation, resize, video, audio, c['use_scale_shift_norm'])
      made.append(_run(case, prefix, net, *pair, *conditions))
    error = lambda made: np.abs(as_stored(made[0][1]) - case.outputs[f'{prefix}_audio']).max()
    return min(made, key=error) if resize else made[0]

  pair = channels_last(inputs['video']), channels_last(inputs['audio'])
  res, made = block('res', pair, None, heads * c['video_attention'], heads * c['audio_attention'])
  attention = lambda window: CrossAttention(window, head_channels)
  down, _ = block('down', res, 'downsample')
  first = made['video_in_layers_2']['__call__'][0], made['audio_in_layers_2_audio_conv']['__call__'][0]
  outputs = _pair('res', res) | _pair('res_in', first) | _pair('down', down)
  outputs |= _pair('cross', _run(case, 'cross', attention(cross['local_window']), *res, shift)[0])
  # The second is like the middle block's: its window is all frames.
  outputs |= _pair('cross0', _run(case, 'cross0', attention(res[0].shape[1]), *res)[0])
  return outputs | _pair('up', block('up', down, 'upsample')[0]) | _before_attention(case, pair, conditions)


def _before_attention(case, pair, conditions):
  """The residual block's video without the layers of attention."""
  c = case.config
  plain = {n: a for n, a in case.state.items() if n.startswith('res.') and '_attention_block.' not in n}
  net = ResBlock(c['out_channels'], c['audio_dilation'], scale_shift=c['use_scale_shift_norm'])
  wanted = jax.eval_shape(lambda key: net.init(key, *pair, *conditions), jax.random.key(0))['params']
  params = fit({n.removeprefix('res.'): a for n, a in plain.items()}, wanted, case.name)
  return _pair('res_before_attention', net.apply({'params': params}, *pair, *conditions))


def unet(case):
  """Predicted noise of both modalities, and the output of every block."""
  fields = mm_diffusion.fields(case.config)
  net, inputs = CoupledUNet(**fields), case.inputs
  inferred = mm_diffusion.infer_fields(case.state, case.name)
  assert inferred == {name: fields[name] for name in inferred}
  params = mm_diffusion.coupled_unet(case.state, net, case.name)
  pair = channels_last(inputs['video']), channels_last(inputs['audio'])
  shifts = jnp.asarray(inputs['shift']) if 'shift' in inputs else net.draw_shifts(jax.random.key(0), pair[0].shape[1])

  @jax.jit
  def run(params):
    args = *pair, jnp.asarray(inputs['t']), shifts
    return net.apply({'params': params}, *args, capture_intermediates=True)

  (video, audio), state = run(params)
  made = {name: calls['__call__'][0] for name, calls in state['intermediates'].items() if '__call__' in calls}
  made['input_blocks_0_0'] = made['input_blocks_0_0_video_conv'], made['input_blocks_0_0_audio_conv_audio_conv']
  outputs = {'video': as_stored(video), 'audio': as_stored(audio), 'act_emb': np.asarray(made['time_embed_2'])}
  for name in case.outputs:
    block, _, kind = name.removeprefix('act_').rpartition('_')
    if block:  # a block's output is that of its last module
      last = next(made[f'{block}_{i}'] for i in reversed(range(3)) if f'{block}_{i}' in made)
      outputs[name] = thin(as_stored(last[kind == 'audio']), case.json['outputs'][name])
  return outputs


CHECKS = {'mm_diffusion_blocks': blocks, 'mm_diffusion_unet': unet}

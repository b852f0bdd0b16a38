"""Golden cases of V-Express: conditions, both U-Nets, schedule, windows and the whole sampling loop."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np

from configs import vexpress as config_file
from golden_cases.latent import activations, unet_fields
from golden_cases.unet import nchw, nhwc
from talkjax.diffusion import samplers, schedules, windows
from talkjax.errors import UserError
from talkjax.faces import keypoints
from talkjax.nn.audio_projection import Resampler, frame_windows
from talkjax.nn.conv import Conv3x3
from talkjax.nn.guider import Guider
from talkjax.nn.latent_unet import Conditioning, LatentUNet, Temporal
from talkjax.nn.norm import GroupNorm
from talkjax.systems.audio import AudioFeatures, Sound
from talkjax.systems.portrait import networks
from talkjax.systems.portrait.latents import FoldedLatents
from talkjax.systems.sampling import make_table
from talkjax.systems.vexpress import conditions, generation, model, published
from talkjax.weights.fit import fit


def frames_first(x):
  """N, C, F, H, W -> (N F), H, W, C."""
  x = jnp.asarray(x).transpose(0, 2, 3, 4, 1)
  return x.reshape(-1, *x.shape[2:])


def frames_inside(x, n):
  """(N F), H, W, C -> N, C, F, H, W."""
  x = np.asarray(x)
  return x.reshape(n, -1, *x.shape[1:]).transpose(0, 4, 1, 2, 3)


def part(state, prefix):
  """The entries of one of several networks in a state dict."""
  return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def resampler(config) -> Resampler:
  return Resampler(
    config['dim'],
    config['output_dim'],
    config['num_queries'],
    config['depth'],
    config['heads'],
    config['dim_head'],
    config['ff_mult'],
    config['max_seq_len'],
  )


def audio_projection(case):
  net, x = resampler(case.config), jnp.asarray(case.inputs['audio'])
  params = fit(case.state, jax.eval_shape(net.init, jax.random.key(0), x)['params'], case.name)
  tokens, state = jax.jit(lambda p: net.apply({'params': p}, x, capture_intermediates=True))(params)
  made = activations(state)
  ends = {'0': '_to_out', '1': '_3'}  # a layer's output is that of its last module
  outputs = {'tokens': tokens}
  for name in case.outputs:
    if name.startswith('act.'):
      path = name.removeprefix('act.').replace('.', '_')
      outputs[name] = made[path + ends[path[-1]] if path.startswith('layers') else path]
  return outputs


def resampled(states: np.ndarray, frames: int) -> np.ndarray:
  """States spread over frames as with `compat` 'published'."""
  settings = config_file.get_config('paper,stage=3').audio
  features = AudioFeatures(settings, None, per_frame=2, stretched=True)
  return features.of_states(np.asarray(states), Sound(np.zeros(0), frames, 25.0))


def audio_windows(case):
  margin, outputs = case.config['num_pad_audio_frames'], {}
  for name, x in case.inputs.items():
    of = name.removeprefix('embeddings_')
    frames = resampled(x[0], int(of.split('_')[1]))
    around = frame_windows(jnp.pad(frames, ((margin, margin), (0, 0)))[None], margin)[0]
    outputs[f'windows_{of}'] = around.reshape(len(around), -1, x.shape[-1])
  return outputs


def guider(config) -> Guider:
  return Guider(config['conditioning_embedding_channels'], tuple(config['block_out_channels']))


def kps_guider(case):
  net, x = guider(case.config), frames_first(case.inputs['kps_images'])
  n = len(case.inputs['kps_images'])
  params = fit(case.state, jax.eval_shape(net.init, jax.random.key(0), x)['params'], case.name)
  features, state = jax.jit(lambda p: net.apply({'params': p}, x, capture_intermediates=True))(params)
  made = activations(state)
  outputs = {k: made[k.removeprefix('act.').replace('.', '_')] for k in case.outputs if k.startswith('act.')}
  return {k: frames_inside(v, n) for k, v in {**outputs, 'features': features}.items()}


def kps_image(case):
  points, outputs = case.inputs['kps'], {}
  full = 512  # the size that the points are given in; others are halved
  for name, spec in case.json['outputs'].items():
    height, width = (int(v) for v in (name.removeprefix('image_').split('x') * 2)[:2])
    scale = 1 if height == full else 0.5
    drawn = [keypoints.draw(p * np.float32(scale), (height, width)) for p in points]
    outputs[name] = np.stack(drawn) if len(spec['shape']) == 4 else drawn[0]
  return outputs


def retarget(case):
  driving, reference = case.inputs['kps_sequence'], case.inputs['reference_kps']
  ours = {'no_retarget': 'none', 'fix_face': 'fix_face', 'offset_retarget': 'offset', 'naive_retarget': 'naive'}
  count = case.config['video_length']
  return {n: keypoints.retarget(driving, reference, count, ours[n], 'published') for n in case.config['strategies']}


def reference_net(case):
  net = LatentUNet(**unet_fields(case.config), head=False)
  x = nhwc(case.inputs['reference_latents'])
  default = np.zeros((len(x), 1, case.config['cross_attention_dim']), np.float32)
  conditioning = Conditioning({'text': jnp.asarray(case.inputs.get('encoder_hidden_states', default))})
  time = jnp.zeros(len(x))
  params = reference_params(net, case.state, x, conditioning, case.name)
  features = jax.jit(lambda p: net.apply({'params': p}, x, time, conditioning)[1])(params)
  outputs = {f'bank.{path}.transformer_blocks.0': features[name] for path, name in banks(case.outputs)}
  if 'sample' in case.outputs:  # V-Express does not use it: a convolution of the last block's output
    head = Conv3x3(case.config['out_channels'])
    last = features[f'up_blocks_{len(net.widths) - 1}_layers_{net.layers}']
    kernel, bias = case.state['conv_out.weight'].transpose(2, 3, 1, 0), case.state['conv_out.bias']
    outputs['sample'] = nchw(head.apply({'params': {'kernel': kernel, 'bias': bias}}, last))
  return outputs


def reference_params(net, state, x, conditioning, name):
  wanted = jax.eval_shape(net.init, jax.random.key(0), x, jnp.zeros(len(x)), conditioning)['params']
  return fit(state, wanted, name, ignored=r'^conv_out\.')


def banks(names):
  """(published path, ours) of every block whose features are stored."""
  for name in names:
    if match := re.fullmatch(r'bank\.(.*)\.transformer_blocks\.0', name):
      yield match[1], match[1].replace('.', '_')


def temporal(config) -> Temporal:
  kind = config['motion_module_kwargs']
  return Temporal(
    config['motion_module_mid_block'],
    kind['num_attention_heads'],
    kind['num_transformer_block'],
    len(kind['attention_block_types']),
    kind['temporal_position_encoding_max_len'],
    groups=32,  # independent of the U-Net's
  )


def denoising_unet(config) -> LatentUNet:
  return LatentUNet(**unet_fields(config), contexts=('reference', 'audio'), temporal=temporal(config))


def unet(case):
  inputs, net = case.inputs, denoising_unet(case.config)
  n, frames = inputs['sample'].shape[0], inputs['sample'].shape[2]
  x, time = frames_first(inputs['sample']), jnp.full(n, inputs['timestep'])
  reference = {ours: jnp.asarray(inputs[f'bank.{path}.transformer_blocks.0']) for path, ours in banks(inputs)}
  conditioning = Conditioning(
    {'reference': reference, 'audio': jnp.asarray(inputs['encoder_hidden_states'])},
    {name: case.config.get(f'{name}_attention_weight', 1.0) for name in ('reference', 'audio')},
    guide_features=frames_first(inputs['kps_features']),
  )
  initialise = lambda rng: net.init(rng, x, time, conditioning, frames)
  params = fit(case.state, jax.eval_shape(initialise, jax.random.key(0))['params'], case.name, r'pos_encoder\.pe$')
  run = jax.jit(lambda p: net.apply({'params': p}, x, time, conditioning, frames, capture_intermediates=True))
  (sample, _), state = run(params)
  made = activations(state)
  # Ours includes the SiLU.
  last = made[f'up_blocks_{len(net.widths) - 1}_motion_modules_{net.layers}_temporal_transformer']
  made['conv_norm_out'] = GroupNorm(net.groups, 1e-5).apply({'params': params['conv_norm_out']}, last)
  outputs = {'sample': frames_inside(sample, n)}
  for name, described in case.json['outputs'].items():
    if name.startswith('act.'):
      value = activation(made, name.removeprefix('act.'))
      outputs[name] = laid(value, described, n, frames)
  return outputs


def activation(made, name):
  """The output of a published module."""
  path = name.replace('.', '_')
  if name == 'time_embedding':
    return made['time_embedding_linear_2']
  if path.endswith('mid_block'):
    return made[f'{path}_resnets_1']
  if path in made:
    return made[path]
  # The output of a module around others is that of its last one.
  last = [f'{path}_{end}' for end in ('downsamplers_0', 'upsamplers_0', 'temporal_transformer')]
  last += [
    f'{path}_{kind}'
    for i in reversed(range(9))
    for kind in (f'motion_modules_{i}_temporal_transformer', f'attentions_{i}', f'resnets_{i}')
  ]
  return next(made[n] for n in last if n in made)


def laid(value, described, n, frames):
  """An activation of ours in the layout of a stored one."""
  layout, shape = described['layout'], described.get('full_shape', described['shape'])
  if layout == 'N,C,F,H,W':
    return frames_inside(value, n)
  if layout == '(N F),HW,C':
    c = value.shape[-1]
    if value.ndim == 3 and value.shape[1] == frames and list(value.shape) != shape:  # [n * pixels, f, c]
      value = value.reshape(n, -1, frames, c).swapaxes(1, 2)
    elif value.ndim == 4 and value.shape[2] == frames:  # [n, pixels, f, c]
      value = value.swapaxes(1, 2)
    return np.asarray(value).reshape(shape)
  return np.asarray(value)


def schedule_of(config) -> schedules.Schedule:
  ends = config['beta_start'], config['beta_end']
  zero_snr = config['rescale_betas_zero_snr']
  return schedules.make(config['beta_schedule'], config['num_train_timesteps'], *ends, zero_snr=zero_snr)


def table_of(config, steps) -> samplers.Table:
  return samplers.ddim(schedule_of(config), steps, spacing=config['timestep_spacing'], previous='stride')


def scheduler(case):
  config, inputs = case.config, case.inputs
  schedule = schedule_of(config)
  outputs = {
    'alphas_cumprod': schedule.alpha_bar,
    'betas': schedule.betas,
    'final_alpha_cumprod': np.float32(1.0 if config['set_alpha_to_one'] else schedule.alpha_bar[0]),
    'init_noise_sigma': np.float32(1.0),
  }
  for name in case.outputs:
    if match := re.fullmatch(r'timesteps_(\d+)', name):
      outputs[name] = table_of(config, int(match[1])).timestep.astype(int)
  table, x = table_of(config, config['num_inference_steps']), inputs['latents']
  # Which steps the stored ones are, only the outputs say.
  rows = [np.flatnonzero(table.timestep == t)[0] for t in case.outputs['step_timesteps']]
  outputs['step_timesteps'] = table.timestep[rows].astype(int)
  for i, (row, output) in enumerate(zip(rows, inputs['model_outputs'], strict=True)):
    x, steps = samplers.sample(
      lambda x, level, output=output: jnp.asarray(output),
      x,
      table.rows([row]),
      target=config['prediction_type'].replace('v_prediction', 'velocity'),
      trajectory=True,
    )
    outputs |= {f'prev_sample_{i}': x, f'pred_original_{i}': steps.x0[0]}
  return outputs


def window_plan(case):
  outputs = {}
  for name in case.outputs:
    if match := re.fullmatch(r'(windows|counts)_(\d+)_(\d+)_(\d+)', name):
      count, size, overlap = map(int, match.groups()[1:])
      frames = windows.frames_of_windows(count, size, overlap, 'published')
      outputs[name] = frames if match[1] == 'windows' else windows.coverage(frames, count)
  # What the stored predictions are of stands in their description alone.
  predictions = case.inputs['predictions']
  meaning = case.json['inputs']['predictions']['meaning']
  count, size, overlap = (
    int(re.search(rf'{what}', meaning)[1]) for what in (r'(\d+) frames', r'context (\d+)', r'overlap (\d+)')
  )
  for compat in ('paper', 'published'):  # the same where windows fit
    frames = windows.frames_of_windows(count, size, overlap, compat)
    merged = windows.merge(predictions.transpose(0, 2, 1, 3, 4), frames, count)
    outputs['merged'] = merged.swapaxes(0, 1)
  outputs['lengths'] = np.array([published_length(samples) for samples in case.inputs['audio_samples']])
  return outputs


def published_length(samples, size=24, overlap=4):
  try:
    return conditions.published_length(int(samples), size, overlap, published.FPS)
  except UserError:
    return (int(samples / 16_000 * published.FPS), -1, -1)


def pipeline(case):
  """The released sampling loop: portrait, tokens, V-Kps, guidance, windows, averages, steps."""
  c, inputs = case.config, case.inputs
  unet_config, margin = c['denoising_unet'], c['num_pad_audio_frames']
  config = config_file.get_config('paper,stage=3')
  config.windows.update(frames=c['context_frames'], overlap=c['context_overlap'], batch_size=2)
  config.update(compat='published', margin=margin, guidance=c['guidance_scale'])
  config.audio.kind = 'none'  # features are given
  config.context_scales.update(reference=c['reference_attention_weight'], audio=c['audio_attention_weight'])
  config.sampler.steps = c['num_inference_steps']
  nets = dataclasses.replace(
    model.make_networks(config),
    backbone=denoising_unet(unet_config),
    reference=LatentUNet(**unet_fields(c['reference_net']), head=False),
    guider=guider(c['v_kps_guider']),
    audio=resampler(c['audio_projection']),
    latents=FoldedLatents(1),  # latents are given
    text_channels=c['reference_net']['cross_attention_dim'],
  )
  portrait = nhwc(inputs['reference_latents'])
  frames = resampled(inputs['audio_embeddings'][0], c['video_length'])
  shapes = {'reference': portrait, 'kps': inputs['kps_images'][None, :1], 'audio': frames[None, : 2 * margin + 1]}
  wanted = jax.eval_shape(lambda rng: networks.init(rng, shapes, nets=nets), jax.random.key(0))
  names = {'reference': 'reference_net', 'backbone': 'denoising_unet', 'guider': 'v_kps_guider'}
  params = {}
  for name, tree in wanted.items():
    state = part(case.state, f'{names.get(name, "audio_projection")}.')
    ignored = r'^conv_out\.' if name == 'reference' else r'pos_encoder\.pe$'
    params[name] = fit(state, tree, f'{case.name} {name}', ignored)

  table = make_table(config, 'stride')
  sampler = generation.Sampler(nets, config, table)
  prepared = sampler.prepare(params, portrait * 127.5 + 127.5)  # it scales bytes to [-1, 1]
  start = np.asarray(frames_first(inputs['latents']))
  draw = lambda video, index: inputs['kps_images'][index]
  given = generation.Inputs(prepared, draw, [np.asarray(frames)], np.zeros(1, np.uint32), start=start)

  def run(table):
    sampler.table = table
    return np.asarray(generation.denoise(params, given, sampler=sampler)[0])[: c['video_length']]

  outputs = {'timesteps': table.timestep.astype(int), 'latents': frames_inside(run(table), 1)}
  for name in case.outputs:
    if match := re.fullmatch(r'latents_after_step_(\d+)', name):
      outputs[name] = frames_inside(run(table.rows(slice(0, int(match[1]) + 1))), 1)
  index = np.arange(c['context_frames'])
  features = generation.window_features(np.asarray(frames), c['video_length'], margin, nets.audio_features)
  outputs['audio_tokens'] = model.audio_contexts(params, jnp.asarray(features), nets)['audio']
  encoded = sampler.encode_windows(params, inputs['kps_images'][None, index], features[None, index])
  predictions = []
  for scale in (0, 1):  # without conditions, with them
    config.guidance = scale
    once = generation.Sampler(nets, config, table)
    x = start[None, index]
    predictions.append(once.predict(params, prepared, encoded, x, np.zeros(1, int), table.rows(0), {}))
  outputs['first_window_prediction'] = np.concatenate(predictions).transpose(0, 4, 1, 2, 3)
  return outputs


CHECKS = {
  'vexpress_audio_projection': audio_projection,
  'vexpress_audio_windows': audio_windows,
  'vexpress_kps_guider': kps_guider,
  'vexpress_kps_image': kps_image,
  'vexpress_retarget': retarget,
  'vexpress_reference_net': reference_net,
  'vexpress_unet': unet,
  'vexpress_scheduler': scheduler,
  'vexpress_windows': window_plan,
  'vexpress_pipeline': pipeline,
}

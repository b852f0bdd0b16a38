"""Our networks against those of diffusers and transformers: narrowed, with random weights, imported by name.

Golden cases hold what published modules once returned at their published sizes; here the modules run, so that other
sizes and versions can be tried. Needs `.[parity]`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_cases.latent import unet_fields
from golden_cases.unet import nchw, nhwc

from talkjax.nn.autoencoder import Autoencoder
from talkjax.nn.latent_unet import Conditioning, LatentUNet, Temporal
from talkjax.nn.wav2vec2 import Wav2Vec2
from talkjax.weights import pretrained
from talkjax.weights.fit import fit

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')
transformers = pytest.importorskip('transformers')

UNET = dict(
  block_out_channels=(32, 64, 64),
  down_block_types=('CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D'),
  up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D'),
  layers_per_block=2,
  attention_head_dim=4,
  cross_attention_dim=24,
  norm_num_groups=16,
)


def randomised(module, seed=0):
  """The module with weights of which none is zero, and its state dict as arrays."""
  torch.manual_seed(seed)
  with torch.no_grad():
    for p in module.parameters():
      p.add_(0.05 * torch.randn_like(p))
  return module.eval(), {k: v.numpy() for k, v in module.state_dict().items()}


def noise(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_same(got, wanted):
  """Within 1e-4 of the largest value, as golden cases are."""
  wanted = wanted.numpy()
  np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
  'changes',
  [
    {},
    # The last level attends too, the first does not; one layer a level; no text.
    {
      'down_block_types': ('DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'),
      'up_block_types': ('CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'),
      'layers_per_block': 1,
      'out_channels': 6,
    },
  ],
)
def test_unet(changes):
  torch.manual_seed(0)
  theirs, state = randomised(diffusers.UNet2DConditionModel(**{**UNET, **changes}))
  net = LatentUNet(**unet_fields(theirs.config))
  # Sides that are odd at the lowest level, batch and tokens that are no round numbers.
  x, time, text = noise(1, 2, 4, 12, 20), np.array([3, 741]), noise(2, 2, 7, 24)
  params = fit(state, pretrained.unet_shapes(net, 24), 'diffusers')
  got, _ = jax.jit(net.apply)({'params': params}, nhwc(x), jnp.asarray(time), Conditioning({'text': text}))
  with torch.no_grad():
    wanted = theirs(torch.tensor(x), torch.tensor(time), torch.tensor(text)).sample
  assert_same(nchw(got), wanted)


def test_autoencoder():
  torch.manual_seed(0)
  theirs, state = randomised(
    diffusers.AutoencoderKL(
      down_block_types=('DownEncoderBlock2D',) * 3,
      up_block_types=('UpDecoderBlock2D',) * 3,
      block_out_channels=(32, 64, 64),
      layers_per_block=2,
      norm_num_groups=16,
    )
  )
  net = Autoencoder((32, 64, 64), layers=2, groups=16, scaling=theirs.config.scaling_factor)
  pictures, latents = noise(1, 2, 3, 20, 28), noise(2, 2, 4, 5, 7)
  wanted = jax.eval_shape(net.init, jax.random.key(0), nhwc(pictures))['params']
  params = {'params': fit(pretrained.autoencoder_state(state), wanted, 'diffusers')}
  with torch.no_grad():
    posterior = theirs.encode(torch.tensor(pictures)).latent_dist
    decoded = theirs.decode(torch.tensor(latents)).sample
  mean, logvar = jax.jit(lambda p: net.apply(p, nhwc(pictures), method='moments'))(params)
  assert_same(nchw(mean), posterior.mean)
  assert_same(nchw(logvar), posterior.logvar)
  decode = jax.jit(lambda p: net.apply(p, nhwc(latents) * net.scaling, method='decode'))
  assert_same(nchw(decode(params)), decoded)


@pytest.mark.parametrize('stable', [False, True])
def test_wav2vec2(stable):
  """The layouts of the base and of the large size."""
  torch.manual_seed(0)
  theirs, state = randomised(
    transformers.Wav2Vec2Model(
      transformers.Wav2Vec2Config(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=80,
        conv_dim=(24,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        do_stable_layer_norm=stable,
        feat_extract_norm='layer' if stable else 'group',
        conv_bias=stable,
      )
    )
  )
  net = Wav2Vec2(
    48, 3, 4, 80, (24,) * 7, position_kernel=16, position_groups=4, stable=stable, conv_bias=stable,
    conv_norm='layer' if stable else 'group',
  )  # fmt: skip
  waveform = noise(1, 2, 5003)
  wanted = jax.eval_shape(net.init, jax.random.key(0), waveform)['params']
  params = fit(pretrained.wav2vec2_state(state), wanted, 'transformers')
  with torch.no_grad():
    made = theirs(torch.tensor(waveform), output_hidden_states=True)
  states = jax.jit(net.apply)({'params': params}, waveform)
  # The last of theirs is taken before or after its norm, which depends on the version.
  for got, hidden in zip(states, (*made.hidden_states[:-1], made.last_hidden_state), strict=True):
    assert_same(got, hidden)


class PerFrame(torch.nn.GroupNorm):
  """AnimateDiff's norm: each frame by itself, as here. In diffusers a clip's frames share their statistics."""

  def forward(self, clips):
    return torch.stack([super(PerFrame, self).forward(frame) for frame in clips.unbind(2)], dim=2)


@pytest.mark.parametrize(('middle', 'longest'), [(False, 24), (True, 32)])
def test_motion_modules(middle, longest):
  """AnimateDiff v1 and v2: the whole U-Net over clips, its modules from their own file."""
  torch.manual_seed(0)
  plain = diffusers.UNet2DConditionModel(**{**UNET, 'norm_num_groups': 32})  # the motion modules' too
  adapter, motion = randomised(
    diffusers.MotionAdapter(
      UNET['block_out_channels'],
      motion_layers_per_block=2,
      motion_num_attention_heads=4,
      motion_norm_num_groups=32,
      motion_max_seq_length=longest,
      use_motion_mid_block=middle,
    )
  )
  theirs, state = randomised(diffusers.UNetMotionModel.from_unet2d(plain, adapter))
  for module in theirs.modules():
    if type(module).__name__ == 'AnimateDiffTransformer3D':
      module.norm.__class__ = PerFrame
  motion = {k: state[k] for k in motion}  # randomised twice
  state = {k: v for k, v in state.items() if k not in motion}
  net = LatentUNet(**unet_fields(plain.config), temporal=Temporal(middle, heads=4, max_frames=longest))
  params = pretrained.unet_shapes(net, 24)
  of_motion = lambda wanted: {k: v for k, v in params.items() if ('motion_modules' in k) == wanted}
  params = {
    **fit(state, of_motion(False), 'diffusers'),
    **fit(pretrained.motion_state(motion), of_motion(True), 'diffusers'),
  }
  clips, time, text = noise(1, 2, 4, 5, 8, 12), np.array([3, 741]), noise(2, 2, 7, 24)
  with torch.no_grad():
    wanted = theirs(torch.tensor(clips), torch.tensor(time), torch.tensor(text.repeat(5, axis=0))).sample
  x = clips.swapaxes(1, 2).reshape(10, 4, 8, 12)
  run = jax.jit(lambda p: net.apply({'params': p}, nhwc(x), jnp.asarray(time), Conditioning({'text': text}), 5)[0])
  assert_same(nchw(run(params)).reshape(2, 5, 4, 8, 12).swapaxes(1, 2), wanted)

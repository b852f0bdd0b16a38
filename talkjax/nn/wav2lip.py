"""Wav2Lip's generator: a face whose mouth says given speech (Prajwal et al. 2020).

Batch normalisation is by stored statistics. Names of modules are the published ones, '_' in place of '.'.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.conv import depth_to_space
from talkjax.nn.norm import BatchNorm
from talkjax.nn.syncnet import SAME, Encoder, conv_block

SIZE = 96  # pixels of a face; the architecture has no other size
COLUMNS = 16  # of `media.mel.wav2lip_mel`, 0.2 s, from the frame on

_HALVE = ((3, 3), (2, 2), 1, False)
# (features, kernel, strides, padding, residual) of the layers in each block.
_FACE = (
  ((16, (7, 7), (1, 1), 3, False),),
  ((32, *_HALVE), *((32, *SAME),) * 2),
  ((64, *_HALVE), *((64, *SAME),) * 3),
  ((128, *_HALVE), *((128, *SAME),) * 2),
  ((256, *_HALVE), *((256, *SAME),) * 2),
  ((512, *_HALVE), (512, *SAME)),
  ((512, (3, 3), (1, 1), 0, False), (512, (1, 1), (1, 1), 0, False)),
)
_SPEECH = (
  (32, (3, 3), (1, 1), 1, False),
  *((32, *SAME),) * 2,
  (64, (3, 3), (3, 1), 1, False),
  *((64, *SAME),) * 2,
  (128, (3, 3), (3, 3), 1, False),
  *((128, *SAME),) * 2,
  (256, (3, 3), (3, 2), 1, False),
  (256, *SAME),
  (512, (3, 3), (1, 1), 0, False),
  (512, (1, 1), (1, 1), 0, False),
)
# (features, residual layers after the first) of the decoder's blocks after its first; all but one double the size.
_DECODER = ((512, 1), (512, 2), (384, 2), (256, 2), (128, 2), (64, 2))


class Wav2Lip(nn.Module):
  """The generator. Every block of the decoder has the features of its size in the face encoder concatenated."""

  @nn.compact
  def __call__(self, mel: jax.Array, face: jax.Array) -> jax.Array:
    """Generates frames.

    Args:
      mel: [b, 80, COLUMNS, 1], windows of `media.mel.wav2lip_mel`.
      face: [b, SIZE, SIZE, 6] BGR in [0, 1]: the frame with its lower half zeroed, then a reference frame.

    Returns:
      [b, SIZE, SIZE, 3] BGR in [0, 1].

    Raises:
      ValueError: the face has another size.
    """
    if face.shape[1:3] != (SIZE, SIZE):
      raise ValueError(f'a face of {face.shape[1]}x{face.shape[2]} pixels: expected {SIZE}x{SIZE}')
    features, x = [], face
    for i, layers in enumerate(_FACE):
      x = Encoder(layers, name=f'face_encoder_blocks_{i}')(x)[-1]
      features.append(x)
    x = Encoder(_SPEECH, name='audio_encoder')(mel)[-1]  # [b, 1, 1, 512]
    x = Encoder(((512, (1, 1), (1, 1), 0, False),), name='face_decoder_blocks_0')(x)[-1]
    x = jnp.concatenate([x, features.pop()], axis=-1)
    for i, (width, residuals) in enumerate(_DECODER, 1):
      x = Decoder(width, residuals, double=i > 1, name=f'face_decoder_blocks_{i}')(x)
      x = jnp.concatenate([x, features.pop()], axis=-1)
    x = conv_block(x, 'output_block_0_conv_block', 32, (3, 3), (1, 1), 1, False)
    return nn.sigmoid(nn.Conv(3, (1, 1), name='output_block_1')(x))


class FaceDiscriminator(nn.Module):
  """Whether the lower half of a face is filmed or generated: convolutions with leaky ReLU and no norm (section 3.4).

  Attributes:
    widths: features of its levels, each but the first of half the size of the one before; the last is one value.
  """

  widths: tuple[int, ...] = (32, 64, 128, 256, 512, 512, 512)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, 2 h, 3] in [0, 1] -> logits [b, 1], positive for filmed faces."""
    conv = lambda width, size, strides, name: nn.Conv(
      width, (size, size), strides, kernel_init=nn.initializers.he_normal(), name=name
    )
    for i, width in enumerate(self.widths):
      size, strides = (7, (1, 1)) if i == 0 else (5, (1, 2)) if i == 1 else (3 if i > 3 else 5, (2, 2))
      x = nn.leaky_relu(conv(width, size, strides, f'{i}_0')(x), 0.01)
      if i:
        x = nn.leaky_relu(conv(width, min(size, 5), (1, 1), f'{i}_1')(x), 0.01)
    return nn.Dense(1, name='out')(x.mean((1, 2)))


class Decoder(nn.Module):
  """A transposed convolution that doubles the size, or grows it from 1 to 3, and residual layers."""

  features: int
  residuals: int
  double: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [b, 2h, 2w, features], or [b, h + 2, w + 2, features]."""
    x = TransposedConv(self.features, self.double, name='0_conv_block_0')(x)
    x = nn.relu(BatchNorm(name='0_conv_block_1')(x))
    for i in range(self.residuals):
      x = conv_block(x, f'{i + 1}_conv_block', self.features, *SAME)
    return x


class TransposedConv(nn.Module):
  """PyTorch's ConvTranspose2d with a 3x3 kernel: stride 2, padding 1, output padding 1 if `double`, else stride 1.

  The kernel is [3, 3, features, i], PyTorch's [i, features, 3, 3] in the order in which `weights.fit` lays it out.
  """

  features: int
  double: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, i] -> [b, 2h, 2w, features], or [b, h + 2, w + 2, features]."""
    init = nn.initializers.he_normal(in_axis=-1, out_axis=-2)
    kernel = self.param('kernel', init, (3, 3, self.features, x.shape[-1]), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
    kernel = kernel.swapaxes(2, 3)  # [3, 3, i, features]
    if not self.double:
      return _convolve(x, kernel[::-1, ::-1], (2, 2)) + bias
    # An even output position has one tap, the kernel's middle, an odd one two: of its own and of the next pixel. So all
    # four positions (even or odd, down and across) are channels of a 2x2 convolution, unfolded afterwards.
    split = lambda k: (jnp.stack([k[1], jnp.zeros_like(k[1])]), jnp.stack([k[2], k[0]]))
    positions = [jnp.moveaxis(k, 1, 0) for rows in split(kernel) for k in split(jnp.moveaxis(rows, 1, 0))]
    y = _convolve(x, jnp.concatenate(positions, axis=-1), (0, 1))  # [b, h, w, 4 features]
    return depth_to_space(y, 2) + bias


def _convolve(x, kernel, padding):
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), [padding] * 2, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

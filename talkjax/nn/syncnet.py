"""Whether lips follow speech: SyncNet (Chung and Zisserman 2016) and Wav2Lip's lip-sync expert (Prajwal et al. 2020).

Both embed five frames and the 0.2 s of speech that belong to them. Layers are numbered as in the published Sequentials.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.norm import BatchNorm

FRAMES = 5  # in a window, at 25 frames/s
# (features or None for a maximum, kernel, strides, padding) of SyncNet's layers: over frames, then over pixels,
_LIP = (
  (96, (5, 7, 7), (1, 2, 2), (0, 0, 0)),
  (None, (1, 3, 3), (1, 2, 2), (0, 0, 0)),
  (256, (1, 5, 5), (1, 2, 2), (0, 1, 1)),
  (None, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
  *((256, (1, 3, 3), (1, 1, 1), (0, 1, 1)),) * 3,
  (None, (1, 3, 3), (1, 2, 2), (0, 0, 0)),
  (512, (1, 6, 6), (1, 1, 1), (0, 0, 0)),
)
# and over cepstra and time.
_MFCC = (
  (64, (3, 3), (1, 1), (1, 1)),
  (None, (1, 1), (1, 1), (0, 0)),
  (192, (3, 3), (1, 1), (1, 1)),
  (None, (3, 3), (1, 2), (0, 0)),
  *((width, (3, 3), (1, 1), (1, 1)) for width in (384, 256, 256)),
  (None, (3, 3), (2, 2), (0, 0)),
  (512, (5, 4), (1, 1), (0, 0)),
)


class SyncNet(nn.Module):
  """SyncNet v2.

  Attributes:
    features: of an embedding.
  """

  features: int = 1024

  def setup(self):
    self.netcnnlip = Sequential(_LIP)
    self.netcnnaud = Sequential(_MFCC)
    self.netfclip = Head(self.features)
    self.netfcaud = Head(self.features)

  def lip(self, frames: jax.Array) -> jax.Array:
    """Embeddings of mouths: windows [b, FRAMES, h, w, 3] BGR, 0 to 255, of 224 pixels -> [b, features]."""
    return self.netfclip(self.netcnnlip(frames)[-1].reshape(len(frames), -1))

  def lip_layers(self, frames: jax.Array) -> list[jax.Array]:
    """The activation after every layer of `lip` before the head."""
    return self.netcnnlip(frames)

  def speech(self, mfcc: jax.Array) -> jax.Array:
    """Embeddings of speech: cepstra [b, 13, 20, 1] (coefficients, columns of 10 ms) -> [b, features]."""
    return self.netfcaud(self.netcnnaud(mfcc)[-1].reshape(len(mfcc), -1))

  def speech_layers(self, mfcc: jax.Array) -> list[jax.Array]:
    """The activation after every layer of `speech` before the head."""
    return self.netcnnaud(mfcc)

  def __call__(self, frames: jax.Array, mfcc: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(embeddings of mouths, embeddings of speech)."""
    return self.lip(frames), self.speech(mfcc)


class Sequential(nn.Module):
  """Convolutions, each with batch normalisation and ReLU, and maxima over windows; numbered as in PyTorch.

  Attributes:
    layers: (features, size, strides, padding); without features a maximum.
  """

  layers: tuple[tuple, ...]

  @nn.compact
  def __call__(self, x: jax.Array) -> list[jax.Array]:
    """[b, ..., c] -> the activation after every layer: three of a convolution, one of a maximum."""
    made = []
    for features, size, strides, padding in self.layers:
      pads = [(n, n) for n in padding]
      number = len(made)
      if features:
        x = nn.Conv(features, size, strides, padding=pads, name=f'{number}')(x)
        normalised = BatchNorm(name=f'{number + 1}')(x)
        made += [x, normalised, nn.relu(normalised)]
      else:
        made.append(nn.max_pool(x, size, strides, pads))
      x = made[-1]
    return made


class Head(nn.Module):
  """Two dense layers with batch normalisation between them."""

  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, 512] -> [b, features]."""
    x = nn.relu(BatchNorm(name='1')(nn.Dense(512, name='0')(x)))
    return nn.Dense(self.features, name='3')(x)


# (features, kernel, strides, padding, residual) of the layers of Wav2Lip's expert.
SAME = ((3, 3), (1, 1), 1, True)
_FACE = (
  (32, (7, 7), (1, 1), 3, False),
  (64, (5, 5), (1, 2), 1, False),
  *((64, *SAME),) * 2,
  (128, (3, 3), (2, 2), 1, False),
  *((128, *SAME),) * 3,
  (256, (3, 3), (2, 2), 1, False),
  *((256, *SAME),) * 2,
  (512, (3, 3), (2, 2), 1, False),
  *((512, *SAME),) * 2,
  (512, (3, 3), (2, 2), 1, False),
  (512, (3, 3), (1, 1), 0, False),
  (512, (1, 1), (1, 1), 0, False),
)
_SPEECH = (
  (32, (3, 3), (1, 1), 1, False),
  *((32, *SAME),) * 2,
  (64, (3, 3), (3, 1), 1, False),
  *((64, *SAME),) * 2,
  (128, (3, 3), (3, 3), 1, False),
  *((128, *SAME),) * 2,
  (256, (3, 3), (3, 2), 1, False),
  *((256, *SAME),) * 2,
  (512, (3, 3), (1, 1), 0, False),
  (512, (1, 1), (1, 1), 0, False),
)


class Wav2LipExpert(nn.Module):
  """The lip-sync expert of Wav2Lip (`SyncNet_color`): unit embeddings without negative values."""

  def setup(self):
    self.face_encoder = Encoder(_FACE)
    self.audio_encoder = Encoder(_SPEECH)

  def face(self, frames: jax.Array) -> jax.Array:
    """[b, 48, 96, 15] -> [b, 512]: the lower halves of five BGR frames in [0, 1], frame by frame along the channels."""
    return unit(self.face_encoder(frames)[-1])

  def face_layers(self, frames: jax.Array) -> list[jax.Array]:
    """The activation after every layer of `face`."""
    return self.face_encoder(frames)

  def speech(self, mel: jax.Array) -> jax.Array:
    """[b, 80, 16, 1] -> [b, 512]: 16 columns of `media.mel.wav2lip_mel`."""
    return unit(self.audio_encoder(mel)[-1])

  def speech_layers(self, mel: jax.Array) -> list[jax.Array]:
    """The activation after every layer of `speech`."""
    return self.audio_encoder(mel)

  def __call__(self, frames: jax.Array, mel: jax.Array) -> jax.Array:
    """Cosine similarity [b] of faces and speech."""
    return jnp.sum(self.face(frames) * self.speech(mel), axis=-1)


class Encoder(nn.Module):
  """Convolutions with batch normalisation and ReLU, some of them with a residual connection."""

  layers: tuple[tuple, ...]

  @nn.compact
  def __call__(self, x: jax.Array) -> list[jax.Array]:
    """[b, h, w, c] -> the activation after every layer."""
    made = []
    for i, layer in enumerate(self.layers):
      x = conv_block(x, f'{i}_conv_block', *layer)
      made.append(x)
    return made


def conv_block(
  x: jax.Array, name: str, features: int, size: tuple[int, int], strides: tuple[int, int], padding: int, residual: bool
) -> jax.Array:
  """Convolution, batch normalisation, + x if `residual`, ReLU; to be called in a compact method.

  Batch normalisation by stored statistics leaves a fresh network's activations as large as they are: initialisation
  keeps them from vanishing, and residual layers, which start as the identity, from growing.
  """
  init = nn.initializers.he_normal()
  y = nn.Conv(features, size, strides, padding=padding, kernel_init=init, name=f'{name}_0')(x)
  y = BatchNorm(gain_init=nn.initializers.zeros if residual else nn.initializers.ones, name=f'{name}_1')(y)
  return nn.relu(x + y if residual else y)


def unit(x: jax.Array) -> jax.Array:
  """[b, 1, 1, d] or [b, d] -> [b, d] of length 1."""
  x = x.reshape(len(x), -1)
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)

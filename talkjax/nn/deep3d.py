"""Coefficients of a face model from a picture (Deng et al. 2019, Deep3DFaceRecon): a ResNet-50 with linear heads."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from talkjax.nn.resnet import ResNet

SIZE = 224  # side of the aligned pictures in pixels
HEADS = (80, 64, 80, 3, 27, 2, 1)  # identity, expression, texture, angles, light, translation in x and y, and in z


class Deep3D(nn.Module):
  """The coefficient network, named as the published `net_recon`.

  Attributes:
    layers: blocks in each stage of the trunk.
    width: of the first stage.
    basic: whether they are those of ResNet-18.
    heads: numbers of coefficients of the heads; one dense layer of the trunk for all of them if `joint`.
    joint: see `heads` (the published `use_last_fc`).
  """

  layers: tuple[int, ...] = (3, 4, 6, 3)
  width: int = 64
  basic: bool = False
  heads: tuple[int, ...] = HEADS
  joint: bool = False

  @nn.compact
  def __call__(self, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Coefficients of aligned faces.

    Args:
      images: [b, h, w, 3] RGB in [0, 1], not normalised further.

    Returns:
      (the coefficients of all heads [b, 257]; the activations of the trunk, see `ResNet`).
    """
    classes = sum(self.heads) if self.joint else 0
    made = ResNet(self.layers, self.width, self.basic, classes, name='backbone')(images)
    if self.joint:
      return made['fc'], made
    outputs = [nn.Dense(count, name=f'final_layers_{i}')(made['pool']) for i, count in enumerate(self.heads)]
    return jnp.concatenate(outputs, -1), made

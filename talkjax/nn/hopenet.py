"""Head pose from a picture of a face (Ruiz et al. 2018, Hopenet): a ResNet-50 with a classifier for each angle."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from talkjax.nn.resnet import resnet_features

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in [0, 1]
POOL = 7  # pixels of the last stage that are averaged; what exceeds them is ignored
BIN = 3  # degrees
ANGLES = ('yaw', 'pitch', 'roll')


class Hopenet(nn.Module):
  """Classifiers of yaw, pitch and roll into bins of 3 degrees.

  Attributes:
    layers: bottlenecks in each stage of the trunk.
    bins: of each angle; the first is at -99 degrees.
  """

  layers: tuple[int, ...] = (3, 4, 6, 3)
  bins: int = 66

  @nn.compact
  def __call__(self, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Angles and what they come from.

    Args:
      images: [b, h, w, 3] RGB, 0 to 255, sides of 224 to 255 pixels.

    Returns:
      (angles [b, 3] in degrees: yaw, pitch, roll; the activations of the trunk, `pool` [b, 2048], and the logits
      [b, bins] by angle).
    """
    x = (images / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    made = resnet_features(x, self.layers)
    pooled = nn.avg_pool(made[f'layer{len(self.layers)}'], (POOL, POOL), (POOL, POOL))
    made['pool'] = pooled.reshape(len(images), -1)
    made |= {name: nn.Dense(self.bins, name=f'fc_{name}')(made['pool']) for name in ANGLES}
    expected = [jax.nn.softmax(made[name]) @ jnp.arange(self.bins, dtype=jnp.float32) for name in ANGLES]
    return jnp.stack(expected, -1) * BIN - 99, made

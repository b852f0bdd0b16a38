"""Autoencoders, KL and VQ: the latent spaces that other systems diffuse in.

Latent diffusion (Rombach et al. 2022) with the losses of VQGAN (Esser et al. 2021). What it generates is what it keeps:
the picture or video that it is given, encoded and decoded.
"""

import functools

from talkjax.options import Option
from talkjax.systems import System

OPTIONS = (
  Option('image', str, 'A picture to encode and decode; --output is a .png.', several=True),
  Option('video', str, 'A video to encode and decode.'),
  Option(
    'size', int, "Side of the centre square in pixels (default: the config's).", key='size', minimum=8, evaluate=True
  ),
)
SOURCES = {}


def build(config) -> System:
  """The system of a config (see configs/autoencoder.py).

  Raises:
    UserError: the size is not a multiple of the network's factor.
  """
  from talkjax.metrics import suites
  from talkjax.systems import reconstruction_scores
  from talkjax.systems.autoencoder import data, generation, model

  parts = model.make_parts(config)
  model.check(config, parts.autoencoder)
  return System(
    read=functools.partial(data.read, config=config),
    init=functools.partial(model.init, parts=parts),
    loss=functools.partial(model.loss, parts=parts, weights=config.loss),
    generate=functools.partial(generation.generate, net=parts.autoencoder),
    pictures=True,
    from_records=functools.partial(generation.from_records, config=config),
    from_files=functools.partial(generation.from_files, config=config),
    predict=functools.partial(generation.predict, net=parts.autoencoder, config=config),
    options=OPTIONS,
    scores=(suites.IMAGES, reconstruction_scores.scores(parts.autoencoder.codebook)),
    frozen=('lpips',) if parts.lpips else (),
  )

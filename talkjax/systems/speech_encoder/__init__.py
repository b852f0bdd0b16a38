"""A speech encoder of our own: mouth shapes from sound, the embedded stand-in for wav2vec 2.0.

Not from a paper. Most systems here condition on features of a speech encoder that was trained beforehand; the published
one is large and trained on 960 hours. This one is a small temporal convolutional network that is regressed on how the
mouths of a corpus move. Other systems use its frozen features (`config.audio.kind=speech_encoder`).
"""

import functools

from talkjax.systems import System

OPTIONS = ()
SOURCES = {}


def build(config) -> System:
  """The system of a config (see configs/speech_encoder.py)."""
  from talkjax.metrics import suites
  from talkjax.systems.speech_encoder import data, model
  from talkjax.weights import speech

  net = model.make_network(config)
  names = data.curve_names(config)
  return System(
    read=functools.partial(data.read, config=config, context=net.context),
    init=functools.partial(model.init, net=net, curves=len(names)),
    loss=functools.partial(model.loss, net=net),
    scores=(suites.curves(names),),
    predict=functools.partial(model.predict, encoder=speech.Encoder('speech_encoder', net), config=config),
  )

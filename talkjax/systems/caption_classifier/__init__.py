"""The joint noisy classifier of captions, whose gradient guides joint_av (section IV.C of the joint audio-video paper).

It sees sound and picture together, as noisy as they are while they are generated: a classifier of the video alone made
sound and picture disagree.
"""

import functools

from talkjax.systems import System

OPTIONS = ()
SOURCES = {}


def build(config) -> System:
  """The system of a config (see configs/caption_classifier.py)."""
  from talkjax.systems import coefficients
  from talkjax.systems.caption_classifier import model
  from talkjax.systems.joint import data, spaces
  from talkjax.systems.sampling import make_schedule

  space = spaces.make(config)
  net = space.classifier(len(config.captions))
  motion = config.space.kind == 'motion'
  shared = {'space': space, 'net': net}
  schedule = make_schedule(config.diffusion)
  return System(
    read=functools.partial(data.read, config=config),
    init=functools.partial(model.init, **shared),
    loss=functools.partial(model.loss, **shared, schedule=schedule, config=config),
    scores=(model.ACCURACY,),
    frozen=(coefficients.BRANCH, spaces.CORPUS) if motion else (),
    features=('coefficients',) if motion else (),
    collect=functools.partial(data.collect, config=config) if motion else None,
    predict=functools.partial(model.predict, **shared, schedule=schedule, config=config),
    classify=functools.partial(model.classify, **shared),
  )

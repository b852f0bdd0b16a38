"""A lip expert: whether the motion of a mouth belongs to a sound.

Wav2Lip's expert (arXiv 2008.10010, section 3.1) for the vertices of a morphable model's mouth, as FD2Talk needs it for
its synchronisation loss (section 3.4.1, eq. 10-11). It embeds five frames of a mouth without pose, and the audio
features of the same frames; it learns to tell them from features of another time of the clip.
"""

import functools

from talkjax.systems import System

OPTIONS = ()
SOURCES = {}


def build(config) -> System:
  """The system of a config (see configs/lip_expert.py)."""
  from talkjax.systems import coefficients
  from talkjax.systems.audio import AudioFeatures
  from talkjax.systems.lip_expert import data, model, scores
  from talkjax.systems.portrait.audio import spectrogram

  audio = AudioFeatures(config.audio, functools.partial(spectrogram, settings=config.audio))
  net = model.make_network(config)
  embed = model.make_embed(net, config)

  def embed_lips(*args):
    from talkjax.systems.lip_expert import videos

    return videos.embed_lips(*args, embed=embed, audio=audio, config=config)

  return System(
    read=functools.partial(data.read, config=config, audio=audio),
    init=functools.partial(model.init, net=net, encoder=audio.encoder, config=config),
    loss=functools.partial(model.loss, net=net, config=config),
    scores=(scores.ACCURACY,),
    frozen=(coefficients.BRANCH, *((audio.kind,) if audio.encoder else ())),
    encoder=audio.encoder,
    features=('coefficients',),
    predict=functools.partial(model.predict, embed=embed, audio=audio, config=config),
    embed_lips=embed_lips,
  )

"""Speech Driven Video Editing via an Audio-Conditioned Diffusion Model (Bigioi et al., 2023).

A masked U-Net repaints the mouth and jaw of one frame, conditioned on the sound around it, the frame before and an
identity frame. Training reads single frames (sections 3.1 and 3.2); generation is autoregressive, each frame
conditioned on the one generated before.

Where paper and published code (DanBigioi/DiffusionVideoEditing) differ, the configs train with the paper's numbers and
the network has the published layout: 9 input channels (the paper's table says 10, its text and the code 9).
"""

import functools

from talkjax.errors import UserError
from talkjax.options import SAMPLER, Option
from talkjax.systems import System, deferred

OPTIONS = (
  Option('video', str, 'The video to re-voice.', required=True),
  Option('audio', str, 'The speech: any audio file, or a video with sound.', required=True),
  Option('identity', str, 'Who speaks: an image, or the number of a frame of the video (default: frame 0).'),
  *SAMPLER,
)
SOURCES = {'diffusion_video_editing': 'talkjax.systems.speech_edit.published'}


def build(config) -> System:
  """The system of a config (see configs/speech_edit.py)."""
  from talkjax.metrics import suites
  from talkjax.systems.audio import AudioFeatures
  from talkjax.systems.sampling import check_sampler, make_schedule, make_table
  from talkjax.systems.speech_edit import data, model

  if config.model.skip and (config.model.skip not in ('previous', 'identity') or config.diffusion.target != 'x0'):
    raise UserError(
      f'config.model.skip={config.model.skip!r} with config.diffusion.target={config.diffusion.target!r}: expected '
      "'previous' or 'identity' with target 'x0', or no skip ('')"
    )
  net = model.make_network(config)
  factor = config.model.patch_size * 2 ** (len(config.model.multipliers) - 1)
  if config.size % factor:
    raise UserError(f'config.size={config.size}: expected a multiple of {factor}, by which the network downsamples')
  audio = AudioFeatures(config.audio, functools.partial(data.spectrogram, settings=config.audio))
  predict = functools.partial(model.predict, net=net, skip=config.model.skip)
  check_sampler(config, ('palette', 'ddpm', 'ddim', 'dpm++'))

  table = functools.partial(make_table, config)
  step = functools.cache(
    deferred('speech_edit.generation.make_frame_step', {'table': table}, predict=predict, config=config)
  )
  return System(
    read=functools.partial(data.read, config=config, audio=audio),
    init=functools.partial(model.init, net=net, encoder=audio.encoder),
    loss=functools.partial(
      model.loss, predict=predict, schedule=make_schedule(config.diffusion), target=config.diffusion.target
    ),
    generate=deferred('speech_edit.generation.generate', {'step': step}, audio=audio),
    from_records=deferred('speech_edit.conditions.from_records', config=config),
    from_files=deferred('speech_edit.conditions.from_files', config=config),
    options=OPTIONS,
    scores=(suites.IMAGES, suites.LIPS),
    frozen=(audio.kind,) if audio.encoder else (),
    encoder=audio.encoder,
  )

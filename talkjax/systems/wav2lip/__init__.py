"""A Lip Sync Expert Is All You Need for Speech to Lip Generation In the Wild (Wav2Lip; Prajwal et al., 2020).

A generator sees a face with its lower half hidden, a reference frame of the same person, and 0.2 s of speech, and draws
the whole face, frame by frame. `lip_sync` is the same for other systems, as the frames come.

Where paper and published code (Rudrabha/Wav2Lip) differ, this follows the code: speech from the frame on, in training
too. Batch normalisation has stored statistics that training does not change, whether they are imported or, in a fresh
network, 0 and 1; gains and biases train. Residual layers of a fresh network start as the identity, so that it trains
without batch statistics. Networks of `model.kind=unet` have group normalisation.
"""

import functools

from talkjax.errors import UserError
from talkjax.options import Option
from talkjax.systems import System, deferred

OPTIONS = (
  Option('video', str, 'The video whose lips are moved.'),
  Option('image', str, 'A picture of a face, in place of a video.'),
  Option('audio', str, 'The speech: any audio file, or a video with sound.', required=True),
)
SOURCES = {'wav2lip': 'talkjax.systems.wav2lip.published'}


def build(config) -> System:
  """The system of a config (see configs/wav2lip.py)."""
  from talkjax.metrics import suites
  from talkjax.systems.audio import AudioFeatures
  from talkjax.systems.wav2lip import data, model

  _check(config)
  parts = model.make_parts(config)
  audio = AudioFeatures(config.audio, data.spectrogram, silence=data.SILENCE)
  made = {'predict': functools.cache(deferred('wav2lip.generation.make_predict', parts=parts))}
  return System(
    read=functools.partial(data.read, config=config, audio=audio),
    init=functools.partial(model.init, parts=parts, encoder=audio.encoder),
    loss=functools.partial(model.loss, parts=parts, weights=config.loss),
    generate=deferred('wav2lip.generation.generate', made, audio=audio),
    from_records=deferred('wav2lip.conditions.from_records', config=config),
    from_files=deferred('wav2lip.conditions.from_files', config=config),
    options=OPTIONS,
    scores=(suites.IMAGES, suites.LIPS),
    frozen=tuple(name for name, used in (('expert', parts.expert), (audio.kind, audio.encoder)) if used),
    load=(('wav2lip_syncnet', 'expert', '', ''),) if parts.expert else (),
    encoder=audio.encoder,
    lip_sync=deferred('wav2lip.streaming.lip_sync', made, audio=audio, config=config),
  )


def _check(config) -> None:
  """Raises UserError if the config contradicts itself."""
  allowed = {
    'crop': ('box', 'aligned'),
    'mask': ('half', 'rectangle'),
    'reference': ('own', 'first'),
    'model.kind': ('wav2lip', 'unet'),
    'audio.kind': ('mel', 'speech_encoder', 'wav2vec2'),
  }
  values = {'model.kind': config.model.kind, 'audio.kind': config.audio.kind}
  for key, choices in allowed.items():
    if (value := values.get(key) or config[key]) not in choices:
      raise UserError(f'config.{key}={value!r}: expected one of {", ".join(choices)}')
  published = {'size': 96, 'audio.kind': 'mel'}
  if config.model.kind == 'wav2lip' and (config.size != 96 or config.audio.kind != 'mel'):
    wanted = ' and '.join(f'config.{key}={value}' for key, value in published.items())
    raise UserError(
      f'config.model.kind=wav2lip with config.size={config.size} and config.audio.kind={config.audio.kind}: the '
      f'published network needs {wanted}'
    )
  if config.loss.sync and (config.model.kind != 'wav2lip' or config.frames != 5):
    raise UserError(
      f'config.loss.sync={config.loss.sync} with config.model.kind={config.model.kind} and config.frames='
      f'{config.frames}: the expert judges five frames of the published network; set the three accordingly, or '
      'config.loss.sync=0'
    )

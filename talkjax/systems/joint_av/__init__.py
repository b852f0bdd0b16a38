"""Diffusion Model for Text to Synchronized Joint Talking Head Video and Audio Generation (Zhang et al.).

One diffusion model generates sound and picture together, from nothing, a caption, the text of speech, a portrait, or
several of them. Of the published kind are the sizes that generate pixels and waveforms; `tiny` and `puppets` generate
motion and spectrograms with the same objective and the same guidance (`talkjax.systems.joint.spaces`).
"""

import functools

from talkjax.errors import UserError
from talkjax.options import SAMPLER, Option
from talkjax.systems import System, deferred

OPTIONS = (
  Option('text', str, 'What is said: text that becomes speech, which guides the video.', message=True),
  Option('audio', str, 'A recording, in place of text.'),
  Option('caption', str, 'Who talks: a caption that the model knows, such as "A woman is talking".', message=True),
  Option('image', str, 'A portrait: who is shown.'),
  Option(
    'seconds', float, 'Length of a video without speech (default: of a training example).', minimum=0.04, maximum=3600,
    message=True,
  ),
  Option('speech_engine', str, 'Text-to-speech.', choices=('espeak', 'yourtts'), message=True),
  *SAMPLER,
  Option(
    'guidance', float, 'Scale of the caption: 1 is the conditional model.', key='guidance.caption', minimum=0,
    evaluate=True, message=True,
  ),
  Option(
    'caption_by', str, 'Captions condition the model, or guide it by the classifier.', key='guidance.caption_by',
    evaluate=True, choices=('condition', 'classifier'), message=True,
  ),
  Option(
    'classifier_scale', float, 'Scale of the classifier.', key='guidance.classifier', minimum=0, evaluate=True,
    message=True,
  ),
  Option(
    'speech_guidance', str, 'How speech guides the video.', key='guidance.speech', evaluate=True,
    choices=('none', 'replacement', 'gradient'), message=True,
  ),
  Option(
    'speech_scale', float, 'C of eq. 11, the scale of the gradient.', key='guidance.scale', minimum=0, evaluate=True,
    message=True,
  ),
  Option(
    'speech', str, "What clips of a corpus are generated from besides captions: none, or the record's speech and face.",
    key='evaluation.speech', evaluate=True, choices=('none', 'record'),
  ),
  *(
    Option(name, str, help, key=f'others.{name}', evaluate=True)
    for name, help in (
      ('renderer', 'A workdir of fd2talk that draws the motion, in place of its own.'),
      ('wav2lip', 'A workdir of wav2lip, which moves the lips after the last step, in place of its own.'),
      ('super_resolution', 'A workdir of super_resolution, which enlarges the video, in place of its own.'),
      ('caption_classifier', 'A workdir of caption_classifier, in place of its own.'),
    )
  ),
  Option(
    'no_wav2lip', bool, 'Leave the lips as they are generated.', key='others.no_wav2lip', evaluate=True, message=True
  ),
)  # fmt: skip
SOURCES = {}
# On a CPU, XLA's fusion computes the sums of the streams' residuals anew wherever they are needed.
UNFUSED = {'xla_disable_hlo_passes': 'fusion'}


def build(config) -> System:
  """The system of a config (see configs/joint_av.py)."""
  from talkjax.systems import coefficients, joined
  from talkjax.systems.joint import data, spaces
  from talkjax.systems.joint_av import model
  from talkjax.systems.sampling import check_sampler, make_schedule
  from talkjax.training.workdir import is_workdir

  check_sampler(config, ('ddpm', 'ddim', 'dpm++'))
  space = spaces.make(config)
  if not 0 <= config.guidance.overlap < space.frames:
    raise UserError(
      f'config.guidance.overlap={config.guidance.overlap}: expected 0 to {space.frames - 1}, less than the frames of a '
      'window'
    )
  net = space.network(len(config.captions))
  motion = config.space.kind == 'motion'

  sampler = functools.cache(deferred('joint_av.generation.Sampler', space=space, net=net, config=config))
  # The coupled U-Net may start from MM-Diffusion's, which knows no captions.
  start = config.get('pretrained', {}).get('mm_diffusion', '')
  published = (('mm_diffusion', model.BRANCH, '', 'caption'),) if is_workdir(start) else ()
  carried = (joined.BRANCH,) if joined.names(config) or config.joined else ()
  return System(
    read=functools.partial(data.read, config=config),
    init=functools.partial(model.init, space=space, net=net, config=config),
    loss=functools.partial(model.loss, space=space, net=net, schedule=make_schedule(config.diffusion), config=config),
    generate=deferred('joint_av.generation.generate', {'sampler': sampler}),
    from_records=deferred('joint_av.conditions.from_records', config=config, space=space),
    from_files=deferred('joint_av.conditions.from_files', config=config, space=space),
    options=OPTIONS,
    scores=model.scores(config.evaluation.speech),
    frozen=(*((coefficients.BRANCH, spaces.CORPUS) if motion else ()), *carried),
    load=(*joined.load(config), *published),
    features=('coefficients',) if motion else (),
    collect=functools.partial(data.collect, config=config) if motion else None,
    cpu_options=UNFUSED if motion else {},
  )

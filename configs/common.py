"""What every config shares: its arguments `size[,key=value...]` and the settings of the training loop."""

import ast
import re

import ml_collections

from talkjax.training import ranges


def parse(arg: str | None, sizes) -> tuple[str, dict]:
  """Splits 'size,key=value,...'.

  Args:
    arg: the part after the colon of --config=FILE.py:ARG; None or '' is the first size.
    sizes: the sizes of the config.

  Raises:
    ValueError: an unknown size, or a part that is not key=value.
  """
  first, *rest = re.split(r',(?![^(\[]*[)\]])', arg or '')  # at commas outside brackets
  if '=' in first:
    first, rest = '', [first, *rest]
  size = first or sizes[0]
  if size not in sizes:
    raise ValueError(f'size {size!r} is not one of {", ".join(sizes)}')
  changes = {}
  for part in rest:
    key, equals, value = part.partition('=')
    if not equals:
      raise ValueError(f'{part!r} is not key=value')
    try:
      changes[key] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      changes[key] = value
  return size, changes


def parse_stage(arg: str | None, sizes, stages=(1, 2, 3)) -> tuple[str, int, dict]:
  """(size, stage, other arguments) of 'size,stage=N,key=value,...'; the first stage is the default.

  Raises:
    ValueError: an unknown size or stage, or a part that is not key=value.
  """
  size, changes = parse(arg, sizes)
  stage = changes.pop('stage', stages[0])
  if stage not in stages:
    raise ValueError(f'stage={stage} is not one of {", ".join(map(str, stages))}')
  return size, stage, changes


def base() -> ml_collections.ConfigDict:
  """The settings that `talkjax.train` itself reads."""
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.log_every = 50
  c.checkpoint_every = 1000
  c.keep_checkpoints = 2
  c.sample_every = 0  # steps between sample strips; 0 for none
  c.sample_frames = 12
  # A workdir whose weights this run starts from. In place of a workdir, here and below, 'random' says that random
  # weights are meant, where they would be an error.
  c.init_from = ''
  c.init_new = ()  # regexes of parameters that it may lack: they are initialised
  c.pretrained = ml_collections.ConfigDict()  # by name, the workdir that talkjax.convert made of it
  # (pretrained network, branch of the parameters, regex of what is ignored in it, regex of what it may lack): loading
  # is strict otherwise. All of them must be set in `pretrained`, unless `init_from` has their parameters.
  c.load = ()
  # (regex, True, False or a factor of the learning rate): the first regex found in a parameter's path decides.
  # Pretrained encoders (autoencoder, speech encoder) never train.
  c.train = (('.*', True),)
  c.ema = 0.9999
  c.dtype = 'float32'  # of the computation; parameters are float32
  c.remat = False
  c.mesh = ml_collections.ConfigDict({'data': -1, 'fsdp': 1, 'tensor': 1})
  c.rules = (('kernel', 'fsdp'),)  # (regex, spec), see talkjax.training.sharding.tree_shardings
  c.optimizer = ml_collections.ConfigDict(
    {
      'learning_rate': 1e-4,
      'schedule': 'constant',
      'warmup': 0,
      'b1': 0.9,
      'b2': 0.999,
      'eps': 1e-8,
      'weight_decay': 0.0,
      'clip': 1.0,
      'accumulate': 1,
    }
  )
  c.data = ml_collections.ConfigDict(
    {
      'dir': 'datasets',
      'corpus': 'puppets',  # NAME or NAME/CONFIG, or several with weights: hdtf:2,vfhq:1; evaluation reads the first
      'split': 'train',
      'eval_split': 'test',
      'examples_per_record': 1,
      'workers': 0,  # reading processes; 0 reads in threads
      'threads': 2,
      'prefetch': 4,
    }
  )
  return c


def audio(kind: str, **more) -> ml_collections.ConfigDict:
  """What a system is conditioned on: `config.audio`.

  Args:
    kind: 'speech_encoder', our own; 'wav2vec2'; or what the system has without an encoder.
    **more: settings of the latter.
  """
  return ml_collections.ConfigDict(
    {
      'kind': kind,
      # A workdir of the encoder's training or conversion, or 'random'. '': that of `init_from`, or for our own the
      # weights that come with the package. Encoders are frozen: the states of a corpus are computed once, when training
      # first needs them.
      'weights': '',
      'speech_encoder': {'width': 128, 'dilations': (1, 2, 4, 8, 4)},
      'wav2vec2': {},  # fields of talkjax.nn.wav2vec2 that differ from the base size
      **more,
    }
  )


def morphable(size: str) -> ml_collections.ConfigDict:
  """The morphable model whose coefficients a system reads, and its numbers: `config.morphable`.

  Training replaces the numbers by those of the model that made the corpus' coefficients.
  """
  if size == 'paper':
    numbers = dict(vertices=35_709, triangles=70_789, mouth=2_000, rigid=0, identity=80, expression=64)
    return ml_collections.ConfigDict({'name': 'bfm', **numbers})
  numbers = dict(vertices=468, triangles=852, mouth=40, rigid=187, identity=16, expression=24)
  return ml_collections.ConfigDict({'name': 'mesh_pca', **numbers})


def lip_expert(size: str) -> ml_collections.ConfigDict:
  """The sizes of the lip expert, of which fd2talk has a frozen copy."""
  if size == 'paper':
    return ml_collections.ConfigDict(dict(features=512, width=1024, layers=4, dropout=0.0))
  return ml_collections.ConfigDict(dict(features=64, width=192, layers=2, dropout=0.2))


def packaged_latents(name: str) -> dict:
  """`config.latents` of an autoencoder that comes with the package (`talkjax.weights.packaged`)."""
  from talkjax.weights import packaged

  return packaged.about(name)['latents']


def finish(config: ml_collections.ConfigDict, changes: dict) -> ml_collections.ConfigDict:
  """Applies key=value arguments ('model.width=32') to keys that exist.

  Raises:
    UsageError: a key does not exist.
  """
  for key, value in changes.items():
    ranges.check_key(config, key, f'argument {key}={value}')
    config.update_from_flattened_dict({key: value})
  return config

"""What every config shares: its arguments `size[,key=value...]` and the settings of the loop."""

import ast

import ml_collections

from talkjax import cli


def parse(arg: str | None, sizes) -> tuple[str, dict]:
  """Splits 'size,key=value,...'.

  Args:
    arg: what stands after the colon of --config=FILE.py:ARG; None or '' is the first size.
    sizes: the names a config knows.

  Raises:
    ValueError: an unknown size, or a part that is not key=value.
  """
  first, *rest = (arg or '').split(',')
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


def base() -> ml_collections.ConfigDict:
  """The settings that `talkjax.train` itself reads."""
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.log_every = 50
  c.checkpoint_every = 1000
  c.keep_checkpoints = 2
  c.sample_every = 0  # steps between sample strips; 0 for none
  c.sample_frames = 12
  c.init_from = ''  # a workdir whose weights this run starts from
  c.init_new = ()  # regexes of parameters that it need not have: they start afresh
  c.foundations = ml_collections.ConfigDict()  # by name, the workdir that talkjax.convert made of it, or ''
  # (foundation, where it goes, regex of what of it is left out, regex of what it need not have): strict otherwise.
  c.load = ()
  # (regex, whether it trains, or at what share of the learning rate): the first found in a parameter's path decides.
  c.train = (('.*', True),)
  c.ema = 0.9999
  c.dtype = 'float32'  # of the arithmetic; parameters are float32
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
      'corpus': 'puppets',
      'split': 'train',
      'eval_split': 'test',
      'examples_per_record': 1,
      'workers': 0,  # reading processes; 0 reads in threads
      'threads': 2,
      'prefetch': 4,
    }
  )
  return c


def narrow(c: ml_collections.ConfigDict, size: str, stage: int) -> None:
  """What the sizes that learn from scratch, `small` and `tiny`, change in systems around a portrait.

  They see the portrait beside the noise and learn what changes from it, lest they have to learn to copy it first.
  WORKSPACE_NOTES.md has what each setting brought.
  """
  c.latents.update(kind='fold', change=6.0)  # which gives the change a variance of about one
  c.dtype, c.remat = 'float32', False
  c.diffusion.update(schedule='log_snr', start=4.0, end=-8.0, zero_snr=False, target='x0', prior=0.03, min_snr=0.0)
  c.model.modulated = True
  c.audio.kind = 'mel'
  c.augment.hidden_mouth = 1.0
  c.mouth_weight = 20.0
  # Fresh noise at every step: what a small network gets wrong in one is not taken for signal in the next. Few steps,
  # as it is least sure of itself where little noise is left.
  c.sampler.update(name='ddpm', steps=2, spacing='trailing')
  c.optimizer.update(learning_rate=1e-3 if size == 'tiny' else 5e-4, schedule='cosine', warmup=50)
  c.guidance = 1.0
  c.ema = 0.995
  if size == 'small':
    c.size = 128
    c.model.update(widths=(128, 256, 512), attention=(False, True, True), context=256)
    c.data.update(corpus='clips', examples_per_record=1)
    c.batch_size = 64 if stage == 1 else 8
    return
  c.size = 64
  c.frames = 1 if stage == 1 else 8
  c.model.update(
    widths=(64, 96),
    attention=(False, True),
    groups=8,
    temporal_layers=1,
    zero_contexts=False,
    layers=1,
    heads=4,
    context=64,
    audio_tokens=2,
  )
  c.data.update(corpus='puppets', examples_per_record=4 if stage == 1 else 1, workers=0, mouth='found')
  c.data.reference_within = 12
  c.batch_size = 16 if stage == 1 else 4
  c.steps = {1: 1800, 2: 700, 3: 700}[stage]
  c.sample_every = 200
  c.checkpoint_every = 100


# `data.encoded` of systems around a portrait: a folder in the corpus' own, or a path, of what `talkjax.build` put there
# with --latents and --speech ('encoded', if not told otherwise). Training then reads what that has, instead of running
# the autoencoder and wav2vec 2.0 at every step; generation never does. '': they run.

# What of Stable Diffusion and the like the stages of systems around a portrait start from, where it is at hand. The
# prompt's attention is not used.
FOUNDATIONS = dict(sd15='', sd_vae='', animatediff='', wav2vec2='')
LOAD = {
  1: (
    ('sd15', 'backbone', 'transformer_blocks_0/(attn2|norm2)', 'transformer_blocks_0/(attn1_5|norm1_5)'),
    ('sd15', 'reference', '^conv_(norm_)?out', ''),
    ('sd_vae', 'autoencoder', '', ''),
  ),
  2: (('animatediff', 'backbone', '', '^(?!.*motion_modules)'), ('wav2vec2', 'wav2vec2', '', '')),
  3: (),
}


def finish(config: ml_collections.ConfigDict, changes: dict) -> ml_collections.ConfigDict:
  """Applies key=value arguments ('model.width=32') to keys that exist.

  Raises:
    UsageError: a key does not exist.
  """
  for key, value in changes.items():
    cli.check_key(config, key, f'argument {key}={value}')
    config.update_from_flattened_dict({key: value})
  return config

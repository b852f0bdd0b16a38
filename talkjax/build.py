"""Builds a corpus: python -m talkjax.build data/grid --manual_dir=DIR [--data_dir=datasets --workers=N ...].

Accepts any TFDS builder folder and the flags of the `tfds build` command (see `--help`), and does not need TensorFlow.
Unlike `tfds build` it writes array_record files, to `datasets/` in the current folder by default, and builds only the
first config if no `--config` is given. Run the command again to resume an interrupted build; a finished dataset is kept
unless `--overwrite` is given. `--max_examples_per_split=N` builds a small part of a large corpus for a trial.

  python -m talkjax.build data/hdtf --latents=runs/sd_vae --speech=runs/wav2vec2 --size=512 --coefficients=mesh_pca

precomputes the features of frozen encoders and the coefficients of a face model. Training then reads them instead of
running the encoders at every step (talkjax/corpora/feature_cache.py).
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import io
import math
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence

from absl import flags, logging

from talkjax import cli
from talkjax.corpora import building
from talkjax.errors import UsageError, UserError
from talkjax.media import outputs
from talkjax.options import Option

DATA_DIR = 'datasets'
# The help of flags whose default is not that of the tfds command.
_OTHER_HELP = {
  'data_dir': f'Where to place datasets (default: TFDS_DATA_DIR, or {DATA_DIR}).',
  'config': 'The config to build, or the JSON of a new one (default: the first config).',
  'file_format': 'The format of the dataset (default: array_record).',
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit code (see `talkjax.cli`)."""
  program, *args = sys.argv if argv is None else argv
  debug = [a for a in args if a in ('--debug', '--debug=true', '--debug=True')]

  def describe_or_build():
    if cli.asks_for_help([program, *args]):
      _parser().print_help()
    else:
      build([program, *(a for a in args if a not in debug)])

  return cli.guard(describe_or_build, [program, *args], bool(debug))


def build(argv: list[str]):
  """Builds the corpora named in a command line, whose first element is the program name.

  Raises:
    UsageError: the command line is invalid.
    UserError: a folder or its sources are missing, or no clip can be used.
  """
  args = _parse(argv)
  folders = args.positional_datasets + args.datasets
  if not folders:
    raise UsageError('which corpus? give a builder folder: python -m talkjax.build data/grid --manual_dir=DIR')
  if args.generation.num_processes != 1:
    raise UsageError('--num_processes would build configs in parallel: use --workers=N to process clips in parallel')
  if args.automation.exclude_datasets:
    raise UsageError('--exclude_datasets would build all other TFDS datasets: name the folders to build instead')
  if args.size < 1 or args.speech_layers not in ('all', 'last'):
    raise UsageError(
      f'--size={args.size} --speech_layers={args.speech_layers}: expected a number of pixels, and all or last'
    )
  if not args.feature_cache or '..' in pathlib.PurePath(args.feature_cache).parts:
    raise UsageError(f'--feature_cache={args.feature_cache}: expected the name of a folder in that of the corpus')
  if args.latents or args.speech:
    _encoders(args.latents, args.size, args.speech, args.speech_layers)  # reports errors before anything is built
  if args.coefficients:
    from talkjax.weights import coefficients

    coefficients.check(args.coefficients)
  if args.beam and not _has_beam():
    raise UserError('--beam needs Apache Beam, which is not installed: pip install "talkjax[beam]"')
  for module in (args.generation.imports or '').split(','):
    if module:
      try:
        importlib.import_module(module)
      except ImportError as error:
        raise UsageError(f'--imports={module} cannot be imported ({error}): name an installed module') from error
  with _removed_temporary_files():
    for folder in folders:
      _build_one(folder, args)


@contextlib.contextmanager
def _removed_temporary_files() -> Iterator[None]:
  """TFDS leaves a temporary folder for each builder: those of the block are removed."""
  before = tempfile.tempdir
  with outputs.scratch() as folder:
    tempfile.tempdir = str(folder)
    try:
      yield
    finally:
      tempfile.tempdir = before


def load(folder: str | os.PathLike) -> type:
  """Loads the builder class of a TFDS builder folder (`data/grid` contains `grid_dataset_builder.py`).

  Raises:
    UserError: the folder does not exist or contains no builder.
  """
  from tensorflow_datasets.scripts.cli import build as tfds_build

  folder = os.fspath(folder)
  name = os.path.basename(os.path.normpath(folder))
  if not os.path.exists(folder):
    raise UserError(f'no folder {folder}: expected a TFDS builder folder such as data/grid')
  script = os.path.join(folder, f'{name}_dataset_builder.py')
  if os.path.isfile(folder) and not folder.endswith('.py'):
    raise UserError(f'{folder} is a file: expected a TFDS builder folder such as data/grid')
  if os.path.isdir(folder) and not os.path.exists(script) and not os.path.exists(os.path.join(folder, f'{name}.py')):
    raise UserError(f'{folder} is not a TFDS builder folder: it has no {name}_dataset_builder.py')
  cls, _ = tfds_build._get_builder_cls_and_kwargs(folder, has_imports=False)
  return cls


def _build_one(folder: str, args):
  from tensorflow_datasets.scripts.cli import build as tfds_build

  if args.generation.imports:  # a name registered by an imported module, as in `tfds build`
    cls, kwargs = tfds_build._get_builder_cls_and_kwargs(folder, has_imports=True)
  else:
    cls, kwargs = load(folder), {}
  args = _with_config(cls, args)
  if args.debug.overwrite:  # checked before TFDS deletes the existing dataset
    _check_manual_dir(cls, folder, args.paths.manual_dir)
  try:
    builders = list(tfds_build._make_builders(args, cls, kwargs))
  except (ValueError, TypeError) as error:  # an unknown config or invalid JSON
    raise UsageError(f'--config={args.generation.config}: {error}') from error
  for builder in builders:
    _check_config(builder.builder_config)
  for builder in builders:
    built = builder.is_prepared() and not args.generation.update_metadata_only
    if not built:
      _check_manual_dir(cls, folder, args.paths.manual_dir)
    if args.generation.download_only:
      tfds_build._download(args, builder)
      continue
    if built:
      print(f'{builder.info.full_name} is already built: {builder.data_dir} (--overwrite builds it again)')
    else:
      _make(builder, args)
    if args.latents or args.speech:
      _encode(builder, args)
    if args.coefficients:
      _coefficients(builder, args)


def _check_config(config) -> None:
  """Raises UsageError unless a new config has a name that is a folder's, and numbers that are not negative."""
  if config is None:
    return
  if not re.fullmatch(r'\w[\w.-]*', config.name):
    raise UsageError(f'--config: {config.name!r} is no name of a config: expected letters, digits, dots and hyphens')
  for name, value in vars(config).items():
    least = 16 if name == 'size' else 0
    if isinstance(value, (int, float)) and not least <= value < math.inf:
      raise UsageError(f'--config: {name}={value} is out of range: expected a number from {least} on')


def _make(builder, args):
  from tensorflow_datasets.scripts.cli import build as tfds_build

  root = os.fspath(builder.data_dir_root)
  if '://' not in root:
    outputs.check_folder(root, f'--data_dir={root}')
  with building.options(
    workers=args.workers,
    limit=args.debug.max_examples_per_split,
    beam=args.beam,
    clip_timeout=args.clip_timeout,
  ):
    # TFDS prints the dataset info, which is long and less useful than the report.
    try:
      with contextlib.redirect_stdout(io.StringIO()):
        tfds_build._download_and_prepare(args, builder)
    except (OSError, RuntimeError) as error:
      building.remove_unfinished(builder)
      if why := outputs.full(error):
        raise UserError(building.cannot_write(builder.data_dir_root, why)) from error
      raise
    report = building.finish(builder)
  for folder in ('downloads/extracted', 'downloads'):  # TFDS always creates them
    path = builder.data_dir_root / folder
    if path.is_dir() and not any(path.iterdir()):
      path.rmdir()
  if report is not None:
    print(report)
    count = sum(map(len, report.kept.values()))
    print(f'{count} clips in {report.seconds:.0f} s ({count / report.seconds:.1f} clips/s)')
  print(f'{builder.info.full_name}: {builder.data_dir}')


def _encode(builder, args):
  """Writes the feature caches selected by --latents and --speech."""
  from talkjax.corpora import feature_cache
  from talkjax.training import input_pipeline

  folder = pathlib.Path(builder.data_dir) / args.feature_cache
  splits = input_pipeline.all_splits(builder)
  for kind, encoder in _encoders(args.latents, args.size, args.speech, args.speech_layers).items():
    about = {'corpus': builder.info.full_name, **encoder.about}
    written = feature_cache.write(folder, kind, about, splits, encoder.encode)
    print(f'{builder.info.full_name}: {kind} {"in" if written else "are already in"} {folder}')


def _coefficients(builder, args):
  """Writes the coefficients selected by --coefficients."""
  from talkjax.weights import coefficients

  folder, written = coefficients.write(builder, args.coefficients, args.workers)
  print(f'{builder.info.full_name}: coefficients {"in" if written else "are already in"} {folder}')
  if lacking := coefficients.without_rows(folder):
    print(f'no face was found in {len(lacking)} clips, which training leaves out: {", ".join(lacking[:8])}')


@functools.cache
def _encoders(latents: str | None, size: int, speech: str | None, layers: str) -> dict:
  """The encoders selected by the flags, by kind."""
  # Imported here because worker processes import this file and need no JAX.
  from talkjax.weights import encoders
  from talkjax.weights import latents as autoencoders

  selected = {}
  if latents:
    selected['latents'] = autoencoders.encoder(latents, size)
  if speech:
    selected['speech'] = encoders.speech(speech, layers)
  return selected


def _with_config(cls, args):
  """Selects the first config if none is given."""
  generation = args.generation
  if not cls.BUILDER_CONFIGS or generation.config is not None or generation.config_idx is not None:
    return args
  first, *others = [c.name for c in cls.BUILDER_CONFIGS]
  if others:
    print(f'{cls.name}: building config {first!r} (select another with --config=NAME: {", ".join(others)})')
  return dataclasses.replace(args, generation=dataclasses.replace(generation, config=first))


def _check_manual_dir(cls, folder, manual_dir):
  if not cls.MANUAL_DOWNLOAD_INSTRUCTIONS:
    return
  instructions = ' '.join(cls.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
  if manual_dir is None:
    raise UsageError(f'{folder} needs --manual_dir=DIR: {instructions}')
  if not manual_dir.is_dir():
    raise UserError(f'--manual_dir={manual_dir}: no such folder; expected: {instructions}')
  if not any(manual_dir.iterdir()):
    raise UserError(f'--manual_dir={manual_dir} is empty; expected: {instructions}')


def _parser():
  """The parser of `tfds build`, extended by the flags of talkjax."""
  import simple_parsing
  import tensorflow_datasets as tfds
  from tensorflow_datasets.scripts.cli import build as tfds_build
  from tensorflow_datasets.scripts.cli import cli_utils

  tfds.disable_progress_bar()  # replaced by a progress bar over clips, which take most of the time
  logging.set_verbosity(logging.ERROR)

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Args(tfds_build.Args):
    """Builds a corpus from a TFDS builder folder."""

    workers: int | None = None  # Worker processes. None: one per core. 0: process clips in this process.
    # Maximum seconds per clip, after which it is skipped. inf: no limit. Not enforced with --workers=0 or --beam.
    clip_timeout: float = building.CLIP_TIMEOUT
    beam: bool = simple_parsing.flag(default=False)  # Run on Apache Beam; see --beam_pipeline_options.
    latents: str | None = None  # Workdir of the autoencoder for the frames (talkjax.convert --source=sd_vae).
    size: int = 512  # Side of the square frames to encode in pixels, as config.size.
    speech: str | None = None  # Workdir of the speech encoder for the audio (of talkjax.convert --source=wav2vec2).
    speech_layers: str = 'all'  # Layers of wav2vec 2.0 to store: all (for emo) or last (enough for vexpress).
    # Coefficients of a morphable model: mesh_pca, fitted to this corpus; mesh_pca:FOLDER, with the model of another
    # corpus; or deep3d:NETWORK,BFM, workdirs of talkjax.convert --source=deep3d and --source=bfm.
    coefficients: str | None = None
    feature_cache: str = 'feature_cache'  # Subfolder of the corpus for the features, as config.data.feature_cache.

  class Parser(cli_utils.ArgumentParser):
    def error(self, message):
      raise UsageError(f'{message}; see --help')

    def format_help(self):
      return _describe([action for action in self._actions if action.option_strings], set(Args.__annotations__))

  inherited = flags.FlagValues()  # excludes absl's own flags
  flags.DEFINE_bool(cli.DEBUG.name, False, cli.DEBUG.help, flag_values=inherited)
  parser = Parser(
    prog='python -m talkjax.build', description=__doc__, allow_abbrev=False, inherited_absl_flags=inherited
  )
  parser.add_arguments(Args, dest='args')
  return parser


def _parse(argv: list[str]):
  """Parses a command line and sets the defaults of talkjax. Raises UsageError."""
  for argument in argv[1:]:
    if re.fullmatch(r'--\w+=', argument):  # as of a shell variable that is not set; an empty path is the current folder
      raise UsageError(f'{argument[:-1]} is empty: give it a value, or leave it out')
  args = _parser().parse_args(argv[1:]).args
  flag_names = {a.lstrip('-').split('=')[0] for a in argv[1:] if a.startswith('-')}
  if 'data_dir' not in flag_names and 'TFDS_DATA_DIR' not in os.environ:
    args = dataclasses.replace(
      args, paths=dataclasses.replace(args.paths, data_dir=type(args.paths.data_dir)(DATA_DIR))
    )
  if args.generation.file_format is None:
    args = dataclasses.replace(args, generation=dataclasses.replace(args.generation, file_format='array_record'))
  if args.beam and not args.generation.beam_pipeline_options:  # required by TFDS; runs on this machine
    generation = dataclasses.replace(args.generation, beam_pipeline_options='runner=DirectRunner')
    args = dataclasses.replace(args, generation=generation)
  numbers = {
    'max_examples_per_split': (args.debug.max_examples_per_split, 1),
    'workers': (args.workers, 0),
    'config_idx': (args.generation.config_idx, 0),
    'num_shards': (args.generation.num_shards, 1),
    'max_shard_size_mb': (args.generation.max_shard_size_mb, 1),
  }
  for name, (value, least) in numbers.items():
    if value is not None and value < least:
      raise UsageError(f'--{name}={value}: expected {least} or more')
  if not args.clip_timeout > 0:  # also rejects NaN
    raise UsageError(f'--clip_timeout={args.clip_timeout:g}: expected seconds above 0, or inf for no limit')
  if 'clip_timeout' in flag_names and (args.workers == 0 or args.beam):
    conflict = '--beam' if args.beam else '--workers=0'
    raise UsageError(f'--clip_timeout kills worker processes, which {conflict} has none of: remove one of them')
  return args


def _describe(actions, own: set[str]) -> str:
  """The text of --help in the form of the other commands; `own` are the names of the flags that talkjax adds."""
  sections = {'Options': [cli.DEBUG], 'Options of the tfds command': []}
  for action in actions:
    name = next(s[2:] for s in action.option_strings if s.startswith('--')).replace('-', '_')
    if name in ('help', 'helpfull', 'dataset', 'debug') or action.help == argparse.SUPPRESS:
      continue
    text = _OTHER_HELP.get(name, ' '.join(action.help.replace('(default: %(default)s)', '').split()))
    default = None if name in _OTHER_HELP or action.default in (None, [], False) else action.default
    sections['Options' if name in own else 'Options of the tfds command'].append(Option(name, str, text, default))
  lines = [__doc__.strip()]
  for title, listed in sections.items():
    lines += ['', f'{title}:', *map(cli.describe_option, listed)]
  return '\n'.join(lines) + '\n'


def _has_beam() -> bool:
  try:
    import apache_beam  # noqa: F401
  except ImportError:
    return False
  return True


if __name__ == '__main__':
  sys.exit(main())

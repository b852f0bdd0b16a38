"""Builds a corpus: python -m talkjax.build data/grid --manual_dir=DIR [--data_dir=datasets --workers=N ...].

Takes any TFDS builder folder and the flags of the `tfds build` command (`--help` lists them), and needs no TensorFlow.
Unlike the stock command it writes array_record files, into `datasets/` of the current folder, and builds the first
config alone where no `--config` is given. An interrupted build goes on where it was when run again; a finished one is
left alone unless `--overwrite` is given. `--max_examples_per_split=N` makes a small trial of a large corpus.

  python -m talkjax.build data/hdtf --latents=runs/sd_vae --speech=runs/wav2vec2 --size=512

precomputes the features of frozen encoders, which training then reads instead of running them at every step
(talkjax/corpora/feature_cache.py).
"""

import contextlib
import dataclasses
import functools
import importlib
import io
import os
import pathlib
import sys

from absl import flags, logging

from talkjax import cli
from talkjax.corpora import building, records
from talkjax.errors import UsageError, UserError

DATA_DIR = 'datasets'


def main(argv: list[str] | None = None):
  """Runs the command; leaves by exit code as talkjax.cli says."""
  program, *rest = sys.argv if argv is None else argv
  ours = [a for a in rest if a.lstrip('-').split('=')[0] in ('debug', 'nodebug') and a.startswith('-')]
  cli.run(lambda _: build([program, *(a for a in rest if a not in ours)]), [program, *ours])


def build(argv: list[str]):
  """Builds what the command line (its first element is the program's name) asks for.

  Raises:
    UsageError: the command line is wrong.
    UserError: there is nothing to build from, or no clip of it can be used.
  """
  args = _parse(argv)
  folders = args.positional_datasets + args.datasets
  if not folders:
    raise UsageError('which corpus? give a builder folder: python -m talkjax.build data/grid --manual_dir=DIR')
  if args.generation.num_processes != 1:
    raise UsageError('--num_processes would build configs side by side: use --workers=N for parallel clips')
  if args.automation.exclude_datasets:
    raise UsageError('--exclude_datasets would build every corpus that TFDS knows: name the folders to build instead')
  if args.size < 1 or args.speech_layers not in ('all', 'last'):
    raise UsageError(
      f'--size={args.size} --speech_layers={args.speech_layers}: expected a number of pixels, and all or last'
    )
  if args.latents or args.speech:
    _encoders(args.latents, args.size, args.speech, args.speech_layers)  # errors come before anything is built
  if args.beam and not _has_beam():
    raise UserError('--beam needs Apache Beam, which is not installed: pip install "talkjax[beam]"')
  for module in (args.generation.imports or '').split(','):
    if module:
      importlib.import_module(module)
  for folder in folders:
    _build_one(folder, args)


def load(folder: str | os.PathLike) -> type:
  """The builder class in a TFDS builder folder (`data/grid` holds `grid_dataset_builder.py`).

  Raises:
    UserError: there is no such folder, or no builder in it.
  """
  from tensorflow_datasets.scripts.cli import build as tfds_build

  name = os.path.basename(os.path.normpath(folder))
  if not os.path.exists(folder):
    raise UserError(f'no folder {folder}: expected a TFDS builder folder such as data/grid')
  script = os.path.join(folder, f'{name}_dataset_builder.py')
  if os.path.isdir(folder) and not os.path.exists(script) and not os.path.exists(os.path.join(folder, f'{name}.py')):
    raise UserError(f'{folder} is not a TFDS builder folder: it has no {name}_dataset_builder.py')
  cls, _ = tfds_build._get_builder_cls_and_kwargs(os.fspath(folder), has_imports=False)
  return cls


def _build_one(folder: str, args):
  from tensorflow_datasets.scripts.cli import build as tfds_build

  if args.generation.imports:  # a name registered by an imported module, as in the stock command
    cls, kwargs = tfds_build._get_builder_cls_and_kwargs(folder, has_imports=True)
  else:
    cls, kwargs = load(folder), {}
  args = _with_config(cls, args)
  if args.debug.overwrite:  # before TFDS removes what is there
    _check_manual_dir(cls, folder, args.paths.manual_dir)
  try:
    builders = list(tfds_build._make_builders(args, cls, kwargs))
  except (ValueError, TypeError) as error:  # configs that do not exist, JSON that does not fit
    raise UsageError(f'--config={args.generation.config}: {error}') from error
  for builder in builders:
    built = builder.is_prepared() and not args.generation.update_metadata_only
    if not built:
      _check_manual_dir(cls, folder, args.paths.manual_dir)
    if args.generation.download_only:
      tfds_build._download(args, builder)
      continue
    if built:
      print(f'{builder.info.full_name} is already built: {builder.data_dir} (--overwrite builds it anew)')
    else:
      _make(builder, args)
    if args.latents or args.speech:
      _encode(builder, args)


def _make(builder, args):
  from tensorflow_datasets.scripts.cli import build as tfds_build

  with building.options(
    workers=args.workers,
    limit=args.debug.max_examples_per_split,
    beam=args.beam,
    clip_timeout=args.clip_timeout,
  ):
    # TFDS prints the whole of its info, which says less than our table.
    with contextlib.redirect_stdout(io.StringIO()):
      tfds_build._download_and_prepare(args, builder)
    report = building.finish(builder)
  for folder in ('downloads/extracted', 'downloads'):  # TFDS makes them, needed or not
    path = builder.data_dir_root / folder
    if path.is_dir() and not any(path.iterdir()):
      path.rmdir()
  if report is not None:
    print(report)
    made = sum(map(len, report.kept.values()))
    print(f'{made} clips in {report.seconds:.0f} s ({made / report.seconds:.1f} clips/s)')
  print(f'{builder.info.full_name}: {builder.data_dir}')


def _encode(builder, args):
  """Writes the sidecar that --latents and --speech ask for."""
  import grain

  from talkjax.corpora import feature_cache

  folder = pathlib.Path(builder.data_dir) / args.encoded
  splits = {
    name: grain.MapDataset.source(builder.as_data_source(split=name)).map(records.from_example)
    for name, info in builder.info.splits.items()
    if info.num_examples
  }
  for kind, encoder in _encoders(args.latents, args.size, args.speech, args.speech_layers).items():
    about = {'corpus': builder.info.full_name, **encoder.about}
    made = feature_cache.write(folder, kind, about, splits, encoder.encode)
    print(f'{builder.info.full_name}: {kind} {"in" if made else "are already in"} {folder}')


@functools.cache
def _encoders(latents: str | None, size: int, speech: str | None, layers: str) -> dict:
  """By kind, what the flags name."""
  from talkjax import encoders  # JAX is for those who ask for it: processes that make clips import this file too

  made = {}
  if latents:
    made['latents'] = encoders.latents(latents, size)
  if speech:
    made['speech'] = encoders.speech(speech, layers)
  return made


def _with_config(cls, args):
  """The first config where none is named."""
  generation = args.generation
  if not cls.BUILDER_CONFIGS or generation.config is not None or generation.config_idx is not None:
    return args
  first, *others = [c.name for c in cls.BUILDER_CONFIGS]
  if others:
    print(f'{cls.name}: building config {first!r} (others, by --config=NAME: {", ".join(others)})')
  return dataclasses.replace(args, generation=dataclasses.replace(generation, config=first))


def _check_manual_dir(cls, folder, manual_dir):
  if not cls.MANUAL_DOWNLOAD_INSTRUCTIONS:
    return
  what = ' '.join(cls.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
  if manual_dir is None:
    raise UsageError(f'{folder} needs --manual_dir=DIR: {what}')
  if not manual_dir.is_dir():
    raise UserError(f'--manual_dir={manual_dir}: no such folder; expected: {what}')
  if not any(manual_dir.iterdir()):
    raise UserError(f'--manual_dir={manual_dir} is empty; expected: {what}')


def _parse(argv: list[str]):
  """The tfds command's own parser, with our defaults and flags beside its own."""
  import simple_parsing
  import tensorflow_datasets as tfds
  from tensorflow_datasets.scripts.cli import build as tfds_build
  from tensorflow_datasets.scripts.cli import cli_utils

  tfds.disable_progress_bar()  # ours counts clips, which is where the time goes
  logging.set_verbosity(logging.ERROR)

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Args(tfds_build.Args):
    """Builds a corpus from a TFDS builder folder."""

    workers: int | None = None  # Processes that make clips. None: one a core. 0: no other process.
    # Seconds a clip may take; then it is skipped. inf: no limit. Not enforced by --workers=0 and --beam.
    clip_timeout: float = building.CLIP_TIMEOUT
    beam: bool = simple_parsing.flag(default=False)  # Run on Apache Beam; see --beam_pipeline_options.
    latents: str | None = None  # Workdir whose autoencoder encodes the pictures (talkjax.convert --source=sd_vae).
    size: int = 512  # Pixels of the squares that it encodes, as config.size.
    speech: str | None = None  # Workdir whose wav2vec 2.0 encodes the sound (talkjax.convert --source=wav2vec2).
    speech_layers: str = 'all'  # Of its states: all (emo), or last (vexpress needs no more).
    encoded: str = 'encoded'  # Where they go, in the corpus' folder; config.data.encoded reads them from there.

  class Parser(cli_utils.ArgumentParser):
    def error(self, message):
      raise UsageError(f'{message}; see --help')

  inherited = flags.FlagValues()  # of absl's flags one is ours; those of other commands have names that tfds has too
  inherited['debug'] = flags.FLAGS['debug']
  parser = Parser(
    prog='python -m talkjax.build', description=__doc__, allow_abbrev=False, inherited_absl_flags=inherited
  )
  parser.add_arguments(Args, dest='args')
  args = parser.parse_args(argv[1:]).args
  given = {a.lstrip('-').split('=')[0] for a in argv[1:] if a.startswith('-')}
  if 'data_dir' not in given and 'TFDS_DATA_DIR' not in os.environ:
    args = dataclasses.replace(
      args, paths=dataclasses.replace(args.paths, data_dir=type(args.paths.data_dir)(DATA_DIR))
    )
  if args.generation.file_format is None:
    args = dataclasses.replace(args, generation=dataclasses.replace(args.generation, file_format='array_record'))
  if args.beam and not args.generation.beam_pipeline_options:  # TFDS insists on some; this is Beam on this machine
    generation = dataclasses.replace(args.generation, beam_pipeline_options='runner=DirectRunner')
    args = dataclasses.replace(args, generation=generation)
  if args.workers is not None and args.workers < 0:
    raise UsageError(f'--workers={args.workers}: expected 0 or more')
  if not args.clip_timeout > 0:  # nor is it for NaN
    raise UsageError(f'--clip_timeout={args.clip_timeout:g}: expected seconds above 0, or inf for no limit')
  if 'clip_timeout' in given and (args.workers == 0 or args.beam):
    other = '--beam' if args.beam else '--workers=0'
    raise UsageError(f'--clip_timeout ends worker processes, which {other} has none of: leave one of them out')
  return args


def _has_beam() -> bool:
  try:
    import apache_beam  # noqa: F401
  except ImportError:
    return False
  return True


if __name__ == '__main__':
  main()

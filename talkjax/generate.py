"""Generates with a trained or converted workdir.

python -m talkjax.generate --workdir=runs/speech_edit --video=talk.mp4 --audio=other_speech.wav --output=out.mp4
python -m talkjax.generate --workdir=runs/emo_3 --image=portrait.jpg --audio=speech.wav --output=out.mp4
python -m talkjax.generate --workdir=runs/emo_3 --image='faces/*.jpg' --audio=a.wav,b.wav --output=videos/
python -m talkjax.generate --workdir=runs/vx_3 --image=portrait.jpg --audio=speech.wav --kps=talk.mp4 --output=out.mp4
python -m talkjax.generate --workdir=runs/vx_3 --image=a.jpg --audio=b.wav --sweep=audio_weight=0.5,1,2 --output=sweep/
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from talkjax import cli, message, options
from talkjax.errors import UsageError
from talkjax.media import outputs, picture, video
from talkjax.options import Option
from talkjax.pipeline import TITLE, Pipeline, comparison_of

COLUMNS = 12  # of comparison.png

OPTIONS = (
  Option('workdir', str, 'A workdir of talkjax.train or talkjax.convert.'),
  Option('output', str, 'The MP4 to write; the folder of several videos.', 'out.mp4'),
  Option('overwrite', bool, 'Replace existing files that talkjax did not generate.', False),
  Option(
    'seed',
    int,
    'Of the noise: the same seed gives the same video.',
    0,
    minimum=0,
    maximum=options.MAX_SEED,
  ),
  Option('batch_size', int, 'Videos generated together, of several.', minimum=1),
  Option('weights', str, 'The averaged weights, or the last raw ones.', 'ema', choices=('ema', 'params')),
  Option(
    'sweep',
    str,
    'An option and its values, as audio_weight=0.5,1,2: a video for each, generated together, and comparison.png.',
  ),
  Option('save_request', str, 'A JSON file of all that a receiver with these weights needs: no files.'),
  Option('request', str, 'A file of --save_request to generate from.'),
)


def compare(counts: Mapping[str, int], option: str) -> str:
  """Writes frames of videos of one size below each other, as comparison.png in their folder; returns its path.

  Each row is labelled with its video's name, of which only OPTION=VALUE where nothing else differs.

  Args:
    counts: how many frames each video has, by its path.
    option: that was swept.
  """
  last = min(counts.values()) - 1
  shown = set(np.linspace(0, last, min(last + 1, COLUMNS)).round().astype(int))  # few are kept: videos may be long
  rows = [[f for i, f in zip(range(last + 1), video.read_frames(path)) if i in shown] for path in counts]
  path = str(comparison_of(pathlib.Path(next(iter(counts))).parent))
  names = [pathlib.Path(p).stem.rpartition(f'_{option}=') for p in counts]
  several = len({first for first, _, _ in names}) > 1
  labels = [f'{first}_{option}={value}' if several else f'{option}={value}' for first, _, value in names]
  picture.write(path, picture.strip(rows, COLUMNS, labels), {'title': TITLE})
  return path


def _requested(args, pipeline: Pipeline) -> tuple[dict, int]:
  """(the systems' options that are asked for, the seed): those of the command line, or of the message it names.

  Raises:
    UsageError: options of both; UserError: the message cannot be read.
  """
  if args.request is None:
    return args.given, args.seed
  declared = pipeline.options.values()
  holds = {option.name for option in declared if option.message}
  if both := sorted(holds & args.given.keys()):
    raise UsageError(f'--request={args.request} says what is generated: leave out --{both[0]}')
  values, seed, fingerprint = message.load(args.request, declared)
  if fingerprint != pipeline.fingerprint:
    print(
      f'the message was made with other weights ({fingerprint}) than those of {args.workdir} ({pipeline.fingerprint}): '
      'the video will not be the same',
      file=sys.stderr,
    )
  return {**values, **args.given}, seed


def _main(args) -> None:
  options.required(
    args, ['workdir'], 'python -m talkjax.generate --workdir=DIR --video=V --audio=A --output=out.mp4 (see --help)'
  )
  pipeline = Pipeline(args.workdir, args.weights)
  sweep = options.parse_sweep(args.sweep, pipeline.config.system, pipeline.options.values())
  given, seed = _requested(args, pipeline)
  several = {name for name, option in pipeline.options.items() if option.several}
  inputs = {name: cli.files(name, value) if name in several else value for name, value in given.items()}
  how = {'seed': seed, 'sweep': sweep, 'batch_size': args.batch_size, 'overwrite': args.overwrite}
  if args.save_request is not None:
    read = [value for value in (args.request, *given.values()) if isinstance(value, str)]
    ours = None if args.overwrite else message.is_one
    outputs.check(args.save_request, ['.json'], flag='save_request', inputs=read, replaceable=ours)
    text = message.encode(given, seed, pipeline.fingerprint, pipeline.options.values())
  counts = pipeline.write(args.output, **how, **inputs)
  if args.save_request:
    message.save(args.save_request, text)
    seconds = next(iter(counts.values())) / video.probe(next(iter(counts))).fps
    size = len(text.encode())
    print(f'{args.save_request}: {size} bytes, {8 * size / seconds:.0f} bits per second of video')
  for path, count in counts.items():
    print(f'{path}: {count} frames')
  if sweep:
    print(compare(counts, sweep[0]))


def main(argv: Sequence[str] | None = None) -> int:
  return cli.run(_main, OPTIONS, __doc__, argv, of_systems=lambda option: True)


if __name__ == '__main__':
  sys.exit(main())

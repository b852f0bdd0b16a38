"""The motion of one person on the portraits of others: the lip score of what fd2talk renders from a motion file.

python -m tests.benchmarks.motion_transfer --workdir=runs/fd_3 [--portraits A.png B.jpg] [--strip=transfer.jpg]

The motion of the first clip of each person of a split, once that which is generated from its sound (`--save_motion`)
and once that of its video, is rendered on the person's own portrait, on that of the next person, and on each of the
given portraits. A lip score is the correlation with the mouth openings of the true video; mouths of puppets are found
in drawn frames, those of given portraits by their landmarks. The strip has the true video of the first clips, and below
it their motion on the next person's portrait and on the given ones.
"""

import argparse
import pathlib
import sys
import tempfile

import numpy as np
from absl import flags

import talkjax
from talkjax.corpora.coefficients import fingerprint
from talkjax.media import picture
from talkjax.media.segments import AUDIO_RATE
from talkjax.metrics import lips
from talkjax.metrics.suites import mouth_opening
from talkjax.systems import coefficients
from talkjax.systems.fd2talk import motion_files
from talkjax.systems.portrait import framing
from talkjax.training import checkpoint
from tests.benchmarks.coefficient_records import read_records

COLUMNS = 10


def clips_of(config, split: str) -> list:
  """The first clip of each person, with its coefficients."""
  clips = {}
  for record in read_records(config.data, split):
    clips.setdefault(record.speaker, record)
  return list(clips.values())


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--split', default='test')
  parser.add_argument('--portraits', nargs='*', default=[], metavar='FILE')
  parser.add_argument('--strip', help='a picture of the transferred videos')
  args = parser.parse_args()
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(['motion_transfer'])  # grain reads absl flags
  config, params, _ = checkpoint.load_params(args.workdir)
  model = coefficients.numpy_model_of(params, config)
  pipeline, clips = talkjax.load(args.workdir), clips_of(config, args.split)
  scores, rows = {}, []
  with tempfile.TemporaryDirectory() as folder:
    for number, (clip, following) in enumerate(zip(clips, clips[1:] + clips[:1])):
      sound = (clip.audio.astype(np.float32) / 32768, AUDIO_RATE)
      coefficient_rows = np.asarray(coefficients.rows_of(clip, config), np.float32)
      true = motion_files.of_rows(coefficient_rows, coefficient_rows[0], config.morphable.expression, config.fps)
      files = {kind: str(pathlib.Path(folder) / f'{clip.id}_{kind}.npz') for kind in ('generated', 'true')}
      motion_files.write(files['true'], true, model=model.name, fingerprint=fingerprint(model))
      own = pipeline.generate(image=clip.frame(0), audio=sound, save_motion=files['generated']).frames
      opening = lips.real_opening(clip.landmarks)
      portraits = {'own': clip.frame(0), 'next person': following.frame(0), **{p: p for p in args.portraits}}
      window = framing.of_record(clip, config.framing)
      shown = [[window.picture(clip.frame(i), config.size) for i in range(len(clip.frames))]]
      for kind, motion in files.items():
        for name, portrait in portraits.items():
          if (kind, name) != ('generated', 'own'):
            own = pipeline.generate(image=portrait, audio=sound, motion=motion).frames
          found = mouth_opening(own, clip.landmarks, 'landmarks' if name in args.portraits else 'found')
          scores.setdefault((kind, name), []).append(lips.lip_score(found[: len(opening)], opening[: len(found)]))
          if kind == 'generated' and name != 'own':
            shown.append(list(own))
      rows += shown if number < 2 else []
      print(f'{number + 1} of {len(clips)} clips', file=sys.stderr)
  for (kind, name), values in scores.items():
    defined = [v for v in values if np.isfinite(v)]
    mean, lowest = np.mean(defined), min(defined)
    print(f'{kind:10} {pathlib.Path(name).name:24} {mean:.3f}  lowest {lowest:.3f}  {len(defined)} clips')
  if args.strip:
    picture.write(args.strip, picture.strip(rows, COLUMNS))
  return 0


if __name__ == '__main__':
  sys.exit(main())

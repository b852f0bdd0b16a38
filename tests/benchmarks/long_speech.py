"""Whether the lips still follow the sound and images do not drift at the end of a long video.

  python -m tests.benchmarks.long_speech --workdir=runs/emo_tiny_2 [--seconds=60] [--portraits=4] [--output=F.json]

The sounds of held-out clips are concatenated to that duration, so the true mouth openings are known frame by frame.
Every portrait speaks it. For the first and the last ten seconds the script prints the lip score, and the mean
difference of the frames from the portrait, which grows if images drift.
"""

import argparse
import dataclasses
import json
import pathlib

import numpy as np

from talkjax import systems
from talkjax.media.segments import AUDIO_RATE
from talkjax.metrics import lips
from talkjax.metrics.suites import mouth_opening
from talkjax.training import checkpoint, input_pipeline
from talkjax.training.workdir import read_config

END = 10  # seconds that are scored at both ends


def joined(clips, seconds: float):
  """(a record with the concatenated sounds of clips, its true mouth openings [f])."""
  sounds, openings, length = [], [], 0.0
  for clip in clips:
    samples = round(len(clip.frames) / clip.fps * AUDIO_RATE)
    sounds.append(np.pad(clip.audio[:samples], (0, max(0, samples - len(clip.audio)))))
    openings.append(lips.real_opening(clip.landmarks))
    length += len(clip.frames) / clip.fps
    if length >= seconds:
      break
  count = round(min(length, seconds) * clips[0].fps)
  opening = np.concatenate(openings)[:count]
  audio = np.concatenate(sounds)[: round(count / clips[0].fps * AUDIO_RATE)]
  # Only the number of its frames is used.
  return dataclasses.replace(clips[0], id='joined', audio=audio, frames=clips[0].frames[:1] * count), opening


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--seconds', type=float, default=60.0)
  parser.add_argument('--portraits', type=int, default=4)
  parser.add_argument('--output')
  args = parser.parse_args()
  config = read_config(args.workdir)
  clips = list(input_pipeline.eval_records(config.data, 'test'))
  people = list({c.speaker: c for c in clips}.values())[: args.portraits]
  speech, opening = joined(clips, args.seconds)
  system = systems.build(config)
  _, params, _ = checkpoint.load_params(args.workdir, 'ema')
  batch = system.from_records(people, speech=[speech] * len(people), num_frames=len(opening))
  seeds = np.arange(len(people), dtype=np.uint32)
  generated = systems.join(system.generate(params, batch.conditions, seeds)).frames
  assert generated.shape[1] == len(opening)
  end = round(END * people[0].fps)
  figures = {'frames': len(opening), 'portraits': len(people)}
  for name, span in (('first', slice(0, end)), ('last', slice(len(opening) - end, None))):
    scores, changes = [], []
    for video, truth in zip(generated, batch.truth):
      found = mouth_opening(video[span], truth.landmarks, config.data.mouth)
      scores.append(lips.lip_score(found, opening[span]))
      changes.append(np.abs(video[span].astype(np.float32) - truth.frames[0]).mean())
    figures |= {f'lip_score_{name}': float(np.mean(scores)), f'change_{name}': float(np.mean(changes))}
  for name, value in figures.items():
    print(f'{name:16} {value:.3f}' if isinstance(value, float) else f'{name:16} {value}')
  if args.output:
    pathlib.Path(args.output).write_text(json.dumps(figures, indent=2) + '\n')


if __name__ == '__main__':
  main()

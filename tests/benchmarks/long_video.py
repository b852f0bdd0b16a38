"""Time and peak memory of `talkjax.generate` for videos of several lengths, each in a process of its own.

  python -m tests.benchmarks.long_video --workdir=runs/joint [--seconds=5,60] [--image=portrait.png] [--speech]

The sounds of held-out clips, concatenated, drive the video, and the first frame of a clip is its portrait; of a system
that generates sound too, only with --speech.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import soundfile

from talkjax import systems
from talkjax.media import picture, video
from talkjax.media.segments import AUDIO_RATE
from talkjax.training import input_pipeline
from talkjax.training.workdir import read_config
from tests.benchmarks import long_speech


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--seconds', default='5,60')
  parser.add_argument('--image')
  parser.add_argument('--speech', action='store_true')
  args = parser.parse_args()
  config = read_config(args.workdir)
  options = {option.name for option in systems.module(config.system).OPTIONS}
  clips = list(input_pipeline.eval_records(config.data, 'test'))
  with tempfile.TemporaryDirectory() as folder:
    image = args.image or str(pathlib.Path(folder) / 'portrait.png')
    if not args.image:
      picture.write(image, clips[0].frame(0))
    for seconds in map(float, args.seconds.split(',')):
      path = str(pathlib.Path(folder) / f'{seconds:g}.mp4')
      command = [sys.executable, '-m', 'talkjax.generate', f'--workdir={args.workdir}', f'--output={path}']
      if 'seconds' in options and not args.speech:
        command.append(f'--seconds={seconds}')
      else:
        sound = long_speech.joined(clips * 10, seconds)[0].audio
        soundfile.write(path + '.wav', sound, AUDIO_RATE)
        command += [f'--audio={path}.wav', f'--image={image}']
      start = time.perf_counter()
      process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
      _, status, usage = os.wait4(process.pid, 0)
      elapsed = time.perf_counter() - start
      assert status == 0, f'{" ".join(command)} failed'
      frames = sum(1 for _ in video.read_frames(path))
      peak, busy = usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime
      print(f'{frames} frames ({seconds:g} s): {elapsed:.0f} s, {busy:.0f} s of processor time, peak {peak:.0f} MiB')


if __name__ == '__main__':
  main()

"""Time and memory of our speech encoder on long sound.

  python -m tests.benchmarks.long_sound

Noise of each length is encoded in pieces in a process of its own; only the waveform (3.8 MB a minute) and what is kept
of the states grow with the length.
"""

import multiprocessing
import resource
import time

import numpy as np
from flax.traverse_util import unflatten_dict

from configs import common
from talkjax.media.segments import AUDIO_RATE
from talkjax.weights import speech

SECONDS = (60, 600)


def measure(seconds: int) -> None:
  encoder = speech.make(common.audio('speech_encoder'))
  params = unflatten_dict(speech.load(encoder), sep='/')
  waveform = np.random.default_rng(0).standard_normal(seconds * AUDIO_RATE, np.float32) / 10
  start = time.perf_counter()
  count = sum(len(states) for states in encoder.encode(params, waveform))
  elapsed = time.perf_counter() - start
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  print(f'{seconds:4} s of sound: {count} states in {elapsed:.1f} s, compilation included; peak {peak:.0f} MiB')


if __name__ == '__main__':
  for length in SECONDS:
    process = multiprocessing.get_context('spawn').Process(target=measure, args=(length,))
    process.start()
    process.join()

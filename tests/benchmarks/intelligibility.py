"""How intelligible speech text is in the videos of a joint_av workdir: ESTOI against what the speech engine said.

pip install pystoi
python -m tests.benchmarks.intelligibility --workdir=runs/joint [--clips=16]

Videos are generated from sentences of the test split, and their sound is read from the MP4 files. For comparison: the
same speech after the vocoder, an upper bound for generated spectrograms, and another sentence, a lower bound. ESTOI
(extended short-time objective intelligibility, Jensen and Taal 2016) is 1 for identical sound.
"""

import argparse
import pathlib
import sys
import tempfile
import zlib

import numpy as np
from absl import flags
from pystoi import stoi

import talkjax
from talkjax.media import audio, text_to_speech, vocoder
from talkjax.media.segments import AUDIO_RATE
from talkjax.training import input_pipeline


def estoi(reference: np.ndarray, degraded: np.ndarray) -> float:
  """ESTOI of two waveforms [s] of 16 kHz over the length of the shorter one."""
  length = min(len(reference), len(degraded))
  return float(stoi(reference[:length], degraded[:length], AUDIO_RATE, extended=True))


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--clips', type=int, default=16)
  args = parser.parse_args()
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(['intelligibility'])  # grain reads absl flags
  pipeline = talkjax.load(args.workdir)
  sentences = {r.transcript: r.caption for r in input_pipeline.eval_records(pipeline.config.data, 'test')}
  sentences = list(sentences.items())[: args.clips]
  spoken, scores = [], {'in the MP4': [], 'after the vocoder': [], 'another sentence': []}
  with tempfile.TemporaryDirectory() as folder:
    for text, caption in sentences:
      path = str(pathlib.Path(folder) / f'{len(spoken)}.mp4')
      # The picture does not matter: one sampling step, lips as they are.
      pipeline.write(path, text=text, caption=caption, steps=1, no_wav2lip=True)
      gender = text_to_speech.gender_of(caption)
      speech = text_to_speech.speak_text(text, gender=gender, seed=zlib.crc32(text.encode()))
      columns = vocoder.spectrogram(speech, round(len(speech) / AUDIO_RATE * pipeline.config.space.fps) * 2)
      scores['in the MP4'].append(estoi(speech, audio.read_audio(path)))
      scores['after the vocoder'].append(estoi(speech, vocoder.waveform(columns)))
      spoken.append(speech)
  for speech, following in zip(spoken, spoken[1:] + spoken[:1]):
    scores['another sentence'].append(estoi(speech, following))
  for name, values in scores.items():
    print(f'{name:20} {np.mean(values):.3f}  lowest {min(values):.3f}  {len(values)} sentences')
  return 0


if __name__ == '__main__':
  sys.exit(main())

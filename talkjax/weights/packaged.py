"""The weights of our own speech encoder that come with the package, in half precision.

launch/speech_encoder.sh made them: it trains the size `tiny` on the training split of `puppets`, evaluates it on the
test split, and writes the file and its description with

  python -m talkjax.weights.packaged --workdir=runs/speech_encoder --scores=runs/speech_encoder/test.json
"""

import argparse
import hashlib
import json
import pathlib

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict

from talkjax.training import checkpoint
from talkjax.weights.safetensors import read_safetensors

PATH = pathlib.Path(__file__).parent / 'speech_encoder_tiny.safetensors'
ABOUT = PATH.with_suffix('.json')  # command, corpus, scores and digest


def load() -> dict[str, np.ndarray]:
  """The parameters of the encoder by path, float32."""
  return {path: value.astype(np.float32) for path, value in read_safetensors(PATH).items()}


def write(workdir: str, scores: str) -> None:
  """Writes the averaged weights of a workdir's encoder, and what they are.

  Args:
    workdir: of speech_encoder.
    scores: the JSON file of its evaluation.
  """
  config, params, step = checkpoint.load_params(workdir)
  halves = {
    path: np.asarray(value, np.float16) for path, value in flatten_dict(params['speech_encoder'], sep='/').items()
  }
  safetensors.numpy.save_file(halves, PATH)
  measured = json.loads(pathlib.Path(scores).read_text())
  about = {
    'command': 'launch/speech_encoder.sh',
    'corpus': config.data.corpus,
    'trained_on': config.data.split,
    'steps': step,
    'evaluated_on': measured['split'],
    'clips': measured['clips'],
    'scores': {name: round(value, 4) for name, value in measured.items() if name.startswith('pearson_')},
    'sha256': hashlib.sha256(PATH.read_bytes()).hexdigest(),
  }
  ABOUT.write_text(json.dumps(about, indent=2) + '\n')


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--scores', required=True)
  args = parser.parse_args()
  write(args.workdir, args.scores)

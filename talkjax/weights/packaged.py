"""Weights of our own small networks that come with the package, in half precision.

Each is NAME.safetensors in this folder; NAME.json says what it is: command, corpus, scores, digest, and of an
autoencoder its `latents`. A script of launch/ trains a network on the training split of `puppets`, evaluates it on the
test split, and writes both files with

  python -m talkjax.weights.packaged --name=NAME --workdir=DIR --scores=DIR/test.json
"""

import argparse
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict

from talkjax.training import checkpoint
from talkjax.weights.safetensors import read_safetensors

FOLDER = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Network:
  """A network that comes with the package.

  Attributes:
    branch: of the parameters of the system that trains it, and of those that use it.
    command: the script that makes its files.
    scores: the beginnings of the names of the scores that its description has.
  """

  branch: str
  command: str
  scores: tuple[str, ...]


NETWORKS = {
  'speech_encoder_tiny': Network('speech_encoder', 'launch/speech_encoder.sh', ('pearson_',)),
  'puppets_autoencoder': Network('autoencoder', 'launch/puppets_autoencoder.sh', ('psnr', 'ssim', 'sharpness')),
}


def file(name: str) -> pathlib.Path:
  """The file of a network of NETWORKS."""
  return FOLDER / f'{name}.safetensors'


def about(name: str) -> dict[str, Any]:
  """The description of a network of NETWORKS."""
  return json.loads(file(name).with_suffix('.json').read_text())


def load(name: str) -> dict[str, np.ndarray]:
  """The parameters of a network of NETWORKS by path, float32."""
  return {path: value.astype(np.float32) for path, value in read_safetensors(file(name)).items()}


def load_part(name: str, wanted: Any, into: str, missing: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
  """A network of NETWORKS as the branch `into` of a larger tree, by path there.

  Args:
    name: of the network.
    wanted: the whole tree.
    into: the branch.
    missing: regexes of paths in the branch that the network may lack.

  Raises:
    UserError: other names or shapes differ.
  """
  weights = load(name)
  checkpoint.check_fit(weights, flatten_dict(wanted[into], sep='/'), name, missing)
  return {f'{into}/{path}': value for path, value in weights.items()}


def write(name: str, workdir: str, scores: str) -> None:
  """Writes the averaged weights of a workdir, and what they are.

  Args:
    name: of NETWORKS.
    workdir: of the system that trained it.
    scores: the JSON file of its evaluation.
  """
  network, path = NETWORKS[name], file(name)
  config, params, step = checkpoint.load_params(workdir)
  halves = {k: np.asarray(v, np.float16) for k, v in flatten_dict(params[network.branch], sep='/').items()}
  safetensors.numpy.save_file(halves, path)
  measured = json.loads(pathlib.Path(scores).read_text())
  numbers = {k: v for k, v in measured.items() if k.startswith(network.scores) and isinstance(v, float)}
  description = {
    'command': network.command,
    'corpus': config.data.corpus,
    'trained_on': config.data.split,
    'steps': step,
    'evaluated_on': measured['split'],
    'clips': measured['clips'],
    'scores': {k: round(v, 4) for k, v in numbers.items() if not k.endswith('_identity')},
    'sha256': hashlib.sha256(path.read_bytes()).hexdigest(),
  }
  if 'latents' in config:
    description['latents'] = config.latents.to_dict() | {'scaling': round(1 / measured['latent_deviation'], 4)}
  path.with_suffix('.json').write_text(json.dumps(description, indent=2) + '\n')


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--name', required=True, choices=NETWORKS)
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--scores', required=True)
  args = parser.parse_args()
  write(args.name, args.workdir, args.scores)

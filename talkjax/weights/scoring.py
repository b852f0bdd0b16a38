"""The frozen networks that published scores are computed with, from the workdirs of `talkjax.convert`.

`evaluate --metric_weights=DIR` reads DIR/inception, DIR/syncnet and so on. A network is compiled once for each size of
its input and splits every batch over all devices.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from talkjax.corpora import feature_cache
from talkjax.errors import UserError
from talkjax.media import picture
from talkjax.nn.lpips import LPIPS
from talkjax.training import checkpoint, sharding
from talkjax.weights import deep3d, pretrained

BATCH = {'inception': 16, 'i3d': 2, 'lpips': 16, 'syncnet': 16, 'hopenet': 16, 'deep3d': 16}  # per device


@dataclasses.dataclass(frozen=True)
class Network:
  """A network of scores: `network(name, *arrays)`.

  Attributes:
    key: a fingerprint of its weights.
    functions: by name, arrays [n, ...] -> array [n, ...].
    size: of its input in pixels, where that differs between networks of one name.
  """

  key: str
  functions: Mapping[str, Callable[..., np.ndarray]]
  size: int = 0

  def __call__(self, name: str, *arrays: np.ndarray) -> np.ndarray:
    return self.functions[name](*arrays)


def load(folder: str | pathlib.Path, names: Iterable[str]) -> dict[str, Network]:
  """The networks of a folder by name; one whose subfolder is missing is left out.

  Args:
    folder: has a workdir of `talkjax.convert --source=NAME` for each.
    names: which are wanted.

  Raises:
    UserError: there is no such folder, it has none of the networks, or a subfolder is of another network.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise UserError(f'--metric_weights={folder}: no such folder; make it with {command(folder, "inception")}')
  found = [path.name for path in folder.iterdir() if path.name in _FUNCTIONS]
  if not found:
    raise UserError(
      f'--metric_weights={folder} has none of the folders {", ".join(_FUNCTIONS)}: make them with '
      f'{command(folder, "inception")}'
    )
  return {name: _load(folder / name, name) for name in dict.fromkeys(names) if name in found}


def command(folder: str | pathlib.Path, name: str) -> str:
  """The command that makes the weights of a network."""
  return f'`python -m talkjax.convert --source={name} --path={pretrained.FILES[name][0]} --output={folder}/{name}`'


def _load(workdir: pathlib.Path, name: str) -> Network:
  config, params, _ = checkpoint.load_params(workdir)
  source = config.get('pretrained_network', config.get('system', 'something else'))
  if source != name:
    raise UserError(f'{workdir} is a workdir of {source}: expected that of {command(workdir.parent, name)}')
  flat = {path: np.asarray(x) for path, x in flatten_dict(params, sep='/').items()}
  net, shapes = _network(name, flat)
  checkpoint.check_fit(params, pretrained.shapes_of(net, *shapes), str(workdir))
  key = feature_cache.fingerprint(flat)
  params = sharding.replicate(params)
  return Network(key, {k: _batched(f, net, params, BATCH[name]) for k, f in _FUNCTIONS[name].items()})


def _network(name: str, params: Mapping[str, np.ndarray]) -> tuple[nn.Module, list[tuple[int, ...]]]:
  """(the network that has these parameters by path, the shapes of its inputs)."""
  if name == 'deep3d':
    return deep3d.network({path: x.shape for path, x in params.items()}), [(1, deep3d.SIZE, deep3d.SIZE, 3)]
  net, *shapes = pretrained.SCORING[name]
  if name == 'lpips' and any(path.startswith('features_2/') for path in params):
    net = LPIPS('vgg')
  return net, shapes


def _batched(function: Callable, net, params, per_device: int) -> Callable[..., np.ndarray]:
  """A function of arrays [n, ...] of any n, computed in batches of one size."""
  size = per_device * sharding.num_devices(params)
  place = sharding.batch_placement(params)

  @jax.jit
  def compiled(params, *arrays):
    # Scores are compared across machines: no reduced precision of an accelerator.
    with jax.default_matmul_precision('highest'):
      return function(net, {'params': params}, *arrays)

  def run(*arrays: np.ndarray) -> np.ndarray:
    made, count = [], len(arrays[0])
    for first in range(0, count, size):
      index = np.minimum(np.arange(first, first + size), count - 1)  # fills the last batch
      made.append(np.asarray(compiled(params, *(place(a[index]) for a in arrays)))[: count - first])
    return np.concatenate(made)

  return run


def _inception(net, params, frames):
  """Features [b, 2048] of uint8 frames [b, h, w, 3]."""
  return net.apply(params, frames.astype(jnp.float32) / 255)[0]


def _i3d(net, params, clips):
  """Logits [b, 400] of uint8 clips [b, 16, h, w, 3]."""
  return net.apply(params, clips.astype(jnp.float32))[0]


def _distance(net, params, a, b):
  """LPIPS [b] of uint8 frames [b, h, w, 3]."""
  return net.apply(params, *(picture.to_float(x.astype(jnp.float32)) for x in (a, b)))


def _lip(net, params, windows):
  """Embeddings [b, 1024] of uint8 windows [b, 5, 224, 224, 3] BGR."""
  return net.apply(params, windows.astype(jnp.float32), method='lip')


def _speech(net, params, windows):
  """Embeddings [b, 1024] of cepstra [b, 13, 20]."""
  return net.apply(params, windows[..., None], method='speech')


def _expression(net, params, faces):
  """Expression coefficients [b, 64] of uint8 faces [b, 224, 224, 3]."""
  identity, expression = net.heads[:2]
  return net.apply(params, faces.astype(jnp.float32) / 255)[0][:, identity : identity + expression]


def _hopenet(net, params, faces):
  """Angles [b, 3] of uint8 faces [b, 224, 224, 3]."""
  return net.apply(params, faces.astype(jnp.float32))[0]


_FUNCTIONS: dict[str, dict[str, Callable]] = {
  'inception': {'features': _inception},
  'i3d': {'logits': _i3d},
  'lpips': {'distance': _distance},
  'syncnet': {'lip': _lip, 'speech': _speech},
  'hopenet': {'angles': _hopenet},
  'deep3d': {'expression': _expression},
}

"""Where arrays live: a mesh of (data, fsdp, tensor) axes and rules from parameter names to partition specs."""

import math
import re

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from talkjax.errors import UserError

AXES = ('data', 'fsdp', 'tensor')


def make_mesh(sizes) -> Mesh:
  """A mesh over all devices of all processes.

  Args:
    sizes: mapping with some of `data`, `fsdp`, `tensor`; one of them may be -1 (whatever is left), missing ones are 1.

  Raises:
    UserError: the sizes do not multiply to the number of devices.
  """
  shape = [int(sizes.get(a, 1)) for a in AXES]
  count = jax.device_count()
  if shape.count(-1) == 1:
    rest = -math.prod(shape)
    shape[shape.index(-1)] = count // rest if rest and count % rest == 0 else 0
  if math.prod(shape) != count or min(shape) < 1:
    wanted = ' x '.join(f'{a}={int(sizes.get(a, 1))}' for a in AXES)
    raise UserError(
      f'mesh {wanted} does not cover {count} devices: set config.mesh so that the sizes multiply to {count}'
    )
  # Auto axes: linen's convolutions do not run under the Explicit default.
  return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Axis 0 split over data and fsdp: fsdp devices see different examples too."""
  return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def spread(count: int) -> tuple[NamedSharding, NamedSharding] | None:
  """How `count` examples lie over all devices, and what all devices share; None where there are too few of either."""
  devices = jax.device_count()
  if devices == 1 or count % devices:
    return None
  mesh = make_mesh({'data': -1})
  return batch_sharding(mesh), replicated(mesh)


def path_name(path) -> str:
  """A tree path as 'a/b/kernel', the name that every regex in a config is matched against."""
  return '/'.join(str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))) for k in path)


def tree_shardings(tree, mesh: Mesh, rules):
  """A NamedSharding for every leaf of a tree of shaped values.

  Args:
    tree: parameters, optimiser state, or any tree; leaves have `.shape`.
    mesh: from `make_mesh`.
    rules: sequence of (regex, spec): the first regex that is found in the leaf's path decides. A spec is a sequence of
      axis names or None per array axis, or 'fsdp': split the largest axis that the fsdp size divides, or 'replicated'.
      Leaves no rule names are replicated.
  """

  def sharding(path, leaf):
    name = path_name(path)
    for regex, spec in rules:
      if re.search(regex, name):
        return NamedSharding(mesh, spec_of(spec, leaf.shape, mesh))
    return replicated(mesh)

  return jax.tree_util.tree_map_with_path(sharding, tree)


def spec_of(spec, shape, mesh: Mesh) -> PartitionSpec:
  """The PartitionSpec that a rule means for an array of this shape (see `tree_shardings`)."""
  if spec == 'replicated' or not shape:
    return PartitionSpec()
  if spec == 'fsdp':
    size = mesh.shape['fsdp']
    axes = [i for i in np.argsort(shape)[::-1] if shape[i] % size == 0 and shape[i] >= size]
    return (
      PartitionSpec(*('fsdp' if axes and i == axes[0] else None for i in range(len(shape))))
      if size > 1
      else PartitionSpec()
    )
  return PartitionSpec(*(tuple(a) if isinstance(a, (list, tuple)) else a for a in spec))

"""Sharding: a mesh with axes (data, fsdp, tensor), and rules from parameter names to partition specs."""

import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from talkjax.errors import UserError

AXES = ('data', 'fsdp', 'tensor')


def make_mesh(sizes, examples: int | None = None) -> Mesh:
  """A mesh over all devices of all processes.

  Args:
    sizes: mapping with some of `data`, `fsdp`, `tensor`; one may be -1 (all remaining devices), missing ones are 1.
    examples: that are split over `data` and `fsdp` at once. With data=-1, a single process leaves out the devices that
      would have none, so that a small batch runs on any machine.

  Raises:
    UserError: the product of the sizes is not the number of devices.
  """
  shape = [int(sizes.get(a, 1)) for a in AXES]
  count = jax.device_count()
  if shape.count(-1) == 1:
    others = -math.prod(shape)
    size = count // others if others and count % others == 0 else 0
    if shape[0] == -1 and size and examples and examples % shape[1] == 0 and jax.process_count() == 1:
      size = max(n for n in range(1, size + 1) if examples // shape[1] % n == 0)
      count = size * others
    shape[shape.index(-1)] = size
  if math.prod(shape) != count or min(shape) < 1:
    wanted = ' x '.join(f'{a}={int(sizes.get(a, 1))}' for a in AXES)
    raise UserError(
      f'mesh {wanted} does not cover {count} devices: set config.mesh so that the sizes multiply to {count}'
    )
  # Auto axes, because Flax linen's convolutions do not run with the default Explicit axes.
  return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=jax.devices()[:count])


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Axis 0 sharded over data and fsdp: devices along fsdp also get different examples."""
  return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def replicate(params):
  """Copies of parameters on all devices, so that generation runs on all of them; as they are with a single device."""
  if jax.device_count() == 1:
    return params
  return jax.device_put(params, replicated(make_mesh({'data': -1})))


def num_devices(params) -> int:
  """How many devices parameters are on."""
  return max((len(x.sharding.device_set) for x in jax.tree.leaves(params) if isinstance(x, jax.Array)), default=1)


def batch_placement(params) -> Callable[[np.ndarray], jax.Array]:
  """A function that puts arrays [b, ...] on the devices where parameters are.

  Batches are split over several devices where b is a multiple of their number, and replicated otherwise.
  """
  mesh = next((x.sharding.mesh for x in jax.tree.leaves(params) if _is_on_mesh(x)), None)
  if mesh is None:
    return jnp.asarray
  return lambda x: jax.device_put(x, replicated(mesh) if len(x) % mesh.size else batch_sharding(mesh))


def whole_placement(params) -> Callable[[np.ndarray], jax.Array]:
  """A function that puts arrays on the devices where parameters are, whole on each."""
  mesh = next((x.sharding.mesh for x in jax.tree.leaves(params) if _is_on_mesh(x)), None)
  return jnp.asarray if mesh is None else lambda x: jax.device_put(x, replicated(mesh))


def _is_on_mesh(x) -> bool:
  return isinstance(x, jax.Array) and isinstance(x.sharding, NamedSharding) and x.sharding.mesh.size > 1


def path_name(path) -> str:
  """A tree path as 'a/b/kernel', the name that every regex in a config is matched against."""
  return '/'.join(str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))) for k in path)


def tree_shardings(tree, mesh: Mesh, rules):
  """A NamedSharding for every leaf of a tree of shaped values.

  Args:
    tree: parameters, optimiser state or any other tree whose leaves have `.shape`.
    mesh: from `make_mesh`.
    rules: sequence of (regex, spec): the first regex found in the leaf's path decides. A spec is a sequence of an axis
      name or None per array axis, or 'fsdp' (shard the largest axis that is divisible by the fsdp size), or
      'replicated'. Leaves that match no rule are replicated.
  """

  def sharding(path, leaf):
    name = path_name(path)
    for regex, spec in rules:
      if re.search(regex, name):
        return NamedSharding(mesh, spec_of(spec, leaf.shape, mesh))
    return replicated(mesh)

  return jax.tree_util.tree_map_with_path(sharding, tree)


def spec_of(spec, shape, mesh: Mesh) -> PartitionSpec:
  """The PartitionSpec of a rule for an array of this shape (see `tree_shardings`)."""
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

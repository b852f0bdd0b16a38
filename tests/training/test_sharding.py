import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from talkjax.errors import UserError
from talkjax.training import sharding
from tests.commands import ROOT

# What becomes of parameters and batches on eight devices.
EIGHT = """
import json
import jax, numpy as np
from jax.sharding import PartitionSpec
from talkjax.training import sharding

params = {'kernel': np.arange(48.0).reshape(6, 8), 'step': jax.numpy.zeros(()), 'name': None}
one = jax.device_put(params, jax.devices()[3])
all_ = sharding.replicate(params)
mesh = sharding.make_mesh({'data': 2, 'fsdp': -1})
rules = (('bias', 'replicated'), ('kernel', 'fsdp'))
sharded = jax.device_put(all_, sharding.tree_shardings(all_, mesh, rules))
placed = {}
for name, tree in {'numpy': {'kernel': params['kernel']}, 'one': one, 'all': all_, 'sharded': sharded}.items():
  place = sharding.batch_placement(tree)
  for count in (1, 6, 8, 16):
    batch = np.arange(count * 3.0).reshape(count, 3)
    made = place(batch)
    assert (np.asarray(made) == batch).all()
    rows = sorted(s.data.shape[0] for s in made.addressable_shards)
    placed[f'{name} {count}'] = [len(made.sharding.device_set), *sorted({rows[0], rows[-1]})]
# Rows of a batch meet the parameters where they are: nothing is moved and the result is that of one device.
x = np.random.default_rng(0).standard_normal((16, 6)).astype(np.float32)
product = jax.jit(lambda p, x: x @ p['kernel'])(all_, sharding.batch_placement(all_)(x))
np.testing.assert_allclose(product, x @ params['kernel'].astype(np.float32), rtol=1e-5)
print(json.dumps({
  'devices': jax.device_count(),
  'num_devices': [sharding.num_devices(t) for t in (params, one, all_, sharded, {})],
  'equal': all((np.asarray(s.data) == params['kernel']).all() for s in all_['kernel'].addressable_shards),
  'mesh': dict(mesh.shape),
  'of_batch': {
    f'{examples} {sizes}': list(sharding.make_mesh(sizes, examples).shape.values())
    for examples, sizes in ((16, {'data': -1}), (4, {'data': -1}), (12, {'data': -1}), (1, {'data': -1}),
                            (4, {'data': -1, 'fsdp': 2}), (4, {'data': -1, 'fsdp': 8}), (4, {'data': 8}))
  },
  'kernel': [list(s.data.shape) for s in sharded['kernel'].addressable_shards],
  'step': sharded['step'].sharding.is_fully_replicated,
  'product': str(product.sharding.spec),
  'placed': placed,
}))
"""


@pytest.fixture(scope='module')
def eight():
  env = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
  env['XLA_FLAGS'] = f'{env.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=8'
  done = subprocess.run([sys.executable, '-c', EIGHT], env=env, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout)


def test_replicated_parameters_are_whole_on_every_device(eight):
  assert eight['devices'] == 8 and eight['equal']
  #                               numpy, one device, replicated, sharded, nothing
  assert eight['num_devices'] == [1, 1, 8, 8, 1]


def test_rules_split_parameters_over_the_mesh(eight):
  assert eight['mesh'] == {'data': 2, 'fsdp': 4, 'tensor': 1}
  assert eight['kernel'] == [[6, 2]] * 8 and eight['step']


def test_a_small_batch_leaves_devices_out_unless_the_mesh_is_given(eight):
  assert eight['of_batch'] == {
    "16 {'data': -1}": [8, 1, 1],
    "4 {'data': -1}": [4, 1, 1],
    "12 {'data': -1}": [6, 1, 1],
    "1 {'data': -1}": [1, 1, 1],
    "4 {'data': -1, 'fsdp': 2}": [2, 2, 1],
    "4 {'data': -1, 'fsdp': 8}": [1, 8, 1],  # refused by training, which says what to set
    "4 {'data': 8}": [8, 1, 1],
  }


def test_batches_go_where_the_parameters_are(eight):
  # Devices, and the fewest and most rows on one.
  assert {k: v for k, v in eight['placed'].items() if k.split()[0] in ('numpy', 'one')} == {
    f'{where} {count}': [1, count] for where in ('numpy', 'one') for count in (1, 6, 8, 16)
  }
  for where in ('all', 'sharded'):
    assert [eight['placed'][f'{where} {count}'] for count in (1, 6, 8, 16)] == [[8, 1], [8, 6], [8, 1], [8, 2]]
  assert 'data' in eight['product']


def test_on_one_device_nothing_is_moved():
  if jax.device_count() > 1:
    pytest.skip('there are several devices')
  params = {'kernel': jax.numpy.ones((2, 2))}
  assert sharding.replicate(params) is params and sharding.num_devices(params) == 1
  np.testing.assert_array_equal(sharding.batch_placement(params)(np.ones((3, 2))), np.ones((3, 2)))


def test_mesh_takes_what_is_left():
  mesh = sharding.make_mesh({'data': -1})
  assert dict(mesh.shape) == {'data': jax.device_count(), 'fsdp': 1, 'tensor': 1}


def test_mesh_that_does_not_cover_the_devices_is_refused():
  with pytest.raises(UserError, match='does not cover'):
    sharding.make_mesh({'data': -1, 'fsdp': jax.device_count() + 1})


@pytest.mark.parametrize(
  ('spec', 'shape', 'expected'),
  [
    ('fsdp', (3, 3, 9, 64), PartitionSpec(None, None, None, 'fsdp')),  # the largest axis that 8 divides
    ('fsdp', (64, 128), PartitionSpec(None, 'fsdp')),
    ('fsdp', (7, 5), PartitionSpec(None, None)),  # none does
    ('replicated', (64, 128), PartitionSpec()),
    ((None, 'tensor'), (64, 128), PartitionSpec(None, 'tensor')),
  ],
)
def test_specs(spec, shape, expected):
  class Mesh:  # only its sizes are read
    shape = {'data': 1, 'fsdp': 8, 'tensor': 1}

  assert sharding.spec_of(spec, shape, Mesh) == expected

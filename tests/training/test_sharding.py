import jax
import pytest
from jax.sharding import PartitionSpec

from talkjax.errors import UserError
from talkjax.training import sharding


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

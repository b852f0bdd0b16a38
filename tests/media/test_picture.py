"""Pictures come back; strips show rows under each other; the scale of networks is that of numpy."""

import jax
import numpy as np
import pytest

from talkjax.errors import UserError
from talkjax.media import picture


def test_a_picture_comes_back(tmp_path):
  rgb = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
  picture.write(tmp_path / 'deep' / 'a.png', rgb)
  assert (picture.read(tmp_path / 'deep' / 'a.png') == rgb).all()
  assert [p.name for p in (tmp_path / 'deep').iterdir()] == ['a.png']
  with pytest.raises(UserError, match='no file'):
    picture.read(tmp_path / 'b.png')
  (tmp_path / 'c.png').write_bytes(b'nothing')
  with pytest.raises(UserError, match='not a readable picture'):
    picture.read(tmp_path / 'c.png')
  with pytest.raises(UserError, match='cannot write'):
    picture.write(tmp_path / 'c.png' / 'd.png', rgb)


def test_a_strip_has_truth_above_and_generated_below():
  truth = [np.full((4, 6, 3), i, np.uint8) for i in range(30)]
  made = [np.full((4, 6, 3), 100 + i, np.uint8) for i in range(29)]
  strip = picture.strip([truth, made], columns=5)
  assert strip.shape == (4 * 2 + 2, 6 * 5 + 2 * 4, 3)
  assert strip[0, ::8, 0].tolist() == [0, 7, 14, 21, 28]
  assert strip[9, ::8, 0].tolist() == [100, 107, 114, 121, 128]
  assert (strip[4:6] == 255).all()
  assert picture.strip([truth[:1]]).shape == (4, 6, 3)
  named = picture.strip([truth, made], columns=5, labels=['true', 'generated'])
  margin = named.shape[1] - strip.shape[1]
  assert margin > 0 and (named[:, margin:] == strip).all() and (named[:, :margin] < 255).any()
  with pytest.raises(ValueError, match='no frames'):
    picture.strip([truth, []])


def test_the_scale_of_networks_is_the_same_on_the_device_as_in_numpy():
  values = np.tile(np.arange(256, dtype=np.uint8), 64)
  scaled = picture.to_float(values)
  assert scaled.dtype == np.float32 and (scaled.min(), scaled.max()) == (-1, 1)
  # `--xla_backend_optimization_level=0` of the other tests would hide that a product and a sum are fused.
  optimised = jax.jit(picture.to_float).lower(values).compile({'xla_backend_optimization_level': 3})
  np.testing.assert_array_equal(optimised(values), scaled)
  np.testing.assert_array_equal(picture.to_uint8(scaled), values)

"""Pictures come back; strips show rows under each other; the scale of networks is that of numpy."""

import struct
import zlib

import jax
import numpy as np
import pytest

from talkjax.errors import UserError
from talkjax.media import picture
from tests.hostile import media_files


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


def png(width: int, height: int) -> bytes:
  """A PNG whose header announces a size and whose pixels are missing."""
  chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
  header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b'')


@pytest.mark.parametrize('size', [(60_000, 60_000), (12_000, 12_000), (2**31 - 1, 1)])
def test_a_huge_picture_is_refused_before_it_is_decoded(size, tmp_path):
  (tmp_path / 'a.png').write_bytes(png(*size))
  with pytest.raises(UserError, match='more than 134 million pixels'):
    picture.read(tmp_path / 'a.png')


@pytest.mark.parametrize('content', [png(8, 8)[:30], b'<svg><use href="#a"/></svg>', b'GIF89a', b'\xff\xd8\xff'])
def test_what_opencv_cannot_decode_is_no_picture(content, tmp_path):
  (tmp_path / 'a.png').write_bytes(content)
  with pytest.raises(UserError, match='not a readable picture'):
    picture.read(tmp_path / 'a.png')


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


def test_a_picture_whose_size_cannot_be_read_is_not_decoded(tmp_path):
  """Pillow stops at a text with a wrong checksum, which OpenCV ignores: the size has not been checked."""
  text = b'\0\0\0\x08tEXta\0b\0c\0d\0' + bytes(4)
  (tmp_path / 'a.png').write_bytes(media_files.png(30_000, 30_000, bytes(1000), before=text))
  with pytest.raises(UserError, match='is not a readable picture'):
    picture.read(tmp_path / 'a.png')

import dataclasses

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from talkjax.corpora import records
from tests.example_record import full_record


def bare_record(name='bare'):
  full = full_record(2, name)
  empty = records.Record(
    **{f.name: getattr(full, f.name) for f in dataclasses.fields(full) if f.default is dataclasses.MISSING
       and f.default_factory is dataclasses.MISSING}
  )  # fmt: skip
  return dataclasses.replace(empty, speaker='', gender='', transcript='', audio=np.zeros(0, np.int16))


def assert_same(a, b):
  for field in dataclasses.fields(records.Record):
    left, right = getattr(a, field.name), getattr(b, field.name)
    if isinstance(left, np.ndarray):
      assert left.dtype == right.dtype and left.shape == right.shape, field.name
      np.testing.assert_array_equal(left, right, err_msg=field.name)
    else:
      assert left == right and type(left) is type(right), field.name


class Written(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')
  pkg_dir_path = epath.Path(__file__).parent

  def _info(self):
    return self.dataset_info_from_configs(features=records.features())

  def _split_generators(self, dl_manager):
    return {'train': ((r.id, records.to_example(r)) for r in (full_record(), bare_record()))}

  def _generate_examples(self):
    raise NotImplementedError


def test_a_record_comes_back_from_disk_as_it_went(tmp_path):
  builder = Written(data_dir=tmp_path, file_format='array_record')
  builder.download_and_prepare()
  reader = tfds.builder_from_directory(builder.data_dir)  # as who has the files alone
  back = {r.id: r for r in map(records.from_example, reader.as_data_source('train'))}
  assert set(back) == {'clip-ä', 'bare'}
  assert_same(back['clip-ä'], full_record())
  assert_same(back['bare'], bare_record())


def test_a_frame_is_decoded_alone_and_close_to_what_it_was():
  record = full_record(size=(40, 24))
  frame = record.frame(2)
  assert frame.shape == (40, 24, 3) and frame.dtype == np.uint8
  rows, columns = np.mgrid[:40, :24]
  truth = np.stack([np.minimum(8 * columns, 255), (8 * rows) % 256, np.full((40, 24), 40)], -1)
  assert np.abs(frame[:30].astype(int) - truth[:30]).mean() < 4  # above row 32 the ramp does not wrap


def test_colour_of_small_things_survives_encoding():
  picture = np.full((16, 16, 3), 120, np.uint8)
  picture[8, 4:12] = (200, 40, 40)  # a lip, one pixel high
  back = records.decode_picture(records.encode_picture(picture)).astype(int)
  assert (back[8, 5:11, 0] - back[8, 5:11, 1]).min() > 100

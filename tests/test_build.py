import json
import os
import pathlib
import resource
import subprocess
import sys

import pytest

from talkjax import build
from talkjax.corpora import building
from talkjax.errors import UsageError, UserError

ROOT = pathlib.Path(__file__).parent.parent

BUILDER = """
import dataclasses, os, pathlib, time
import numpy as np
import tensorflow_datasets as tfds
from talkjax.corpora import building, records

@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
  shade: int = 50

def make_record(item):
  name, shade = item
  text = pathlib.Path(name).read_text()
  if text == 'die':
    os._exit(7)
  if text == 'hang':
    time.sleep(600)
  if text != 'fine':
    raise building.Skip('not fine')
  frame = records.encode_picture(np.full((8, 8, 3), shade, np.uint8))
  return records.Record(
    id=os.path.basename(name), speaker='', gender='', caption='', transcript='', fps=25.0, frames=(frame,), size=(8, 8),
    audio=np.zeros(640, np.int16), box=np.zeros((1, 4), np.float32), landmarks=np.zeros((1, 68, 2), np.float32),
    pose=np.zeros((1, 3), np.float32))

class Builder(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')
  MANUAL_DOWNLOAD_INSTRUCTIONS = 'a folder of notes'
  BUILDER_CONFIGS = [Config(name='dark'), Config(name='light', shade=200)]
  def _info(self):
    return self.dataset_info_from_configs(features=records.features())
  def _split_generators(self, dl_manager):
    paths = sorted(dl_manager.manual_dir.iterdir())
    items = {p.name: (str(p), self.builder_config.shade) for p in paths}
    return building.generate(self, {'train': items}, make_record)
  def _generate_examples(self):
    raise NotImplementedError
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A TFDS builder folder; one for the module, as TFDS knows a builder's name once a process."""
  folder = tmp_path_factory.mktemp('corpora') / 'notes'
  folder.mkdir()
  (folder / '__init__.py').touch()
  (folder / 'notes_dataset_builder.py').write_text(BUILDER)
  return folder


@pytest.fixture
def notes(tmp_path):
  notes = tmp_path / 'notes'
  notes.mkdir()
  for name, text in (('a', 'fine'), ('b', 'die'), ('c', 'fine'), ('d', 'sad'), ('e', 'fine')):
    (notes / name).write_text(text)
  return notes


def test_the_command_builds_reports_and_leaves_a_finished_dataset_alone(folder, notes, tmp_path):
  # As users run it: another process, another folder, the default place.
  command = [sys.executable, '-m', 'talkjax.build', str(folder), f'--manual_dir={notes}', '--workers=2']
  env = {**os.environ, 'PYTHONPATH': str(ROOT)}
  env.pop('TFDS_DATA_DIR', None)
  first = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
  assert first.returncode == 0, first.stderr
  data = tmp_path / 'datasets/notes/dark/1.0.0'
  assert data.is_dir() and list(data.glob('*.array_record*'))
  table = first.stdout.splitlines()
  row = next(line for line in table if line.startswith('train'))
  assert row.split()[:4] == ['train', '5', '3', '2']
  assert '1 x not fine' in first.stdout and 'exit code 7' in first.stdout and str(data.name) in table[-1]
  assert 'light' in first.stdout  # the config that was not built is named
  report = json.loads((data / building.REPORT).read_text())
  assert report['splits']['train']['kept_clips'] == ['a', 'c', 'e']
  assert [p.name for p in data.parent.iterdir()] == ['1.0.0']  # nothing else stays behind
  assert [p.name for p in (tmp_path / 'datasets').iterdir()] == ['notes']

  times = {p: p.stat().st_mtime_ns for p in data.iterdir()}
  second = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
  assert (
    second.returncode == 0 and 'already built' in second.stdout and str(data.relative_to(tmp_path)) in second.stdout
  )
  assert {p: p.stat().st_mtime_ns for p in data.iterdir()} == times

  (notes / 'd').write_text('fine')
  build.build([*command[2:], f'--data_dir={tmp_path / "datasets"}', '--overwrite'])
  assert json.loads((data / building.REPORT).read_text())['splits']['train']['kept'] == 4


def run(*arguments):
  build.build(['build', *map(str, arguments)])


def test_flags_of_the_tfds_command_work(folder, notes, tmp_path):
  (notes / 'b').unlink()
  run(folder, f'--manual_dir={notes}', f'--data_dir={tmp_path}/one', '--workers=0', '--config=light')
  assert (tmp_path / 'one/notes/light/1.0.0').is_dir()
  run(folder, f'--manual_dir={notes}', '--data_dir', f'{tmp_path}/two', '--workers=0', '--config_idx=1',
      '--max_examples_per_split=1', '--file_format=array_record')  # fmt: skip
  report = json.loads((tmp_path / 'two/notes/light/1.0.0' / building.REPORT).read_text())
  assert report['limit'] == 1 and report['splits']['train']['kept_clips'] == ['a']
  run(
    folder, f'--manual_dir={notes}', f'--data_dir={tmp_path}/three', '--workers=0', '--config={"name": "x", "shade": 9}'
  )
  (record,) = build.load(folder)(data_dir=tmp_path / 'two', config='light').as_data_source('train')
  assert record['id'] == b'a'
  assert (tmp_path / 'three/notes/x/1.0.0').is_dir()


@pytest.mark.parametrize(
  ('arguments', 'error', 'match'),
  [
    ([], UsageError, 'which corpus'),
    (['nowhere'], UserError, 'no folder nowhere'),
    (['{empty}'], UserError, 'empty_dataset_builder.py'),
    (['{file}'], UserError, 'file.mp4 is a file: expected a TFDS builder folder'),
    (['{folder}', '--data_dir='], UsageError, '--data_dir is empty: give it a value'),
    (['{folder}', '--imports=nothing'], UsageError, '--imports=nothing cannot be imported'),
    (['{folder}', '--manual_dir={notes}', '--data_dir={file}'], UserError, 'file.mp4 is not a folder'),
    (['{folder}'], UsageError, 'needs --manual_dir=DIR: a folder of notes'),
    (
      ['{folder}', '--manual_dir=nowhere'],
      UserError,
      'manual_dir=nowhere: no such folder; expected: a folder of notes',
    ),
    (['{folder}', '--manual_dir={empty}'], UserError, 'is empty; expected: a folder of notes'),
    (['{folder}', '--manual_dir={notes}', '--config=grey'], UsageError, 'grey'),
    (['{folder}', '--manual_dir={notes}', '--config_idx=7'], UsageError, '7'),
    (['{folder}', '--manual_dir={notes}', '--config={{"size": }}'], UsageError, 'config'),
    (['{folder}', '--manual_dir={notes}', '--config={{"name": "../../x"}}'], UsageError, 'is no name of a config'),
    (
      ['{folder}', '--manual_dir={notes}', '--config={{"name": "x", "shade": -5}}'],
      UsageError,
      'shade=-5 is out of range',
    ),
    (['{folder}', '--manual_dir={notes}', '--max_examples_per_split=0'], UsageError, '=0: expected 1 or more'),
    (['{folder}', '--num_shards=0'], UsageError, '--num_shards=0: expected 1 or more'),
    (['{folder}', '--config_idx=-1'], UsageError, '--config_idx=-1: expected 0 or more'),
    (['{folder}', '--manual_dri=x'], UsageError, '--manual_dri'),
    (['{folder}', '--workers=many'], UsageError, 'workers'),
    (['{folder}', '--workers=-1'], UsageError, 'workers'),
    (['{folder}', '--clip_timeout=soon'], UsageError, 'clip_timeout'),
    (['{folder}', '--clip_timeout=0'], UsageError, '--clip_timeout=0: expected seconds above 0'),
    (['{folder}', '--clip_timeout=-5'], UsageError, '--clip_timeout=-5: expected seconds above 0'),
    (['{folder}', '--clip_timeout=nan'], UsageError, '--clip_timeout=nan: expected seconds above 0'),
    (['{folder}', '--clip_timeout=5', '--workers=0'], UsageError, '--clip_timeout .* --workers=0 has none of'),
    (['{folder}', '--clip_timeout=5', '--beam'], UsageError, '--clip_timeout .* --beam has none of'),
    (['{folder}', '--feature_cache=../../x'], UsageError, 'the name of a folder in that of the corpus'),
    (['{folder}', '--num_processes=2'], UsageError, '--workers=N'),
  ],
)
def test_errors_say_what_was_expected(folder, notes, tmp_path, arguments, error, match):
  empty = tmp_path / 'empty'
  empty.mkdir()
  (file := tmp_path / 'file.mp4').write_bytes(b'')
  with pytest.raises(UserError, match=match) as caught:
    places = {'folder': folder, 'notes': notes, 'empty': empty, 'file': file}
    run(f'--data_dir={tmp_path}/data', *(a.format(**places) for a in arguments))
  assert type(caught.value) is error
  assert not (tmp_path / 'data').exists()


def test_a_clip_that_hangs_is_skipped_and_the_next_build_tries_it_again(folder, notes, tmp_path):
  (notes / 'd').write_text('hang')
  command = [folder, f'--manual_dir={notes}', f'--data_dir={tmp_path}/data', '--workers=2', '--clip_timeout=5']
  run(*command)
  path = tmp_path / 'data/notes/dark/1.0.0' / building.REPORT
  train = json.loads(path.read_text())['splits']['train']
  assert train['kept_clips'] == ['a', 'c', 'e']
  assert (
    train['skipped_clips']['d'] == 'took longer than --clip_timeout=5 s'
    and 'exit code 7' in train['skipped_clips']['b']
  )
  (notes / 'd').write_text('fine')
  run(*command, '--overwrite')
  assert json.loads(path.read_text())['splits']['train']['kept_clips'] == ['a', 'c', 'd', 'e']


def test_nothing_usable_leaves_no_dataset(folder, notes, tmp_path):
  for path in notes.iterdir():
    path.write_text('sad')
  with pytest.raises(UserError, match='none of 5 clips could be used; 5 of them: not fine'):
    run(folder, f'--manual_dir={notes}', f'--data_dir={tmp_path}/data', '--workers=0')
  assert not list((tmp_path / 'data').rglob('*array_record*'))


def test_beam_without_the_extra_says_how_to_get_it(folder, notes, tmp_path):
  if build._has_beam():
    pytest.skip('Apache Beam is installed')
  with pytest.raises(UserError, match=r'pip install "talkjax\[beam\]"'):
    run(folder, f'--manual_dir={notes}', f'--data_dir={tmp_path}', '--beam')


def test_a_beam_pipeline_makes_the_same_dataset(folder, notes, tmp_path):
  pytest.importorskip('apache_beam', reason='needs the beam extra')
  (notes / 'b').unlink()
  run(folder, f'--manual_dir={notes}', f'--data_dir={tmp_path}/pool', '--workers=0')
  run(folder, f'--manual_dir={notes}', f'--data_dir={tmp_path}/beam', '--beam',
      '--beam_pipeline_options=runner=DirectRunner')  # fmt: skip
  reports = [json.loads((tmp_path / n / 'notes/dark/1.0.0' / building.REPORT).read_text()) for n in ('pool', 'beam')]
  assert reports[0]['splits'] == reports[1]['splits']
  cls = build.load(folder)
  ids = [[e['id'] for e in cls(data_dir=tmp_path / n, config='dark').as_data_source('train')] for n in ('pool', 'beam')]
  assert sorted(ids[0]) == sorted(ids[1]) == [b'a', b'c', b'e']


@pytest.mark.parametrize('limit', [1000, 4000], ids=['a record', 'a shard'])
def test_a_full_disk_is_no_fault_of_the_clips(folder, notes, tmp_path, limit):
  (notes / 'b').write_text('fine')
  command = (folder, f'--manual_dir={notes}', f'--data_dir={tmp_path}/data', '--workers=0')
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  with pytest.raises(
    UserError, match=r'cannot write .*File too large.*free some disk space; the same command then res'
  ):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
      run(*command)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  names = [p.name for p in (tmp_path / 'data').rglob('*')]
  assert not any(name.startswith('incomplete') or name.endswith('.tmp') or 'array_record' in name for name in names)
  run(*command)
  report = json.loads((tmp_path / 'data/notes/dark/1.0.0' / building.REPORT).read_text())
  assert report['splits']['train']['kept_clips'] == ['a', 'b', 'c', 'e']

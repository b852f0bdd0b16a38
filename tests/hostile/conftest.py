"""What all hostile attempts share: workdirs of all systems, whole media of a puppet, and the account of outcomes."""

import pathlib

import pytest

from talkjax.training import checkpoint, input_pipeline
from tests import commands
from tests.hostile import media_files, workdirs
from tests.hostile.harness import Attempts


@pytest.fixture(scope='session')
def attempts(tmp_path_factory):
  """Makes all attempts of this process, and keeps account of them."""
  made = Attempts(tmp_path_factory.mktemp('hostile'))
  yield made
  made.close()


@pytest.fixture(scope='session')
def models(attempts, puppets, tmp_path_factory) -> dict[str, pathlib.Path]:
  """A workdir by system; they are not to be written to."""
  root = commands.make_once(tmp_path_factory, 'workdirs', lambda folder: workdirs.make(folder, puppets))
  attempts.watched.append(root)
  return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope='session')
def media(attempts, models) -> dict[str, pathlib.Path]:
  """Whole media of a puppet, by name."""
  config, params, _ = checkpoint.load_params(models['fd2talk'])
  record = next(input_pipeline.eval_records(config.data, 'test', 1))
  made = media_files.write_whole(attempts.inputs, record)
  made['motion.npz'] = media_files.write_motion(attempts.inputs, params, config)
  made['message.json'] = media_files.write_message(attempts.inputs, models['joint_av'])
  assert all(path.stat().st_size for path in made.values())
  return made

"""What all hostile attempts share: workdirs of all systems, whole media of a puppet, and the account of outcomes."""

import pathlib

import numpy as np
import pytest

from talkjax.training import checkpoint, input_pipeline
from tests.hostile import media_files, workdirs
from tests.hostile.harness import Attempts


@pytest.fixture(scope='session')
def attempts(tmp_path_factory):
  """The account of all attempts; its table goes to the file that TALKJAX_HOSTILE_TABLE names."""
  made = Attempts(tmp_path_factory.mktemp('hostile'))
  yield made
  made.close()
  print(f'\n{made.table()}')


@pytest.fixture(scope='session')
def models(attempts, puppets, tmp_path_factory) -> dict[str, pathlib.Path]:
  """A workdir by system; they are not to be written to."""
  root = tmp_path_factory.mktemp('workdirs')
  attempts.watched.append(root)
  return workdirs.make(root, puppets)


@pytest.fixture(scope='session')
def media(attempts, models) -> dict[str, pathlib.Path]:
  """Whole media of a puppet, by name."""
  config, params, _ = checkpoint.load_params(models['fd2talk'])
  record = next(input_pipeline.eval_records(config.data, 'test', 1))
  made = media_files.write_whole(attempts.inputs, record)
  made['motion.npz'] = media_files.write_motion(attempts.inputs, params, config)
  made['message.json'] = media_files.write_message(attempts.inputs, models['joint_av'])
  assert all(np.array(path.stat().st_size) for path in made.values())
  return made

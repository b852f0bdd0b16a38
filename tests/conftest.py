"""Where tests find real clips and golden cases, and what every test process sets up."""

import gc
import os
import pathlib
import shutil
import sys
import tempfile

import pytest
from absl import flags

# Many tests run the same small programs in processes of their own: each is compiled once a session.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', tempfile.mkdtemp(prefix='talkjax_tests_'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
# Some tests compare what this process computes with what others do, which `commands.run` starts on the CPU.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Tests spend most of their time compiling: the same arithmetic with fewer optimisations, which halves that time.
QUICK = (
  '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false '
  '--xla_cpu_parallel_codegen_split_count=1'  # parts of a program that are compiled at the same time, for idle cores
)
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {QUICK}'

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that tests can import configs and data, which are not installed

from tests import commands  # noqa: E402

if not flags.FLAGS.is_parsed():
  flags.FLAGS(['pytest'])  # grain's workers read absl flags


def pytest_collection_finish():
  """What was imported, and what JAX traces, lives to the end: collecting garbage among it would find none."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(50_000, 20, 20)


def _folder(variable: str, default: str) -> pathlib.Path:
  path = pathlib.Path(os.environ.get(variable, ROOT.parent / 'shared' / default))
  if not path.is_dir():
    pytest.skip(f'{variable}: no folder {path}')
  return path


@pytest.fixture(scope='session')
def samples() -> pathlib.Path:
  """The folder of real clips (TALKJAX_SAMPLES)."""
  return _folder('TALKJAX_SAMPLES', 'samples')


@pytest.fixture(scope='session')
def puppets(tmp_path_factory) -> pathlib.Path:
  """A data_dir with the tiny puppets corpus: a copy of this process, built by the first process that needs one."""
  built = commands.make_once(tmp_path_factory, 'built', commands.build_puppets)
  return shutil.copytree(built, tmp_path_factory.mktemp('datasets') / 'corpora')


@pytest.fixture(scope='session')
def micro(puppets) -> tuple[str, ...]:
  """The arguments of `commands.MICRO`, on the tiny puppets corpus."""
  return (*commands.MICRO, f'--config.data.dir={puppets}')


@pytest.fixture(scope='session')
def micro_workdir(micro, tmp_path_factory) -> pathlib.Path:
  """The workdir of a run of `micro` to its end; it is not to be written to."""
  folder = tmp_path_factory.mktemp('runs') / 'micro'
  commands.call('talkjax.train', *micro, f'--workdir={folder}')
  return folder


@pytest.fixture(scope='session')
def goldens() -> pathlib.Path:
  """The folder of golden cases (TALKJAX_GOLDENS)."""
  return _folder('TALKJAX_GOLDENS', 'goldens')

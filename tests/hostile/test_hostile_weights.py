"""Hostile files of weights, each read in a process of its own, and generated streams of opcodes."""

import json
import pathlib
import subprocess
import sys

import pytest
import read_apart

from tests.hostile.harness import Outcome, processor_seconds
from tests.weights import test_hostile

pytestmark = pytest.mark.large
FILES, STREAMS = 'weight files', 'generated opcode streams and mutated weights'
PIECES = (
  *(test_hostile.WHOLE, test_hostile.ARRAY, test_hostile.storage(), test_hostile.FLOAT32, test_hostile.EMPTY_ARRAY),
  *(b']', b'}', b')', b'\x8f', b'N', b'K\x07'),
)
ENDS = (
  *(b'', b'\x85', b'a', b's', b'b', b'R', b'Q', b'0', b'q\x00h\x00', b'2a', b'\x90'),
  *(b'(' + test_hostile.number(1 << 62) + b'e', test_hostile.filled(1 << 20)),
)


def test_files(attempts, tmp_path):
  """Every piece of a pickle that is wrong in every way, as files; and those of the samples."""
  paths = []
  for i, piece in enumerate(PIECES):
    for j, end in enumerate(ENDS):
      paths.append(tmp_path / f'{i}_{j}.pth')
      test_hostile.zipped(paths[-1], piece + end)
  before = processor_seconds()
  outcomes = read_apart.outcomes(paths)
  each = (processor_seconds() - before) / len(paths)
  for name, said in outcomes.items():
    refused = said.startswith('refused: ') and '\n' not in said and len(said) < 1500
    bad = not refused and said != 'read'
    attempts.count(FILES, Outcome(1 if refused else 0, err=said, seconds=each), bad, name)
    if bad:
      attempts.problems.append(f'{name}: {said}')
  attempts.check(FILES, 60)


def test_commands(attempts, models, media, tmp_path):
  """The commands that read such files."""
  folder = attempts.inputs / 'weights'
  folder.mkdir()
  for i, piece in enumerate(PIECES):
    path = folder / f'{i}.pth'
    test_hostile.zipped(path, piece + ENDS[i % len(ENDS)])
    source = ('sd_vae', 'diffusion_video_editing', 'wav2vec2', 'inception')[i % 4]
    attempts.make(FILES, 'convert', f'--source={source}', f'--path={path}', '--output={out}/run', works=False)
    inputs = (
      f'--image={media["portrait.png"]}',
      f'--audio={media["sound.wav"]}',
      f'--kps={path}',
      '--output={out}/a.mp4',
    )
    attempts.make(FILES, 'generate', f'--workdir={models["vexpress"]}', *inputs, works=False)
  attempts.check(FILES, 60)


@pytest.mark.parametrize(('kind', 'examples'), [('pickles', 2000), ('mutations', 500)])
def test_streams(attempts, kind, examples):
  """`pickles` makes two files of each stream: a zip archive, and a file in the legacy format."""
  before = processor_seconds()
  script = pathlib.Path(__file__).parent.parent / 'weights' / 'fuzz.py'
  done = subprocess.run([sys.executable, script, kind, str(examples)], check=False, capture_output=True, text=True)
  assert done.returncode == 0, f'{done.returncode}: {done.stdout[-1000:]}{done.stderr[-6000:]}'
  seen = json.loads(done.stdout)
  seconds = processor_seconds() - before
  for what, outcome in (('read', Outcome(0, seconds=seconds)), ('refused', Outcome(1))):
    attempts.count(STREAMS, outcome, command=f'{what}: {kind}', times=seen[what])
  attempts.check(STREAMS, examples)
